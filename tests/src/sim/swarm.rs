//! Swarm testing: which faults there are at all, how often, and on how many nodes is itself drawn from the seed.

use std::rc::Rc;
use std::time::Duration;

use safekit::engine::farm::Rules;
use safekit::types::{Change, NodeId, Timing};

use super::faults::Fault;
use super::naive::Naive;
use super::net::Weather;
use super::node::Common;
use super::world::World;
use super::{GROUP, MS, Nanos, nanos};

pub const NODES_MAX: usize = 9;

/// Draws and plays runs; keeps what does not change between them.
pub struct Swarm {
    rules: Rules,
    trace: bool,
    naive: Vec<Rc<Naive>>,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub steps: u64,
    pub violation: Option<String>,
}

/// Virtual time with faults, where silence counts after 200 ms; longer where it counts later.
const TROUBLE: Nanos = 1800 * MS;

impl Swarm {
    pub fn new(rules: Rules, trace: bool) -> Self {
        let naive = (0..=NODES_MAX).map(|nodes| Rc::new(Naive::new(&Common::of(nodes).names))).collect();
        Self { rules, trace, naive }
    }

    pub fn play(&self, seed: u64) -> Outcome {
        let mut draw = fastrand::Rng::with_seed(seed);
        let nodes = draw.usize(2..=NODES_MAX);
        let timing = match draw.u8(0..10) {
            0 => Timing::FAST,
            1 => Timing::TOLERANT,
            _ => Timing::DEFAULT,
        };
        let slow = if timing == Timing::TOLERANT { 4 } else { 1 };
        let hold = Duration::from_millis(600) * slow;
        let mut common = Common { timing, rules: self.rules, hold, ..Common::of(nodes) };
        if draw.u8(0..8) == 0 && nodes > 2 {
            common.weights[draw.usize(0..nodes)] = 0;
        }
        let networks = 1 + usize::from(draw.u8(0..4) == 0);
        let naive = Rc::clone(&self.naive[nodes]);
        let mut world = World::with_naive(draw.u64(..), networks, common, naive).with_clients();
        world.trace = self.trace;
        world.net.weather = weather(&mut draw);
        if world.trace {
            println!("seed {seed}: {nodes} nodes, {networks} networks, {timing:?}, {:?}", world.net.weather);
        }
        for node in 0..nodes {
            // Together, or one after the other.
            let late = if draw.bool() { draw.u64(0..20 * MS) } else { draw.u64(0..600 * MS) };
            world.fault_after(late, Fault::Start { node });
        }
        let plan = Plan { networks, slow: slow.into() };
        arrange(&mut world, &mut draw, plan);
        world.run_for(TROUBLE * plan.slow);
        world.net.heal();
        for node in 0..nodes {
            world.suffer(Fault::Start { node });
        }
        world.run_for(2 * nanos(timing.timeout));
        if world.violation.is_none() {
            world.check_converged();
        }
        Outcome { seed, steps: world.steps, violation: world.violation }
    }
}

fn weather(draw: &mut fastrand::Rng) -> Weather {
    let mut maybe = |odds: u8, value: f64| if draw.u8(0..odds) == 0 { value * draw.f64() } else { 0.0 };
    Weather { loss: maybe(2, 0.25), duplicate: maybe(3, 0.2), spike: maybe(2, 0.02), replay: maybe(2, 0.2) }
}

/// The faults of one run: kinds that this seed has, at moments that this seed draws, all over before the quiet.
fn arrange(world: &mut World, draw: &mut fastrand::Rng, plan: Plan) {
    let trouble = TROUBLE * plan.slow;
    let kinds: Vec<u8> = (0..KINDS).filter(|_| draw.u8(0..3) == 0).collect();
    let mean = draw.u64(60..500) * MS * plan.slow;
    let mut at = draw.u64(0..500) * MS;
    while !kinds.is_empty() && at < trouble {
        let kind = kinds[draw.usize(0..kinds.len())];
        let left = trouble - at;
        add(world, draw, Drawn { kind, at, left, plan });
        at += draw.u64(0..2 * mean);
    }
}

const KINDS: u8 = 13;

#[derive(Clone, Copy)]
struct Plan {
    networks: usize,
    /// Everything takes so much longer.
    slow: u64,
}

#[derive(Clone, Copy)]
struct Drawn {
    kind: u8,
    at: Nanos,
    left: Nanos,
    plan: Plan,
}

fn add(world: &mut World, draw: &mut fastrand::Rng, drawn: Drawn) {
    let Drawn { kind, at, left, plan: Plan { networks, slow } } = drawn;
    let nodes = world.nodes.len();
    let node = draw.usize(0..nodes);
    let other = (node + draw.usize(1..nodes)) % nodes;
    let network = (draw.bool()).then(|| draw.usize(0..networks));
    let short = draw.u64(10..800) * MS * slow;
    let span = short.min(left);
    let back = (at + draw.u64(1..900) * MS * slow).min(at + left);
    match kind {
        0 => world.fault_after(at, Fault::Pause { node, span }),
        1 => {
            world.fault_after(at, Fault::Crash { node, obituary: draw.bool() });
            world.fault_after(back, Fault::Start { node });
        }
        2 => {
            world.fault_after(at, Fault::PowerOff { node });
            world.fault_after(back, Fault::Start { node });
        }
        3 if left > 400 * MS => {
            let drain = if draw.bool() { 0 } else { draw.u64(0..300) * MS };
            world.fault_after(at, Fault::Leave { node, drain });
            world.fault_after(back, Fault::Start { node });
        }
        4 => world.fault_after(at, Fault::Cut { from: node, to: other, network, span }),
        5 => {
            world.fault_after(at, Fault::Cut { from: node, to: other, network: None, span });
            world.fault_after(at, Fault::Cut { from: other, to: node, network: None, span });
        }
        6 => world.fault_after(at, Fault::Split { side: draw.u16(..), span }),
        7 => world.fault_after(at, Fault::Deafen { node, network, span }),
        8 => world.fault_after(at, Fault::Mute { node, network, span }),
        9 => world.fault_after(at, Fault::Unplug { node, span: span.saturating_sub(MS) }),
        10 => world.fault_after(at, Fault::Pause { node, span: (draw.u64(80..260) * MS * slow).min(left) }),
        11 => {
            let change = change(draw, other);
            world.fault_after(at, Fault::Ask { node, change });
        }
        12 => {
            // Two operators at once, on two nodes.
            let (first, second) = (change(draw, other), change(draw, node));
            world.fault_after(at, Fault::Ask { node, change: first });
            world.fault_after(at + draw.u64(0..3 * MS), Fault::Ask { node: other, change: second });
            if draw.u8(0..4) == 0 {
                world.fault_after(at, Fault::Forget { node });
            }
        }
        3 => {}
        other => unreachable!("kind {other} of {KINDS}"),
    }
}

fn change(draw: &mut fastrand::Rng, node: usize) -> Change {
    let node = NodeId(node as u8);
    match draw.u8(0..8) {
        5 => Change::Health { group: GROUP, node, percent: 0 },
        6 => Change::Health { group: GROUP, node, percent: 100 },
        7 => Change::Health { group: GROUP, node, percent: draw.u8(1..100) },
        0 => Change::Drain { node },
        1 => Change::Undrain { node },
        2 => Change::Weight { group: GROUP, node, weight: None },
        _ => Change::Weight { group: GROUP, node, weight: Some(draw.u32(0..5)) },
    }
}
