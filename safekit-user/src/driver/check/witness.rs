//! Another node that is heard. Its silence is no event, so a small clock looks for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::sight::Seen;
use super::{Ends, Remote, Surroundings};
use crate::driver::clock;
use crate::types::module::ModuleReport;
use crate::types::{Instant, NodeId};

/// What a node said longer ago does not count any more.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Node {
    node: NodeId,
    around: Arc<Surroundings>,
    _stirs: Ends,
}

impl Node {
    pub(super) fn new(node: NodeId, around: &Arc<Surroundings>, stir: &Arc<Notify>) -> Self {
        let other = Arc::clone(around);
        let stirs = stirs(around, stir, move || is_heard(&other, node).up);
        Self { node, around: Arc::clone(around), _stirs: stirs }
    }

    pub(super) fn look(&self) -> Seen {
        is_heard(&self.around, self.node)
    }
}

fn is_heard(around: &Surroundings, node: NodeId) -> Seen {
    match heard(&around.remotes.borrow(), node, clock::now()) {
        Ok(_) => Seen::up(format!("{} is heard", name(around, node))),
        Err(silence) => Seen::down(silence.sentence(around, node)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    Never,
    For(Duration),
}

impl Silence {
    pub(super) fn sentence(self, around: &Surroundings, node: NodeId) -> String {
        let name = name(around, node);
        match self {
            Self::Never => format!("{name} has never been heard"),
            Self::For(span) => format!("{name} has been silent for {} ms", span.as_millis()),
        }
    }
}

/// What `node` says of its modules, if that is new enough.
pub(super) fn heard(remotes: &[Remote], node: NodeId, now: Instant) -> Result<&[ModuleReport], Silence> {
    let Some((Some(at), reports)) = remotes.get(usize::from(node.0)) else { return Err(Silence::Never) };
    let span = now.since(*at);
    if span > HEARD_WITHIN { Err(Silence::For(span)) } else { Ok(reports) }
}

/// Stirs whenever `up` says something else than before: after news, and at least at each look of the clock.
pub(super) fn stirs(
    around: &Surroundings,
    stir: &Arc<Notify>,
    up: impl Fn() -> bool + Send + 'static,
) -> Ends {
    let (mut remotes, stir) = (around.remotes.clone(), Arc::clone(stir));
    let look = async move {
        let mut last = up();
        loop {
            tokio::select! {
                // Nobody tells any more: silence, which the clock sees.
                Ok(()) = remotes.changed() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
            let new = up();
            if new != last {
                last = new;
                stir.notify_one();
            }
        }
    };
    Ends(tokio::spawn(look))
}

fn name(around: &Surroundings, node: NodeId) -> &str {
    around.names.get(usize::from(node.0)).map_or("an unknown node", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_for_three_seconds_after_its_last_word() {
        let at = Instant(1_000_000_000);
        let remotes = [(None, Vec::new()), (Some(at), Vec::new())];
        let silence = |node, after| heard(&remotes, NodeId(node), at + after).err();
        assert_eq!(silence(1, Duration::from_secs(3)), None);
        assert_eq!(silence(1, Duration::from_secs(4)), Some(Silence::For(Duration::from_secs(4))));
        assert_eq!(silence(0, Duration::ZERO), Some(Silence::Never));
        assert_eq!(silence(7, Duration::ZERO), Some(Silence::Never), "no such node");
    }
}
