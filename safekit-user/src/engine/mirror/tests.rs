//! What the simulation, whose arbiter makes no mistakes, cannot show.

use super::table::Side;
use super::*;
use crate::types::replica::Part;

fn copy(generation: u64, history: &[u64]) -> Copy {
    Copy {
        generation: (generation != 0).then_some(DataGeneration(generation)),
        parent: history.last().copied().map(DataGeneration),
        history: history.iter().copied().map(DataGeneration).collect(),
        half_copied: false,
        peer_out: false,
        led: false,
        distrusted: false,
        fresh_from: 16,
    }
}

/// Either node concludes the same.
#[track_caller]
fn check_judged(name: &str, ours: &Copy, theirs: &Copy, clean: bool, expected: Judgement) {
    let side = |copy| Side { copy, leads: false, clean };
    assert_eq!(judge(&side(ours), &side(theirs), true), expected, "{name}");
    let turned = match expected {
        Judgement::Ours { everything } => Judgement::Theirs { everything },
        Judgement::Theirs { everything } => Judgement::Ours { everything },
        Judgement::BothNew
        | Judgement::Either
        | Judgement::SplitBrain
        | Judgement::BothLead
        | Judgement::BothHalf
        | Judgement::Unrelated => expected,
    };
    assert_eq!(judge(&side(theirs), &side(ours), true), turned, "{name}, seen from the other node");
}

#[test]
fn both_nodes_judge_alike() {
    let half = |copy: Copy| Copy { half_copied: true, ..copy };
    let led = |copy: Copy| Copy { led: true, ..copy };
    let out = |copy: Copy| Copy { peer_out: true, ..copy };
    let distrusted = |copy: Copy| Copy { distrusted: true, ..copy };
    let ours = |everything| Judgement::Ours { everything };
    let old = Copy { parent: Some(DataGeneration(2)), ..copy(3, &[1, 2]) };
    let table = [
        ("both new", copy(0, &[]), copy(0, &[]), true, Judgement::BothNew),
        ("one new", copy(1, &[]), copy(0, &[]), true, ours(true)),
        ("equal and clean", copy(1, &[]), copy(1, &[]), true, Judgement::Either),
        ("equal, one led", led(copy(1, &[])), copy(1, &[]), false, ours(false)),
        ("equal, one knows the other is out", out(copy(1, &[])), led(copy(1, &[])), false, ours(false)),
        ("one went on", copy(2, &[1]), copy(1, &[]), true, ours(false)),
        ("one went on, longer ago than its record says", old.clone(), copy(1, &[]), true, ours(true)),
        ("one went on, its record says since when", old, copy(2, &[1]), true, ours(false)),
        ("one went on by force", distrusted(copy(2, &[1])), copy(1, &[]), true, ours(true)),
        ("one is half copied", copy(2, &[1]), half(copy(1, &[])), true, ours(false)),
        ("one is half of something older", copy(3, &[2]), half(copy(1, &[])), true, ours(true)),
        ("one new and half copied", copy(2, &[1]), half(copy(0, &[])), true, ours(true)),
        ("both are half copied", half(copy(2, &[1])), half(copy(1, &[])), true, Judgement::BothHalf),
        ("half copied and new", half(copy(1, &[])), copy(0, &[]), true, Judgement::BothHalf),
        ("both went on", copy(2, &[1]), copy(3, &[1]), true, Judgement::SplitBrain),
        ("never met", copy(2, &[1]), copy(4, &[3]), true, Judgement::Unrelated),
    ];
    for (name, ours, theirs, clean, expected) in table {
        check_judged(name, &ours, &theirs, clean, expected);
    }
    let lead = |copy| Side { copy, leads: true, clean: true };
    let (one, two) = (copy(2, &[1]), copy(1, &[]));
    assert_eq!(judge(&lead(&one), &lead(&two), true), Judgement::BothLead);
}

/// An engine, and what it said last.
struct Story {
    engine: Mirror,
    now: Instant,
    said: Vec<Output>,
}

impl Story {
    fn new(copy: Copy) -> Self {
        let engine = Mirror::new(Settings::default(), Rules::ALL, copy, [], 7);
        Self { engine, now: Instant(1_000_000_000), said: Vec::new() }
    }

    /// Batches of the record are written at once.
    fn tell(&mut self, input: Input) -> &[Output] {
        self.said.clear();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.engine.handle(input, self.now);
            while let Some(output) = self.engine.poll_output() {
                if let Output::Record { batch, .. } = &output {
                    inputs.push(Input::Recorded { batch: *batch });
                }
                self.said.push(output);
            }
        }
        &self.said
    }

    fn hello(&mut self, copy: Copy, leads: bool) {
        let hello = Message::Hello { version: VERSION, copy, leads, wants_to_lead: leads };
        self.tell(Input::Message(hello));
        self.tell(Input::Message(Message::Regions { touches: Vec::new(), last: true }));
    }

    /// Serves, with an equal copy on the other node.
    fn prim() -> Self {
        let mut story = Self::new(copy(1, &[]));
        story.tell(Input::Connected);
        story.hello(copy(1, &[]), false);
        story.tell(Input::Order(Order::Lead { force: false }));
        story.hello(copy(1, &[]), false);
        story.tell(Input::Message(Message::Ready));
        while story.engine.role() != MirrorRole::Prim {
            let pass = story.said.iter().find_map(|output| {
                if let Output::StartPass { number, .. } = output { Some(*number) } else { None }
            });
            match pass {
                Some(number) => story.tell(Input::PassDone { number, lost: Vec::new() }),
                None => story.tell(Input::Message(Message::Finished)),
            };
        }
        story
    }

    fn write(&mut self, ticket: u64) {
        let region = Region { object: ObjectId(20), part: Part::Data(0) };
        self.tell(Input::Begin { ticket: Ticket(ticket), touches: vec![Touch::all(region)] });
        self.tell(Input::Done { ticket: Ticket(ticket), made: Made::Operations(1) });
    }
}

#[test]
fn a_copy_is_marked_before_it_is_overwritten() {
    let mut story = Story::new(copy(1, &[]));
    story.tell(Input::Connected);
    story.hello(copy(2, &[1]), true);
    story.engine.handle(Input::Message(Message::Overwrite { everything: false }), story.now);
    let outputs: Vec<_> = std::iter::from_fn(|| story.engine.poll_output()).collect();
    let [Output::Record { batch, entries }] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert!(matches!(entries.as_slice(), [Entry::Copy(copy)] if copy.half_copied), "{entries:?}");
    let said = story.tell(Input::Recorded { batch: *batch });
    assert_eq!(said, [Output::BeginTarget, Output::Send(Message::Ready)]);
    // Half of another one, it never serves, not even by force.
    story.tell(Input::Disconnected);
    story.tell(Input::Order(Order::Lead { force: true }));
    assert_eq!(story.engine.role(), MirrorRole::Wait);
    assert_eq!(story.engine.view().cannot_lead, Some(CannotLead::HalfCopied));
}

#[test]
fn nobody_is_answered_before_the_loss_of_the_other_copy_is_recorded() {
    let mut story = Story::prim();
    story.write(1);
    story.tell(Input::Flush { ticket: Ticket(2), object: ObjectId(20), data_only: true });
    story.tell(Input::FlushedHere { ticket: Ticket(2) });
    assert_eq!(story.said, [], "the other node has not answered");
    story.engine.handle(Input::Disconnected, story.now);
    let outputs: Vec<_> = std::iter::from_fn(|| story.engine.poll_output()).collect();
    let [Output::Record { batch, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert!(story.engine.view().frozen);
    let said = story.tell(Input::Recorded { batch: *batch });
    assert_eq!(said, [Output::Answer(Ticket(2))]);
    assert_eq!(story.engine.role(), MirrorRole::Alone);
}

#[test]
fn an_application_waits_no_longer_than_max_stall() {
    let mut story = Story::prim();
    story.write(1);
    story.tell(Input::Flush { ticket: Ticket(2), object: ObjectId(20), data_only: true });
    story.tell(Input::FlushedHere { ticket: Ticket(2) });
    let deadline = story.engine.next_deadline().expect("somebody waits");
    assert!(deadline <= story.now + Settings::default().max_stall);
    story.now = story.now + Settings::default().max_stall;
    let said = story.tell(Input::Tick);
    assert!(said.contains(&Output::Close(Closing::Stalled)), "{said:?}");
    assert!(said.contains(&Output::Answer(Ticket(2))), "{said:?}");
    assert_eq!(story.engine.role(), MirrorRole::Alone);
}

#[test]
fn who_serves_no_longer_has_everything_on_both_disks_first() {
    let mut story = Story::prim();
    story.write(1);
    let said = story.tell(Input::Order(Order::Follow)).to_vec();
    assert_eq!(said, [Output::LastWords]);
    let said = story.tell(Input::LastWords { operations: 2 }).to_vec();
    assert_eq!(said[0], Output::Transmit { ticket: Ticket(0), first: Position(2) });
    let Some(Output::SyncHere { number }) = said.get(1) else { panic!("{said:?}") };
    assert_eq!(story.engine.role(), MirrorRole::Prim);
    story.tell(Input::SyncedHere { number: *number });
    assert_eq!(story.engine.role(), MirrorRole::Prim, "the other node has not said so yet");
    let said = story.tell(Input::Message(Message::Checkpointed { position: Position(3) }));
    assert!(said.contains(&Output::Send(Message::SteppedDown)), "{said:?}");
    assert_eq!(story.engine.role(), MirrorRole::Wait);
    let region = Region { object: ObjectId(20), part: Part::Data(0) };
    let said = story.tell(Input::Begin { ticket: Ticket(9), touches: vec![Touch::all(region)] });
    assert_eq!(said, [Output::Refuse(Ticket(9))]);
}

/// Found by the fuzzer: the second time it waited for a flush that had been taken back, and applications for ever.
#[test]
fn a_node_alone_that_is_told_to_lead_again_can_step_down_later() {
    let mut story = Story::new(Copy { peer_out: true, ..copy(2, &[1]) });
    story.tell(Input::Order(Order::Lead { force: false }));
    let sync = |said: &[Output]| match said {
        [Output::SyncHere { number }] => *number,
        said => panic!("{said:?}"),
    };
    let first = sync(story.tell(Input::Order(Order::Follow)));
    story.tell(Input::Order(Order::Lead { force: false }));
    story.tell(Input::SyncedHere { number: first });
    assert_eq!(story.engine.role(), MirrorRole::Alone);
    let second = sync(story.tell(Input::Order(Order::Follow)));
    story.tell(Input::SyncedHere { number: second });
    assert_eq!(story.engine.role(), MirrorRole::Wait);
}

#[test]
fn what_does_not_belong_here_ends_the_connection() {
    let strange: [(&str, Message, Closing); 5] = [
        (
            "another version",
            Message::Hello { version: 99, copy: copy(1, &[]), leads: false, wants_to_lead: false },
            Closing::Version(99),
        ),
        ("ready, and nobody asked", Message::Ready, Closing::Unexpected),
        ("received what was not sent", Message::Received { position: Position(5) }, Closing::Unexpected),
        ("overwrites who serves", Message::Overwrite { everything: true }, Closing::Unexpected),
        ("steps down, and does not serve", Message::SteppedDown, Closing::Unexpected),
    ];
    for (name, message, closing) in strange {
        let mut story = Story::prim();
        let said = story.tell(Input::Message(message));
        assert_eq!(said.first(), Some(&Output::Close(closing)), "{name}");
    }
}

/// A node that talks without end is not listened to.
#[test]
fn a_record_without_end_ends_the_connection() {
    let mut story = Story::new(copy(1, &[]));
    story.tell(Input::Connected);
    let touches = vec![Touch::all(Region::whole(ObjectId(20))); ITEMS_MAX];
    let closed = (0..1000).any(|_| {
        let regions = Message::Regions { touches: touches.clone(), last: false };
        story.tell(Input::Message(regions)).contains(&Output::Close(Closing::Unexpected))
    });
    assert!(closed);
}
