//! Which of two copies is right: what both nodes conclude from the same facts.

use crate::wire::replica::Copy;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub copy: &'a Copy,
    pub leads: bool,
    /// Its record is empty.
    pub clean: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Neither has ever been a copy of anything.
    BothNew,
    /// This copy is right. `everything`: nobody knows where they differ.
    Ours {
        everything: bool,
    },
    Theirs {
        everything: bool,
    },
    /// Both are: whoever serves first.
    Either,
    /// Each has gone on without the other.
    SplitBrain,
    /// Both serve now.
    BothLead,
    /// Both are half of something.
    BothHalf,
    /// They have nothing in common.
    Unrelated,
}

impl Judgement {
    fn turned(self) -> Self {
        match self {
            Self::Ours { everything } => Self::Theirs { everything },
            Self::Theirs { everything } => Self::Ours { everything },
            Self::BothNew
            | Self::Either
            | Self::SplitBrain
            | Self::BothLead
            | Self::BothHalf
            | Self::Unrelated => self,
        }
    }
}

/// reference/replication.md 3.7: clocks decide nothing.
pub fn judge(ours: &Side<'_>, theirs: &Side<'_>, led_is_source: bool) -> Judgement {
    if ours.leads && theirs.leads {
        return Judgement::BothLead;
    }
    match (ours.copy.generation, theirs.copy.generation) {
        (None, None) => return Judgement::BothNew,
        (Some(_), None) if !ours.copy.half_copied => return Judgement::Ours { everything: true },
        (None, Some(_)) if !theirs.copy.half_copied => return Judgement::Theirs { everything: true },
        (Some(_) | None, Some(_) | None) => {}
    }
    match (ours.copy.half_copied, theirs.copy.half_copied) {
        (true, true) => return Judgement::BothHalf,
        // What is not half of anything is nothing at all.
        (false, true) if ours.copy.generation.is_none() => return Judgement::BothHalf,
        (true, false) if theirs.copy.generation.is_none() => return Judgement::BothHalf,
        (false, true) => return Judgement::Ours { everything: !covers(ours.copy, theirs.copy) },
        (true, false) => return Judgement::Theirs { everything: !covers(theirs.copy, ours.copy) },
        (false, false) => {}
    }
    if ours.copy.generation == theirs.copy.generation {
        return equal(ours, theirs, led_is_source).unwrap_or_else(|| {
            equal(theirs, ours, led_is_source).map_or(Judgement::Either, Judgement::turned)
        });
    }
    later(ours.copy, theirs.copy)
        .or_else(|| later(theirs.copy, ours.copy).map(Judgement::turned))
        .unwrap_or_else(|| unrelated(ours.copy, theirs.copy))
}

/// Equal generations do not mean equal contents.
fn equal(ours: &Side<'_>, theirs: &Side<'_>, led_is_source: bool) -> Option<Judgement> {
    let everything = ours.copy.distrusted || theirs.copy.distrusted;
    let dirty = !(ours.clean && theirs.clean) || everything;
    let ours_is_right = ours.leads
        || (!theirs.leads
            && dirty
            && ((ours.copy.peer_out && !theirs.copy.peer_out)
                || (ours.copy.peer_out == theirs.copy.peer_out
                    && led_is_source
                    && ours.copy.led
                    && !theirs.copy.led)));
    ours_is_right.then_some(Judgement::Ours { everything })
}

/// Whether the older copy is one that this record covers.
fn covers(newer: &Copy, older: &Copy) -> bool {
    let Some(generation) = older.generation else { return false };
    if newer.distrusted || older.distrusted {
        return false;
    }
    let since = newer.parent.and_then(|parent| newer.history.iter().position(|it| *it == parent));
    newer.generation == Some(generation)
        || since.is_some_and(|since| newer.history[since..].contains(&generation))
}

fn later(ours: &Copy, theirs: &Copy) -> Option<Judgement> {
    let generation = theirs.generation?;
    ours.history.contains(&generation).then(|| Judgement::Ours { everything: !covers(ours, theirs) })
}

fn unrelated(ours: &Copy, theirs: &Copy) -> Judgement {
    let common = ours.history.iter().any(|generation| theirs.history.contains(generation));
    if common { Judgement::SplitBrain } else { Judgement::Unrelated }
}
