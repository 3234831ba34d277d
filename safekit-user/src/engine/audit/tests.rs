//! Small farms with everything that real ones have: windows that end apart, lost pages, moves, restarts, bursts.

use super::*;
use crate::types::Bucket;

const STEP_MS: u64 = 25;
const GROUP: GroupId = GroupId(3);

struct Node {
    audit: Audit,
    counts: Box<Counts>,
    /// The last page it sent; peers hear it a step later, or not at all.
    page: Option<AuditPage>,
    /// Applies a change of owners so many steps late.
    lag: u64,
}

struct Farm {
    nodes: Vec<Node>,
    random: u64,
    step: u64,
    /// Steps at which owners change.
    moves: Vec<u64>,
    /// This node accepts this bucket too.
    tampered: Option<(usize, u16)>,
    /// This bucket is accepted by nobody.
    orphan: Option<u16>,
}

fn cells(bucket: u16) -> [usize; 2] {
    [usize::from(bucket >> 6), HALF + usize::from(bucket & 0x3ff)]
}

fn audit(me: u8, nodes: usize) -> Audit {
    let all = (0..nodes as u8).map(NodeId).collect();
    let timing = Timing { interval: Duration::from_millis(STEP_MS), ..Timing::DEFAULT };
    Audit::new(NodeId(me), vec![Audited { group: GROUP, nodes: all }], &timing).expect("a group")
}

impl Farm {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut farm = Self {
            nodes: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            step: 0,
            moves: Vec::new(),
            tampered: None,
            orphan: None,
        };
        for me in 0..nodes {
            let lag = farm.random(3);
            let counts = Box::new([[0; 2]; CELLS]);
            farm.nodes.push(Node { audit: audit(me as u8, nodes), counts, page: None, lag });
        }
        farm
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn members(&self) -> NodeSet {
        (0..self.nodes.len() as u8).map(NodeId).collect()
    }

    fn accepts(&self, node: usize, bucket: u16) -> bool {
        let moved = self.moves.iter().filter(|at| **at + self.nodes[node].lag <= self.step).count() as u64;
        let owner =
            (u64::from(bucket).wrapping_mul(40_503) >> 4).wrapping_add(moved) % self.nodes.len() as u64;
        (owner == node as u64 && self.orphan != Some(bucket)) || self.tampered == Some((node, bucket))
    }

    /// `syns` to buckets from `pick`; one node in a thousand misses one.
    fn traffic(&mut self, syns: u64, mut pick: impl FnMut(&mut Self) -> u16) {
        for _ in 0..syns {
            let bucket = pick(self);
            for node in 0..self.nodes.len() {
                if self.random(1000) == 0 {
                    continue;
                }
                let passed = u32::from(self.accepts(node, bucket));
                for cell in cells(bucket) {
                    let count = &mut self.nodes[node].counts[cell];
                    *count = [count[0].wrapping_add(1), count[1].wrapping_add(passed)];
                }
            }
        }
    }

    fn step(&mut self, loss_percent: u64) {
        self.step += 1;
        let now = Instant(self.step * STEP_MS * 1_000_000);
        let members = self.members();
        let pages: Vec<Option<AuditPage>> = self.nodes.iter_mut().map(|node| node.page.take()).collect();
        for me in 0..self.nodes.len() {
            if self.moves.iter().any(|at| *at + self.nodes[me].lag == self.step) {
                self.nodes[me].audit.note_moved(GROUP);
            }
            for (peer, page) in pages.iter().enumerate() {
                let lost = self.random(100) < loss_percent;
                if let Some(page) = page.as_ref().filter(|_| peer != me && !lost) {
                    self.nodes[me].audit.hear(NodeId(peer as u8), page);
                    if peer == 0 {
                        self.turn(me, members, Some(page), now);
                    }
                }
            }
            self.turn(me, members, None, now);
            self.nodes[me].page = self.nodes[me].audit.page();
        }
    }

    fn turn(&mut self, me: usize, members: NodeSet, leader: Option<&AuditPage>, now: Instant) {
        let Node { audit, counts, .. } = &mut self.nodes[me];
        if let Some(turnover) = audit.turnover(members, leader, now) {
            audit.turn(turnover, counts, counts, now);
        }
    }

    fn findings(&self) -> Vec<Vec<Finding>> {
        self.nodes.iter().map(|node| node.audit.findings()).collect()
    }

    fn run(&mut self, seconds: u64, mut each: impl FnMut(&mut Self)) {
        for _ in 0..seconds * 1000 / STEP_MS {
            each(self);
            self.step(10);
        }
    }
}

fn anywhere(farm: &mut Farm) -> u16 {
    farm.random(65_536) as u16
}

#[test]
fn a_bucket_of_two_nodes_is_named_on_every_node() {
    let mut farm = Farm::new(1, 3);
    let bucket = 0x5a5a;
    let stranger = (0..3).find(|node| !farm.accepts(*node, bucket)).expect("two do not own it");
    let owner = (0..3).find(|node| farm.accepts(*node, bucket)).expect("one does");
    farm.tampered = Some((stranger, bucket));
    let busy = |farm: &mut Farm| {
        farm.traffic(4, anywhere);
        farm.traffic(1, |_| bucket);
    };
    farm.run(45, busy);
    for found in farm.findings() {
        let [finding] = found.as_slice() else { panic!("one finding: {found:?}") };
        assert_eq!((finding.kind, finding.place), (Kind::Double, Place::Bucket(Bucket(bucket))));
        let both = NodeSet::of(NodeId(owner as u8)).with(NodeId(stranger as u8));
        assert_eq!(finding.nodes, both);
    }
    farm.tampered = None;
    farm.run(70, busy);
    assert_eq!(farm.findings(), vec![vec![]; 3], "it is over");
}

#[test]
fn a_bucket_of_nobody_is_named() {
    let mut farm = Farm::new(2, 2);
    farm.orphan = Some(7);
    farm.run(45, |farm| {
        farm.traffic(4, anywhere);
        farm.traffic(1, |_| 7);
    });
    for found in farm.findings() {
        let [finding] = found.as_slice() else { panic!("one finding: {found:?}") };
        assert_eq!((finding.kind, finding.place), (Kind::Unserved, Place::Bucket(Bucket(7))));
        assert_eq!(finding.nodes, NodeSet::EMPTY);
    }
}

/// A whole table that is wrong shows in every cell: no bucket is singled out, and the list stays short.
#[test]
fn many_buckets_are_named_by_their_runs() {
    let mut farm = Farm::new(3, 2);
    farm.run(45, |farm| {
        for bucket in [0x1000, 0x1001, 0x1002] {
            let stranger = usize::from(farm.accepts(0, bucket));
            farm.tampered = Some((stranger, bucket));
            farm.traffic(1, |_| bucket);
        }
    });
    let found = &farm.findings()[0];
    assert!(found.iter().all(|finding| finding.place == Place::Run(Bucket(0x1000))), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn moves_bursts_losses_and_restarts_raise_nothing() {
    for seed in 0..40 {
        let nodes = 2 + (seed % 4) as usize;
        let mut farm = Farm::new(seed, nodes);
        let mut compared = 0;
        farm.run(90, |farm| {
            farm.traffic(3, anywhere);
            match farm.random(400) {
                0 => {
                    let hot = anywhere(farm);
                    farm.traffic(60, |_| hot);
                }
                1 if farm.step % 4 == 0 => farm.moves.push(farm.step + 1),
                2 if farm.step > 1200 && farm.step % 3 == 0 => {
                    let restarted = farm.random(nodes as u64) as usize;
                    farm.nodes[restarted].audit = audit(restarted as u8, nodes);
                    *farm.nodes[restarted].counts = [[0; 2]; CELLS];
                }
                _ => {}
            }
            compared += farm
                .nodes
                .iter()
                .filter(|it| it.audit.told.as_ref().is_some_and(|told| told.compared))
                .count();
        });
        assert_eq!(farm.findings(), vec![vec![]; nodes], "seed {seed}");
        assert!(compared > 0, "seed {seed}: nothing was compared at all");
    }
}

#[test]
fn pages_of_strangers_and_broken_pages_change_nothing() {
    let mut farm = Farm::new(5, 2);
    farm.run(11, |farm| farm.traffic(1, anywhere));
    let audit = &mut farm.nodes[0].audit;
    let epoch = audit.told.as_ref().expect("a window has closed").epoch;
    let page =
        |first, cells| AuditPage { epoch, group: GROUP, first, seen: vec![9; cells], passed: vec![9; cells] };
    let before = format!("{:?}", audit.told.as_ref().map(|told| &told.heard));
    for (node, page) in [
        (1, page(3, PAGE_CELLS)),
        (1, page(CELLS as u16, PAGE_CELLS)),
        (1, page(u16::MAX, PAGE_CELLS)),
        (1, page(0, PAGE_CELLS - 1)),
        (1, AuditPage { group: GroupId(9), ..page(0, PAGE_CELLS) }),
        (1, AuditPage { epoch: epoch + 7, ..page(0, PAGE_CELLS) }),
        (9, page(0, PAGE_CELLS)),
    ] {
        audit.hear(NodeId(node), &page);
    }
    assert_eq!(format!("{:?}", audit.told.as_ref().map(|told| &told.heard)), before);
}
