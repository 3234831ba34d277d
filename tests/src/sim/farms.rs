//! Large farms: what a kill costs, and what heartbeats cost, against the number of nodes.

use std::time::Duration;

use safekit::wire::seal::OVERHEAD_BYTES;

use super::faults::Fault;
use super::node::Common;
use super::world::World;
use super::{MS, Nanos};

pub const SIZES: [usize; 5] = [8, 16, 32, 64, 128];

/// UDP over IPv6 in one Ethernet frame.
pub const FRAME_BYTES_MAX: usize = 1500 - 40 - 8;

#[derive(Clone, Copy, Debug)]
pub struct Farm {
    pub nodes: usize,
    /// From the power-off of one node until each bucket is accepted again.
    pub converged_ms: f64,
    /// Heartbeats a second that a node makes in quiet times.
    pub beats: f64,
    /// Mean and largest in quiet times, and the largest of the whole run, sealed.
    pub bytes: f64,
    pub bytes_quiet_max: usize,
    pub bytes_max: usize,
    /// Of the engine, for each input in quiet times.
    pub step: Duration,
    /// Inputs a second to one engine in quiet times.
    pub steps: f64,
}

/// What heartbeats of a run weigh.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weighed {
    pub beats: u64,
    pub bytes: u64,
    pub max: usize,
}

impl Weighed {
    pub fn add(&mut self, body: usize) {
        self.beats += 1;
        self.bytes += (body + OVERHEAD_BYTES) as u64;
        self.max = self.max.max(body + OVERHEAD_BYTES);
    }
}

const QUIET: Nanos = 250 * MS;

pub fn measure(nodes: usize, seed: u64) -> Farm {
    let mut world = World::new(seed, 1, Common::of(nodes));
    world.weighed = Some(Weighed::default());
    (0..nodes).for_each(|node| world.start(node));
    world.run_for(1000 * MS);
    let joined = world.weighed.replace(Weighed::default()).unwrap_or_default();
    world.nodes[0].spent = Some((Duration::ZERO, 0));
    world.run_for(QUIET);
    let quiet = world.weighed.unwrap_or_default();
    let (spent, steps) = world.nodes[0].spent.take().unwrap_or_default();

    let victim = nodes - 1;
    world.suffer(Fault::PowerOff { node: victim });
    let (killed, limit) = (world.now, world.now + 2000 * MS);
    let mut converged = killed;
    while world.now < limit && (converged == killed || world.now < killed + 400 * MS) {
        world.run_for(MS / 2);
        if world.ownership().0 == 0 && converged == killed && world.now > killed + MS {
            converged = world.now;
        }
    }
    assert!(converged > killed, "{nodes} nodes do not serve two seconds after one of them died");
    assert_eq!(world.violation, None, "{nodes} nodes, seed {seed}");
    let seconds = QUIET as f64 / 1e9;
    Farm {
        nodes,
        converged_ms: (converged - killed) as f64 / MS as f64,
        beats: quiet.beats as f64 / nodes as f64 / seconds,
        bytes: quiet.bytes as f64 / quiet.beats as f64,
        bytes_quiet_max: quiet.max,
        bytes_max: joined.max.max(world.weighed.unwrap_or_default().max),
        step: spent / steps.max(1),
        steps: f64::from(steps) / seconds,
    }
}
