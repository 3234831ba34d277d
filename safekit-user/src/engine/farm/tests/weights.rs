//! Stories of weights, drains and damping.

use super::*;
use crate::types::snapshot::DrainInfo;

const ALL: u32 = BUCKETS as u32;

fn weight(node: u8, weight: u32) -> Change {
    Change::Weight { group: GROUP, node: NodeId(node), weight: Some(weight) }
}

fn drain(node: u8) -> Change {
    Change::Drain { node: NodeId(node) }
}

fn undrain(node: u8) -> Change {
    Change::Undrain { node: NodeId(node) }
}

impl Farm {
    fn asked(&mut self, node: u8, changes: &[Change]) -> &mut Self {
        self.input(node, Input::Change(changes.to_vec()));
        self
    }

    fn counters(&self) -> Vec<u32> {
        self.engines.iter().flatten().map(|engine| engine.generation().counter).collect()
    }

    fn restart(&mut self, node: u8, boot: u8, generation: Generation) {
        let nodes = self.engines.len();
        let setup = Setup { generation, ..setup(node, nodes, boot) };
        self.engines[usize::from(node)] = Some(Engine::new(setup, self.now));
    }

    fn owns_nothing_twice(&mut self) {
        let mut tables = Vec::new();
        for node in 0..self.engines.len() as u8 {
            if self.owned(node) > 0 {
                tables.push(self.engine(node).table(GROUP));
            }
        }
        for bucket in (0..BUCKETS as u16).map(Bucket) {
            let owners = tables.iter().filter(|table| table.mine.contains(bucket)).count();
            assert!(owners <= 1, "{bucket:?} is owned {owners} times");
        }
    }
}

#[test]
fn any_node_may_be_asked_for_weights_and_all_follow() {
    let mut farm = Farm::running(3);
    let plan = farm.engine(1).preview(&[weight(2, 0)]).expect("one change fits");
    let moved: u32 = plan.iter().map(|moved| moved.buckets).sum();
    assert_eq!(moved as usize, farm.owned(2));
    assert!(plan.iter().all(|moved| moved.from == Some(NodeId(2)) && moved.to != Some(NodeId(2))));

    farm.asked(2, &[weight(2, 0), weight(0, 3)]);
    assert!(farm.engine(2).pending_change().is_some());
    for _ in 0..20 {
        farm.advance(1).owns_nothing_twice();
    }
    farm.assert_shared_out(&[0, 1, 2]);
    let shares: Vec<usize> = (0..3).map(|node| farm.owned(node)).collect();
    assert!(shares[0] > BUCKETS / 2 && shares[2] == 0, "{shares:?}");
    for node in 0..3 {
        assert_eq!(farm.engine(node).pending_change(), None);
        assert_eq!(farm.engine(node).weights(GROUP), [3, 1, 0]);
        let persisted = farm.log.iter().filter(|(by, output)| {
            *by == node && matches!(output, Output::Generation(generation) if generation.counter == 1)
        });
        assert_eq!(persisted.count(), 1, "node {node} hands it to its driver once");
    }
    farm.asked(1, &[Change::Weight { group: GROUP, node: NodeId(2), weight: None }]).advance(20);
    assert_eq!(farm.engine(0).weights(GROUP), [3, 1, 1]);
    assert_eq!(farm.counters(), [2, 2, 2]);
}

#[test]
fn what_is_already_so_and_what_does_not_exist_changes_nothing() {
    let mut farm = Farm::running(2);
    let unknown = Change::Weight { group: GroupId(77), node: NodeId(0), weight: Some(3) };
    farm.asked(0, &[undrain(1), drain(9), unknown]).advance(50);
    assert_eq!(farm.counters(), [0, 0]);
    assert_eq!(farm.engine(0).pending_change(), None);
}

#[test]
fn two_who_ask_for_opposites_come_to_an_end() {
    let mut farm = Farm::running(3);
    farm.cut = vec![(1, 0), (0, 1), (2, 0), (0, 2), (1, 2), (2, 1)];
    farm.asked(1, &[drain(0)]).asked(2, &[undrain(0), weight(1, 2)]);
    farm.cut.clear();
    farm.advance(300);
    let counters = farm.counters();
    assert!(counters[0] <= 3 && counters.iter().all(|counter| *counter == counters[0]), "{counters:?}");
    assert!((0..3).all(|node| farm.engine(node).pending_change().is_none()));
    assert_eq!(farm.engine(2).weights(GROUP)[1], 2);
}

#[test]
fn a_drained_node_says_when_its_last_connection_is_gone() {
    let mut farm = Farm::running(3);
    farm.advance(3500);
    farm.input(2, Input::Live { group: GROUP, connections: 3 });
    for bucket in [5, 6, 7] {
        farm.held.insert(Bucket(bucket));
    }
    farm.asked(0, &[drain(2)]).advance(10);
    assert_eq!((farm.owned(2), farm.counters()), (0, vec![1, 1, 1]));
    farm.assert_shared_out(&[0, 1, 2]);
    farm.advance(300);
    for node in 0..3 {
        let progress = farm.engine(node).drain_progress(NodeId(2));
        assert_eq!(progress, Some(DrainInfo { left: 3, of: 3 }), "as node {node} heard");
        assert_eq!(farm.engine(node).connections(NodeId(2)), Some(3));
        assert!(farm.engine(node).drained().contains(NodeId(2)));
    }
    farm.held = BucketBits::none(BUCKETS);
    farm.input(2, Input::Live { group: GROUP, connections: 0 });
    farm.advance(600);
    for node in 0..3 {
        assert_eq!(farm.engine(node).drain_progress(NodeId(2)), Some(DrainInfo { left: 0, of: 3 }));
    }
    farm.asked(2, &[undrain(2)]).advance(100);
    assert!(farm.owned(2) > 0);
    assert_eq!(farm.engine(0).drain_progress(NodeId(2)), None);
}

#[test]
fn a_drained_node_has_everything_left_until_it_has_counted() {
    let mut farm = Farm::running(2);
    farm.advance(3500);
    farm.input(1, Input::Live { group: GROUP, connections: 9 });
    farm.asked(1, &[drain(1)]).advance(3);
    assert_eq!(farm.engine(1).drain_progress(NodeId(1)), Some(DrainInfo { left: 9, of: 9 }));
}

#[test]
fn a_newcomer_follows_what_is_in_force_and_a_whole_restart_what_was() {
    let mut farm = Farm::running(3);
    farm.asked(0, &[drain(1)]).advance(20);
    let kept = farm.engine(0).generation().clone();
    farm.restart(2, 7, Generation::configured());
    farm.advance(400).assert_shared_out(&[0, 1, 2]);
    assert_eq!(farm.engine(2).generation(), &kept);

    for node in 0..3 {
        let generation = if node == 2 { kept.clone() } else { Generation::configured() };
        farm.restart(node, 8, generation);
    }
    farm.advance(400).assert_shared_out(&[0, 1, 2]);
    assert_eq!(farm.counters(), [1, 1, 1], "who still knew told the others");
    assert_eq!(farm.owned(1), 0);
}

#[test]
fn after_a_partition_the_lower_generation_gives_way() {
    let mut farm = Farm::running(4);
    let across = |a: u8, b: u8| (a < 2) != (b < 2);
    farm.cut = (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).filter(|(a, b)| across(*a, *b)).collect();
    farm.advance(400);
    farm.asked(0, &[weight(0, 5)]).advance(20);
    farm.asked(2, &[drain(3)]).advance(20);
    farm.asked(3, &[weight(2, 2)]).advance(20);
    assert_eq!(farm.counters(), [1, 1, 2, 2]);
    farm.cut.clear();
    farm.advance(30);
    for _ in 0..100 {
        farm.advance(1).owns_nothing_twice();
    }
    farm.assert_shared_out(&[0, 1, 2, 3]);
    assert_eq!(farm.counters(), [2, 2, 2, 2]);
    assert_eq!(farm.engine(0).weights(GROUP), [1, 1, 2, 0]);
}

#[test]
fn two_proposals_at_once_end_in_one() {
    let mut farm = Farm::running(3);
    // 0 and 1 do not hear each other, 2 hears both and is heard by both, but relays nothing: it is stopped.
    farm.cut = vec![(0, 1), (1, 0), (2, 0), (2, 1), (0, 2), (1, 2)];
    farm.advance(400);
    farm.asked(0, &[weight(0, 2)]).asked(1, &[weight(1, 2)]).asked(2, &[weight(2, 2)]).advance(20);
    assert_eq!(farm.counters(), [1, 1, 1]);
    farm.cut.clear();
    farm.advance(200).assert_shared_out(&[0, 1, 2]);
    assert_eq!(farm.counters(), [1, 1, 1]);
    assert_eq!(farm.engine(0).weights(GROUP), [1, 1, 2], "of one counter the last proposer's");
}

#[test]
fn a_cascade_moves_as_a_whole() {
    let mut farm = Farm::of(3);
    let now = farm.now;
    for node in 0..3 {
        let groups = vec![Group { id: GROUP, share: Share::Cascade([2, 0, 1].map(NodeId).into()) }];
        let setup = Setup { groups, ..setup(node, 3, 3) };
        farm.engines[usize::from(node)] = Some(Engine::new(setup, now));
    }
    farm.advance(400);
    assert_eq!([0, 1, 2].map(|node| farm.owned(node)), [0, 0, BUCKETS]);
    assert_eq!(farm.engine(0).weights(GROUP), [2, 3, 1], "places in line");
    farm.asked(1, &[drain(2)]).advance(20);
    assert_eq!([0, 1, 2].map(|node| farm.owned(node)), [BUCKETS, 0, 0]);
    assert_eq!(farm.engine(1).shares(GROUP), [ALL, 0, 0]);
    farm.engines[0] = None;
    farm.advance(300);
    assert_eq!([1, 2].map(|node| farm.owned(node)), [BUCKETS, 0]);
}

#[test]
fn who_is_excluded_again_and_again_waits_outside() {
    let mut farm = Farm::running(3);
    for boot in 10..14 {
        farm.restart(2, boot, Generation::configured());
        farm.advance(400);
    }
    assert_eq!(farm.engine(2).member_state(), MemberState::Announce);
    assert!(farm.engine(2).is_damped());
    assert!(
        farm.engine(0).damping(NodeId(2)).is_some_and(|damping| damping.damped && damping.penalty > 3500)
    );
    farm.assert_shared_out_among(&[0, 1]);

    farm.advance(40_000);
    assert_eq!(farm.engine(2).member_state(), MemberState::Announce);
    farm.advance(60_000).assert_shared_out(&[0, 1, 2]);
}

#[test]
fn a_damped_node_serves_when_nobody_else_does() {
    let mut farm = Farm::running(2);
    for boot in 10..14 {
        farm.restart(1, boot, Generation::configured());
        farm.advance(400);
    }
    assert_eq!(farm.owned(1), 0);
    farm.engines[0] = None;
    farm.advance(300);
    assert_eq!(farm.owned(1), BUCKETS);
}

#[test]
fn clean_leaves_cost_nothing() {
    let mut farm = Farm::running(2);
    for boot in 10..20 {
        farm.input(1, Input::Leave { drain_max: Duration::ZERO });
        farm.advance(50);
        farm.restart(1, boot, Generation::configured());
        farm.advance(400).assert_shared_out(&[0, 1]);
    }
}

impl Farm {
    fn assert_shared_out_among(&mut self, by: &[u8]) {
        let owned: usize = by.iter().map(|node| self.owned(*node)).sum();
        assert_eq!(owned, BUCKETS);
    }
}
