//! Stories of a few engines on a perfect network. What faults do is the simulation's part (package safekit-tests).

#![expect(clippy::wildcard_enum_match_arm, reason = "a story picks the one output that it is about")]

use super::*;
use crate::types::snapshot::MemberState;
use crate::types::{Bucket, Departure, Seq};
use crate::wire::heartbeat::{Body, OBITUARY_SEQ};

mod weights;

const GROUP: GroupId = GroupId(1);
const BUCKETS: usize = 1024;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn setup(me: u8, nodes: usize, boot: u8) -> Setup {
    Setup {
        me: NodeId(me),
        boot: BootId([boot, me, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        nodes: (0..nodes).map(|node| format!("web{node}")).collect(),
        config: 42,
        timing: Timing::DEFAULT,
        groups: vec![Group { id: GROUP, share: Share::Weighted(vec![1; nodes]) }],
        generation: Generation::configured(),
        health: Vec::new(),
        buckets: BUCKETS,
        hold: HOLD,
        seed: u64::from(me),
        rules: Rules::ALL,
    }
}

/// Engines whose heartbeats arrive at once, in order, unless a link is cut.
struct Farm {
    now: Instant,
    engines: Vec<Option<Engine>>,
    /// Sender, receiver.
    cut: Vec<(u8, u8)>,
    /// Every heartbeat ever sent.
    tape: Vec<Heartbeat>,
    log: Vec<(u8, Output)>,
    /// Buckets in which every node that is asked has live connections.
    held: BucketBits,
}

impl Farm {
    fn of(nodes: usize) -> Self {
        let now = Instant(5_000_000_000);
        let engines = (0..nodes).map(|me| Some(Engine::new(setup(me as u8, nodes, 1), now))).collect();
        Self {
            now,
            engines,
            cut: Vec::new(),
            tape: Vec::new(),
            log: Vec::new(),
            held: BucketBits::none(BUCKETS),
        }
    }

    fn running(nodes: usize) -> Self {
        let mut farm = Self::of(nodes);
        farm.advance(400);
        farm
    }

    fn engine(&mut self, node: u8) -> &mut Engine {
        self.engines[usize::from(node)].as_mut().expect("the story needs that node alive")
    }

    fn input(&mut self, node: u8, input: Input) {
        let now = self.now;
        self.engine(node).handle(input, now);
        self.drain(node);
    }

    fn drain(&mut self, node: u8) {
        while let Some(output) = self.engines[usize::from(node)].as_mut().and_then(Engine::poll_output) {
            if let Output::Send(heartbeat) = &output {
                self.tape.push(heartbeat.clone());
                for other in (0..self.engines.len() as u8).filter(|other| *other != node) {
                    if self.engines[usize::from(other)].is_some() && !self.cut.contains(&(node, other)) {
                        self.input(other, Input::Heartbeat(heartbeat.clone()));
                    }
                }
            }
            let counted = match &output {
                Output::CountHeld { group } => Some(*group),
                _ => None,
            };
            self.log.push((node, output));
            if let Some(group) = counted {
                let since = self.now;
                let connections = self.held.len() as u32;
                self.input(node, Input::Held { group, buckets: self.held.clone(), since, connections });
            }
        }
    }

    /// Half a millisecond a step.
    fn advance(&mut self, span: u64) -> &mut Self {
        for _ in 0..2 * span {
            self.now = self.now + Duration::from_micros(500);
            for node in 0..self.engines.len() as u8 {
                if self.engines[usize::from(node)]
                    .as_ref()
                    .is_some_and(|engine| engine.next_deadline() <= self.now)
                {
                    self.input(node, Input::Timer);
                }
            }
        }
        self
    }

    fn members(&mut self, node: u8) -> Vec<u8> {
        self.engine(node).view().members.iter().map(|node| node.0).collect()
    }

    fn owned(&mut self, node: u8) -> usize {
        let now = self.now;
        let engine = self.engine(node);
        if engine.lease_until() > now { engine.table(GROUP).mine.len() } else { 0 }
    }

    fn departures(&self, node: u8) -> Vec<(u8, Departure)> {
        let departed = |(by, output): &(u8, Output)| match output {
            Output::Event(Event { kind: EventKind::Departed { node: gone, why }, .. }) if *by == node => {
                Some((gone.0, *why))
            }
            _ => None,
        };
        self.log.iter().filter_map(departed).collect()
    }

    fn assert_shared_out(&mut self, by: &[u8]) {
        let shares: Vec<usize> = by.iter().map(|node| self.owned(*node)).collect();
        assert_eq!(shares.iter().sum::<usize>(), BUCKETS, "every bucket has its owner: {shares:?}");
        for (node, share) in by.iter().zip(shares) {
            assert_eq!(self.members(*node), by);
            let shown = self.engine(*node).shares(GROUP)[usize::from(*node)];
            assert_eq!(shown as usize, share, "what screens show is what the kernel has");
        }
    }
}

#[test]
fn three_nodes_share_the_buckets_out() {
    Farm::running(3).assert_shared_out(&[0, 1, 2]);
}

#[test]
fn a_node_that_is_alone_serves_all_and_goes_on_in_silence() {
    let mut farm = Farm::running(1);
    farm.assert_shared_out(&[0]);
    farm.advance(5000).assert_shared_out(&[0]);

    let mut farm = Farm::running(2);
    farm.engines[1] = None;
    farm.advance(1000).assert_shared_out(&[0]);
    assert_eq!(farm.departures(0), [(1, Departure::Silence)]);
}

#[test]
fn the_kernel_is_shut_first_and_keeps_what_an_earlier_daemon_accepted() {
    let mut engine = Engine::new(setup(0, 2, 1), Instant(7));
    let mut outputs = Vec::from_iter(std::iter::from_fn(|| engine.poll_output())).into_iter();
    assert!(matches!(outputs.next(), Some(Output::SetLease(Instant(0)))));
    let Some(Output::WriteTable { table, .. }) = outputs.next() else {
        panic!("the second output is the table")
    };
    assert!(table.mine.is_empty());
    assert_eq!(table.transitional.len(), BUCKETS, "connections of an earlier daemon may be anywhere");
    let rest: Vec<Output> = outputs.collect();
    assert!(rest.iter().any(|output| matches!(output, Output::CountHeld { group: GROUP })));
    let beat = rest.iter().find_map(|output| match output {
        Output::Send(Heartbeat { body: Body::Beat(beat), .. }) => Some(beat),
        _ => None,
    });
    let held = &beat.expect("it speaks at once").held;
    assert_eq!(held[0].runs.len(), BUCKETS / 16, "not counted yet is held");
}

#[test]
fn a_leave_hands_over_at_once() {
    let mut farm = Farm::running(3);
    farm.input(1, Input::Leave { drain_max: Duration::ZERO });
    assert_eq!(farm.owned(1), 0);
    farm.advance(5).assert_shared_out(&[0, 2]);
    assert_eq!(farm.departures(0), [(1, Departure::Leave)]);
    assert!(farm.log.iter().any(|(node, output)| *node == 1 && matches!(output, Output::Left)));
}

#[test]
fn a_leave_waits_for_connections_until_its_limit() {
    let mut farm = Farm::running(2);
    let left = |farm: &Farm| farm.log.iter().any(|(_, output)| matches!(output, Output::Left));
    farm.held.insert(Bucket(3));
    farm.input(1, Input::Leave { drain_max: ms(800) });
    farm.advance(799);
    assert!(!left(&farm), "a connection lives");
    let table = farm.engine(0).table(GROUP);
    assert!(
        table.mine.contains(Bucket(3)) && table.transitional.contains(Bucket(3)),
        "the other one knows of it"
    );
    farm.advance(10);
    assert!(left(&farm), "the limit is over");
}

#[test]
fn an_obituary_is_believed_at_once_and_told_on() {
    let mut farm = Farm::running(3);
    let boot = farm.engine(2).setup.boot;
    farm.engines[2] = None;
    let obituary = Heartbeat { sender: NodeId(2), boot, seq: OBITUARY_SEQ, body: Body::Obituary };
    farm.input(0, Input::Heartbeat(obituary));
    farm.advance(3).assert_shared_out(&[0, 1]);
    assert_eq!(farm.departures(0), [(2, Departure::Obituary)]);
    assert_eq!(farm.departures(1), [(2, Departure::Obituary)], "by way of node 0");

    let last = farm.tape.iter().rfind(|beat| beat.sender == NodeId(2)).expect("it has spoken").clone();
    farm.input(0, Input::Heartbeat(Heartbeat { seq: Seq(last.seq.0 + 1), ..last }));
    farm.advance(20).assert_shared_out(&[0, 1]);
}

#[test]
fn a_recording_of_an_earlier_life_changes_nothing() {
    let mut farm = Farm::running(2);
    let recorded = farm.tape.clone();
    let now = farm.now;
    farm.engines = (0..2).map(|me| Some(Engine::new(setup(me, 2, 2), now))).collect();
    farm.advance(400).assert_shared_out(&[0, 1]);
    let before = farm.engine(0).view().id;
    for beat in recorded.into_iter().filter(|beat| beat.sender == NodeId(1)) {
        farm.input(0, Input::Heartbeat(beat));
        farm.advance(1);
    }
    assert_eq!(farm.engine(0).view().id, before);
    farm.assert_shared_out(&[0, 1]);
}

#[test]
fn a_restarted_daemon_counts_once_it_has_answered() {
    let mut farm = Farm::running(2);
    let now = farm.now;
    let mut engine = Engine::new(setup(1, 2, 9), now);
    let first = std::iter::from_fn(|| engine.poll_output()).find_map(|output| match output {
        Output::Send(beat) => Some(beat),
        _ => None,
    });
    let first = first.expect("it speaks at once");
    farm.engines[1] = None;
    farm.input(0, Input::Heartbeat(first));
    assert_eq!(farm.members(0), [0, 1], "the new life has proved nothing yet");
    farm.engines[1] = Some(engine);
    farm.advance(40);
    assert_eq!(farm.members(0), [0], "both have answered: the old life is over");
    farm.advance(400).assert_shared_out(&[0, 1]);
    assert_eq!(farm.departures(0), [(1, Departure::Changed)]);
}

#[test]
fn with_one_direction_cut_the_unheard_one_gives_up_before_the_other_takes() {
    let mut farm = Farm::running(2);
    farm.cut.push((0, 1));
    for _ in 0..1000 {
        farm.advance(1);
        farm.input(1, Input::FramesSeen);
        let (one, two) = (farm.owned(0), farm.owned(1));
        assert!(one + two <= BUCKETS, "{one} and {two} buckets are owned twice");
    }
    assert_eq!((farm.owned(0), farm.owned(1)), (0, BUCKETS));
    farm.cut.clear();
    farm.advance(60).assert_shared_out(&[0, 1]);
}

#[test]
fn a_third_node_makes_up_for_a_broken_direction() {
    let mut farm = Farm::running(3);
    farm.cut.push((0, 1));
    for _ in 0..1000 {
        farm.advance(1);
        let owned: usize = (0..3).map(|node| farm.owned(node)).sum();
        assert_eq!(owned, BUCKETS, "nothing moves");
    }
}

#[test]
fn who_woke_late_accepts_nothing_until_answered() {
    let mut farm = Farm::running(2);
    let before = farm.owned(0);
    farm.now = farm.now + ms(120);
    farm.cut = vec![(0, 1), (1, 0)];
    farm.input(0, Input::Timer);
    farm.input(1, Input::Timer);
    farm.advance(20);
    assert_eq!(farm.owned(0), 0);
    farm.cut.clear();
    farm.advance(60);
    assert_eq!(farm.owned(0), before);
    assert!(farm.departures(0).is_empty(), "nobody was silent but myself");

    farm.now = farm.now + ms(700);
    farm.input(0, Input::Timer);
    assert_eq!(farm.engine(0).member_state(), MemberState::Joining);
}

#[test]
fn a_deaf_node_excludes_itself() {
    let mut farm = Farm::running(3);
    farm.cut = vec![(0, 2), (1, 2)];
    farm.advance(190);
    assert_eq!(farm.owned(2), 0);
    assert_eq!(farm.departures(0), [(2, Departure::Deaf)]);
    assert_eq!(farm.owned(0) + farm.owned(1), BUCKETS);
}

#[test]
fn frames_are_a_sign_that_the_receiver_works() {
    let mut farm = Farm::running(2);
    farm.cut = vec![(0, 1)];
    for _ in 0..100 {
        farm.advance(10);
        farm.input(1, Input::FramesSeen);
    }
    assert!(farm.departures(0).is_empty(), "node 1 hears, only not its peer");
    assert_eq!((farm.owned(0), farm.owned(1)), (0, BUCKETS));
}

#[test]
fn without_carrier_a_node_is_out() {
    let mut farm = Farm::running(2);
    farm.input(1, Input::Carrier { up: false });
    farm.advance(3).assert_shared_out(&[0]);
    assert_eq!(farm.owned(1), 0);
    farm.input(1, Input::Carrier { up: true });
    farm.advance(400).assert_shared_out(&[0, 1]);
}

#[test]
fn another_configuration_waits_outside() {
    let mut farm = Farm::running(1);
    let now = farm.now;
    farm.engines = (0..2_u8)
        .map(|me| Some(Engine::new(Setup { config: u64::from(me), ..setup(me, 2, 1) }, now)))
        .collect();
    farm.advance(1000);
    let owned: Vec<usize> = (0..2).map(|node| farm.owned(node)).collect();
    assert_eq!(owned.iter().sum::<usize>(), BUCKETS, "one of them serves: {owned:?}");
    assert!(owned.contains(&0), "and only one: {owned:?}");
}

#[test]
fn what_is_gained_is_transitional_for_hold() {
    let mut farm = Farm::running(2);
    farm.advance(3500);
    assert!(farm.engine(0).table(GROUP).transitional.is_empty());
    let mine = farm.engine(0).table(GROUP).mine.clone();
    farm.engines[1] = None;
    farm.advance(300);
    let table = farm.engine(0).table(GROUP);
    assert_eq!(table.mine.len(), BUCKETS);
    assert!(mine.iter().all(|bucket| table.mine.contains(bucket)));
    let gained = table.transitional.len();
    assert!(gained >= BUCKETS - mine.len(), "{gained}; what was given up shortly before D counts as well");
    farm.advance(3000);
    assert!(farm.engine(0).table(GROUP).transitional.is_empty());
}

#[test]
fn screens_know_the_owner_and_since_when() {
    let mut farm = Farm::running(3);
    farm.engines[2] = None;
    farm.advance(400);
    let view = farm.engine(0).view();
    for bucket in (0..BUCKETS as u16).map(Bucket) {
        let engine = farm.engine(0);
        let order = engine.preference(GROUP, bucket);
        assert_eq!((order.len(), engine.owner(GROUP, bucket)), (2, Some(order[0])));
        assert_eq!(engine.owner(GROUP, bucket) == Some(NodeId(0)), engine.table(GROUP).mine.contains(bucket));
        let (since, at) = engine.owner_since(GROUP, bucket);
        assert!(since <= view.id && at <= view.since);
    }
    let engine = farm.engine(0);
    let moved =
        (0..BUCKETS as u16).filter(|bucket| engine.owner_since(GROUP, Bucket(*bucket)).0 == view.id).count();
    assert!((BUCKETS / 4..BUCKETS / 2).contains(&moved), "a third came with the last view: {moved}");
}

#[test]
fn the_first_node_of_the_view_announces() {
    let mut farm = Farm::running(3);
    let announced = |farm: &Farm| -> Vec<u8> {
        farm.log
            .iter()
            .filter(|(_, output)| matches!(output, Output::Announce))
            .map(|(node, _)| *node)
            .collect()
    };
    farm.advance(1200);
    farm.log.clear();
    farm.engines[0] = None;
    farm.advance(1500);
    let after = announced(&farm);
    assert!(after.len() >= 3 && after.iter().all(|node| *node == 1), "{after:?}");
}
