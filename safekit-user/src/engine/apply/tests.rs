//! Clusters on a virtual clock, with a network that loses and delays and nodes that die between any two outputs.

use std::collections::BTreeSet;

use super::*;

const NODES: usize = 3;
const SEEDS: u64 = 10_000;
const CHAOS: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// xorshift64*: seeds replay.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Default)]
struct Node {
    /// None: it is down.
    engine: Option<Apply>,
    disk: Stored,
}

struct World {
    dice: Dice,
    now: Instant,
    nodes: Vec<Node>,
    under_way: Vec<(Instant, NodeId, NodeId, Message)>,
    chaos: bool,
    attempts: u64,
    ever_committed: BTreeSet<ConfigVersion>,
    conclusions: Vec<(NodeId, Conclusion)>,
    /// Version that each node proposes now; none when it waits for nothing.
    refused: Vec<ConfigVersion>,
    proposing: Vec<Option<ConfigVersion>>,
}

fn names() -> Vec<String> {
    (1..=NODES).map(|node| format!("web{node}")).collect()
}

/// `bad2` is what node 2 cannot run.
fn verdict(node: usize, text: &str) -> Result<Effect, String> {
    if text.starts_with(&format!("bad{node}")) { Err("not here".to_owned()) } else { Ok(Effect::default()) }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Instant(1_000_000_000),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            under_way: Vec::new(),
            chaos: true,
            attempts: 0,
            ever_committed: BTreeSet::new(),
            conclusions: Vec::new(),
            refused: Vec::new(),
            proposing: vec![None; NODES],
        };
        (0..NODES).for_each(|node| world.start(node));
        world
    }

    fn start(&mut self, node: usize) {
        let stored = self.nodes[node].disk.clone();
        self.nodes[node].engine = Some(Apply::new(NodeId(node as u8), names(), stored, self.now));
    }

    fn give(&mut self, node: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(engine) = self.nodes[node].engine.as_mut() else { return };
            engine.handle(input, self.now);
            while let Some(output) = self.nodes[node].engine.as_mut().and_then(Apply::poll_output) {
                if self.chaos && self.dice.one_in(150) {
                    // Between any two outputs, and what is not on the disk is gone.
                    self.nodes[node].engine = None;
                    self.proposing[node] = None;
                    return;
                }
                self.carry_out(node, output, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, node: usize, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Check(proposal, _) => {
                let verdict = verdict(node, &proposal.text);
                inputs.push_back(Input::Checked { version: proposal.version, verdict });
            }
            Output::Keep(prepared) => self.nodes[node].disk.prepared = prepared,
            Output::Commit(proposal) => {
                assert!(verdict(node, &proposal.text).is_ok(), "it was checked: {proposal:?}");
                assert!(!self.refused.contains(&proposal.version), "refused, and in force: {proposal:?}");
                self.ever_committed.insert(proposal.version.clone());
                self.nodes[node].disk.committed = proposal;
            }
            Output::Send { to, message } => {
                let delay = Duration::from_millis(1 + self.dice.roll(if self.chaos { 1500 } else { 5 }));
                if !(self.chaos && self.dice.one_in(6)) {
                    self.under_way.push((self.now + delay, NodeId(node as u8), to, message));
                }
            }
            Output::Concluded(conclusion) => self.conclude(node, conclusion),
        }
    }

    fn conclude(&mut self, node: usize, conclusion: Conclusion) {
        let proposed = self.proposing[node].take();
        match &conclusion {
            Conclusion::Refused(_) => self.refused.extend(proposed),
            Conclusion::Applied { version, missing } => {
                assert!(self.ever_committed.contains(version));
                for there in 0..NODES {
                    let behind = self.nodes[there].disk.committed.version < *version;
                    assert!(!behind || missing.contains(NodeId(there as u8)), "{there} is missing, untold");
                }
            }
            Conclusion::Possible(_) => {}
        }
        self.conclusions.push((NodeId(node as u8), conclusion));
    }

    fn propose(&mut self, node: usize, text: &str, dry_run: bool) {
        let Some(engine) = &self.nodes[node].engine else { return };
        if engine.busy().is_some() {
            return;
        }
        let number = engine.seen + 1;
        self.attempts += 1;
        let attempt = self.attempts;
        if !dry_run {
            self.proposing[node] = Some(ConfigVersion { number, by: names()[node].clone(), attempt });
        }
        let (text, user) = (format!("{text} {attempt}"), "anna".to_owned());
        self.give(node, Input::Propose { text, user, at: 0, attempt, dry_run });
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        let now = self.now;
        let due = self.under_way.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
        for (_, from, to, message) in due {
            self.give(usize::from(to.0), Input::From { node: from, message });
        }
        for node in 0..NODES {
            let due = self.nodes[node].engine.as_ref().and_then(Apply::next_deadline);
            if due.is_some_and(|due| due <= now) {
                self.give(node, Input::Timer);
            }
            if self.nodes[node].engine.is_none() && (!self.chaos || self.dice.one_in(100)) {
                self.start(node);
            }
        }
        if self.now.0 / 1_000_000 % 1000 < 20 {
            self.tell_versions();
        }
    }

    /// The news of each second, which the chaos loses as well.
    fn tell_versions(&mut self) {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                let Some(engine) = &self.nodes[from].engine else { continue };
                let version = engine.committed().version.clone();
                if !(self.chaos && self.dice.one_in(2)) {
                    self.give(to, Input::Heard { node: NodeId(from as u8), version });
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            if self.chaos && self.dice.one_in(60) {
                let node = self.dice.roll(NODES as u64) as usize;
                let text = match self.dice.roll(4) {
                    0 => format!("bad{}", self.dice.roll(NODES as u64)),
                    _ => "good".to_owned(),
                };
                let dry_run = self.dice.one_in(5);
                self.propose(node, &text, dry_run);
            }
            self.step();
        }
    }

    fn calm(&mut self) {
        self.chaos = false;
        self.run(CALM);
    }

    /// All have the same, nobody is in doubt, and nothing is going on.
    fn assert_agreed(&self, seed: u64) {
        let first = self.nodes[0].engine.as_ref().expect("all are up").committed();
        for node in &self.nodes {
            let engine = node.engine.as_ref().expect("all are up");
            assert_eq!(engine.committed(), first, "seed {seed}");
            assert_eq!((&node.disk.committed, &node.disk.prepared), (first, &None), "seed {seed}");
            assert!(engine.busy().is_none(), "seed {seed}: {:?}", engine.busy());
        }
    }
}

#[test]
fn whatever_happens_all_agree_once_they_are_up_and_connected() {
    let (mut applied, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run(CHAOS);
        world.calm();
        world.assert_agreed(seed);
        for (_, conclusion) in &world.conclusions {
            match conclusion {
                Conclusion::Applied { .. } => applied += 1,
                Conclusion::Refused(_) => refused += 1,
                Conclusion::Possible(_) => {}
            }
        }
    }
    // A world in which nothing ever happens would prove nothing.
    assert!(applied > SEEDS / 4 && refused > SEEDS / 4, "{applied} applied, {refused} refused");
}

#[test]
fn a_good_one_is_everywhere_and_a_bad_one_nowhere() {
    let mut world = World::new(1);
    world.calm();
    world.propose(0, "good", true);
    world.calm();
    assert!(matches!(&world.conclusions[..], [(_, Conclusion::Possible(effects))] if effects.len() == NODES));
    assert!(world.ever_committed.is_empty(), "a question changes nothing");
    world.propose(0, "good", false);
    world.calm();
    let (_, applied) = world.conclusions.last().expect("it has ended");
    assert!(matches!(applied, Conclusion::Applied { missing, .. } if missing.is_empty()), "{applied:?}");
    world.assert_agreed(1);
    world.propose(1, "bad2", false);
    world.calm();
    let (_, refused) = world.conclusions.last().expect("it has ended");
    assert_eq!(*refused, Conclusion::Refused(vec![(NodeId(2), "not here".to_owned())]));
    assert_eq!(world.ever_committed.len(), 1);
    world.assert_agreed(1);
}

#[test]
fn a_node_that_is_down_is_named_and_nothing_changes() {
    let mut world = World::new(2);
    world.chaos = false;
    let engine = world.nodes[2].engine.take();
    world.propose(0, "good", false);
    let end = world.now + VOTE_TIMEOUT + STEP;
    while world.now < end {
        // It stays down.
        world.step();
        world.nodes[2].engine = None;
    }
    drop(engine);
    let (_, refused) = world.conclusions.last().expect("it has ended");
    assert_eq!(*refused, Conclusion::Refused(vec![(NodeId(2), "no answer".to_owned())]));
    world.calm();
    world.assert_agreed(2);
    assert!(world.ever_committed.is_empty());
}
