//! One configuration everywhere or nowhere: two phases, and an order of versions for those who missed the second.
//!
//! ```text
//! proposer:     Propose ─▶ Prepare to all ─▶ all Yes ─▶ commit here, durably: that is the decision ─▶ Commit to all
//!                                        └─▶ one No, or silence ─▶ Abort to all
//! others:       Prepare ─▶ check ─▶ keep, durably ─▶ Yes ─▶ Commit ─▶ commit, durably ─▶ Done
//! in doubt:     HowEnded to all, each second: the proposer knows (what it has not committed it never will), and
//!               whoever has committed it knows
//! left behind:  a peer says that it runs a higher version ─▶ Fetch ─▶ Here ─▶ check ─▶ commit
//! ```
//!
//! Pure. What has to be durable leaves as [`Output::Keep`] and [`Output::Commit`], and is to be done before the outputs
//! that follow it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::cluster::{ApplyMessage as Message, ConfigVersion, Effect, Proposal};
use crate::types::{Instant, NodeId, NodeSet};

/// How long the proposer waits for answers.
pub const VOTE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it waits for all to say that they have it, before it says who has not.
pub const COMMIT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Lost messages are said again.
const REPEAT: Duration = Duration::from_millis(500);
/// A node that was refused a fetched configuration tries again so often.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Propose {
        text: String,
        user: String,
        at: u64,
        attempt: u64,
        dry_run: bool,
    },
    From {
        node: NodeId,
        message: Message,
    },
    /// The answer to [`Output::Check`].
    Checked {
        version: ConfigVersion,
        verdict: Result<Effect, String>,
    },
    /// A peer says which version it runs with.
    Heard {
        node: NodeId,
        version: ConfigVersion,
    },
    Timer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Could this node run it, and what would it do? Answered by [`Input::Checked`].
    Check(Proposal, Asked),
    /// Remember the promise over a restart, or forget it.
    Keep(Option<Proposal>),
    /// It is in force: store it, put it in place, run with it.
    Commit(Proposal),
    Send {
        to: NodeId,
        message: Message,
    },
    Concluded(Conclusion),
}

/// Whether there is still a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This node may say no.
    Beforehand,
    /// The others have it already.
    Afterwards,
}

/// How a proposal of this node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Nothing has changed anywhere: what each node said against it.
    Refused(Vec<(NodeId, String)>),
    /// All would take it; this is what it would do.
    Possible(BTreeMap<NodeId, Effect>),
    /// These have not said yet that they run with it; they will when they are back.
    Applied { version: ConfigVersion, missing: NodeSet },
}

/// What is read from the disk at the start.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Version 0 with the text of the file, where none was ever applied.
    pub committed: Proposal,
    pub prepared: Option<Proposal>,
}

pub struct Apply {
    me: NodeId,
    names: Vec<String>,
    committed: Proposal,
    /// Promised to its proposer.
    prepared: Option<Proposal>,
    /// Being looked at, and for whom.
    checking: Option<(Purpose, Proposal)>,
    leading: Option<Leading>,
    /// The highest number met.
    seen: u64,
    ask_at: Instant,
    fetch_at: Instant,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Vote { proposer: NodeId, dry_run: bool },
    Follow,
}

/// A proposal of this node.
struct Leading {
    proposal: Proposal,
    dry_run: bool,
    yes: BTreeMap<NodeId, Effect>,
    deadline: Instant,
    repeat_at: Instant,
    /// Decided, and who has confirmed it.
    done: Option<NodeSet>,
}

impl Apply {
    pub fn new(me: NodeId, names: Vec<String>, stored: Stored, now: Instant) -> Self {
        let Stored { committed, prepared } = stored;
        // What is promised and already in force, or overtaken, is no promise any more.
        let stale = prepared.as_ref().is_some_and(|prepared| prepared.version <= committed.version);
        let prepared = prepared.filter(|_| !stale);
        let seen = prepared.as_ref().map_or(committed.version.number, |it| it.version.number);
        let seen = seen.max(committed.version.number);
        Self {
            me,
            names,
            committed,
            prepared,
            checking: None,
            leading: None,
            seen,
            ask_at: now,
            fetch_at: now,
            outputs: stale.then_some(Output::Keep(None)).into_iter().collect(),
        }
    }

    pub fn committed(&self) -> &Proposal {
        &self.committed
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let leading = self.leading.as_ref().map(|it| it.deadline.min(it.repeat_at));
        let asking = self.prepared.as_ref().map(|_| self.ask_at);
        leading.into_iter().chain(asking).min()
    }

    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Propose { text, user, at, attempt, dry_run } => {
                let by = self.name(self.me).to_owned();
                let version = ConfigVersion { number: self.seen + 1, by, attempt };
                let base = self.committed.version.clone();
                self.propose(Proposal { version, base, text, user, at }, dry_run, now);
            }
            Input::From { node, message } => self.hear(node, message, now),
            Input::Checked { version, verdict } => self.checked(&version, verdict, now),
            Input::Heard { node, version } => self.compare(node, &version, now),
            Input::Timer => self.pass_time(now),
        }
        self.check_invariants();
    }

    fn propose(&mut self, proposal: Proposal, dry_run: bool, now: Instant) {
        if let Some(why) = self.busy() {
            return self.outputs.push_back(Output::Concluded(Conclusion::Refused(vec![(self.me, why)])));
        }
        self.seen = proposal.version.number;
        for to in self.others() {
            self.send(to, Message::Prepare { proposal: proposal.clone(), dry_run });
        }
        self.outputs.push_back(Output::Check(proposal.clone(), Asked::Beforehand));
        let (deadline, repeat_at) = (now + VOTE_TIMEOUT, now + REPEAT);
        self.leading =
            Some(Leading { proposal, dry_run, yes: BTreeMap::new(), deadline, repeat_at, done: None });
    }

    /// Why another proposal has to wait.
    fn busy(&self) -> Option<String> {
        let under_way = [
            self.leading.as_ref().map(|it| &it.proposal),
            self.prepared.as_ref(),
            self.checking.as_ref().map(|(_, it)| it),
        ];
        let it = under_way.into_iter().flatten().next()?;
        Some(format!("another configuration is under way, by {}; try again in a moment", it.user))
    }

    fn hear(&mut self, from: NodeId, message: Message, now: Instant) {
        match message {
            Message::Prepare { proposal, dry_run } => self.prepare(from, proposal, dry_run),
            Message::Yes { version, effect } => self.count_yes(from, &version, effect, now),
            Message::No { version, why, seen } => {
                self.seen = self.seen.max(seen);
                if self.is_voting(&version) {
                    self.abort(vec![(from, why)]);
                }
            }
            Message::Commit { version } => self.learn_committed(from, &version, now),
            Message::Abort { version } => self.forget(&version),
            Message::Done { version } => self.count_done(from, &version),
            Message::HowEnded { version } => self.tell_how_it_ended(from, version),
            Message::Fetch => self.send(from, Message::Here { proposal: self.committed.clone() }),
            Message::Here { proposal } => {
                if proposal.version > self.committed.version && self.checking.is_none() {
                    self.outputs.push_back(Output::Check(proposal.clone(), Asked::Afterwards));
                    self.checking = Some((Purpose::Follow, proposal));
                }
            }
        }
    }

    fn prepare(&mut self, from: NodeId, proposal: Proposal, dry_run: bool) {
        let repeated = self.prepared.as_ref() == Some(&proposal)
            || self.checking.as_ref().is_some_and(|(_, checked)| *checked == proposal);
        if repeated {
            if self.prepared.is_some() {
                self.send(from, Message::Yes { version: proposal.version, effect: Effect::default() });
            }
            return;
        }
        let known = &self.committed.version;
        let against = self.busy().or_else(|| {
            if proposal.base != *known {
                let base = &proposal.base;
                return Some(format!("it was made from version {base}, and this node has version {known}"));
            }
            (proposal.version.number <= self.seen && !dry_run)
                .then(|| format!("this node has met version {} already; try again", self.seen))
        });
        if let Some(why) = against {
            let seen = self.seen;
            return self.send(from, Message::No { version: proposal.version, why, seen });
        }
        if !dry_run {
            self.seen = proposal.version.number;
        }
        self.outputs.push_back(Output::Check(proposal.clone(), Asked::Beforehand));
        self.checking = Some((Purpose::Vote { proposer: from, dry_run }, proposal));
    }

    fn checked(&mut self, version: &ConfigVersion, verdict: Result<Effect, String>, now: Instant) {
        if self.is_voting(version) {
            return match verdict {
                Ok(effect) => self.count_yes(self.me, version, effect, now),
                Err(why) => self.abort(vec![(self.me, why)]),
            };
        }
        // Aborted meanwhile: nobody waits for the verdict.
        let Some((purpose, proposal)) = self.checking.take_if(|(_, checked)| checked.version == *version)
        else {
            return;
        };
        match (purpose, verdict) {
            (Purpose::Vote { proposer, dry_run }, Ok(effect)) => {
                if !dry_run {
                    self.outputs.push_back(Output::Keep(Some(proposal.clone())));
                    self.prepared = Some(proposal);
                    self.ask_at = now + VOTE_TIMEOUT;
                }
                self.send(proposer, Message::Yes { version: version.clone(), effect });
            }
            (Purpose::Vote { proposer, .. }, Err(why)) => {
                let seen = self.seen;
                self.send(proposer, Message::No { version: version.clone(), why, seen });
            }
            (Purpose::Follow, Ok(_)) if proposal.version > self.committed.version => self.commit(proposal),
            // Overtaken; or this node cannot run it, and is named in every status until somebody mends it.
            (Purpose::Follow, Ok(_) | Err(_)) => {}
        }
    }

    fn is_voting(&self, version: &ConfigVersion) -> bool {
        self.leading.as_ref().is_some_and(|it| it.proposal.version == *version && it.done.is_none())
    }

    fn count_yes(&mut self, from: NodeId, version: &ConfigVersion, effect: Effect, now: Instant) {
        if !self.is_voting(version) {
            return;
        }
        let leading = self.leading.as_mut().expect("it is voting");
        leading.yes.entry(from).or_insert(effect);
        if leading.yes.len() < self.names.len() {
            return;
        }
        if leading.dry_run {
            let Some(Leading { yes, .. }) = self.leading.take() else { return };
            return self.outputs.push_back(Output::Concluded(Conclusion::Possible(yes)));
        }
        let proposal = leading.proposal.clone();
        if proposal.base != self.committed.version {
            return self.abort(vec![(self.me, "another configuration came into force meanwhile".to_owned())]);
        }
        leading.done = Some(NodeSet::of(self.me));
        (leading.deadline, leading.repeat_at) = (now + COMMIT_TIMEOUT, now + REPEAT);
        self.commit(proposal);
        for to in self.others() {
            self.send(to, Message::Commit { version: version.clone() });
        }
        self.conclude_when_done();
    }

    fn count_done(&mut self, from: NodeId, version: &ConfigVersion) {
        let Some(leading) = self.leading.as_mut().filter(|it| it.proposal.version == *version) else {
            return;
        };
        leading.done = leading.done.map(|done| done.with(from));
        self.conclude_when_done();
    }

    fn conclude_when_done(&mut self) {
        let all: NodeSet = (0..self.names.len()).map(|node| NodeId(node as u8)).collect();
        let finished = self.leading.take_if(|it| it.done == Some(all));
        if let Some(Leading { proposal, .. }) = finished {
            let (version, missing) = (proposal.version, NodeSet::EMPTY);
            self.outputs.push_back(Output::Concluded(Conclusion::Applied { version, missing }));
        }
    }

    /// Nothing has been decided: nobody will ever commit it.
    fn abort(&mut self, against: Vec<(NodeId, String)>) {
        let Some(Leading { proposal, .. }) = self.leading.take() else { return };
        for to in self.others() {
            self.send(to, Message::Abort { version: proposal.version.clone() });
        }
        self.outputs.push_back(Output::Concluded(Conclusion::Refused(against)));
    }

    /// Somebody has committed it.
    fn learn_committed(&mut self, from: NodeId, version: &ConfigVersion, now: Instant) {
        if *version > self.committed.version {
            let promised = self.prepared.take_if(|prepared| prepared.version == *version);
            match promised {
                Some(proposal) => self.commit(proposal),
                None => self.fetch(from, now),
            }
        }
        if *version <= self.committed.version {
            self.send(from, Message::Done { version: version.clone() });
        }
    }

    fn compare(&mut self, node: NodeId, version: &ConfigVersion, now: Instant) {
        if *version <= self.committed.version {
            return;
        }
        match self.prepared.take_if(|prepared| prepared.version == *version) {
            Some(proposal) => self.commit(proposal),
            None => self.fetch(node, now),
        }
    }

    fn fetch(&mut self, from: NodeId, now: Instant) {
        if now >= self.fetch_at {
            self.fetch_at = now + FETCH_PAUSE;
            self.send(from, Message::Fetch);
        }
    }

    /// Only the proposer can say that it will never be: it forgets what it has not committed.
    fn tell_how_it_ended(&mut self, from: NodeId, version: ConfigVersion) {
        let known = &self.committed.version;
        if *known == version {
            self.send(from, Message::Commit { version });
        } else if *known > version {
            // Whatever became of it, this one came later.
            self.send(from, Message::Here { proposal: self.committed.clone() });
        } else if version.by == self.name(self.me) && !self.is_voting(&version) {
            self.send(from, Message::Abort { version });
        }
    }

    fn forget(&mut self, version: &ConfigVersion) {
        self.checking.take_if(|(_, proposal)| proposal.version == *version);
        if self.prepared.take_if(|proposal| proposal.version == *version).is_some() {
            self.outputs.push_back(Output::Keep(None));
        }
    }

    fn commit(&mut self, proposal: Proposal) {
        assert!(proposal.version > self.committed.version, "versions only rise");
        self.seen = self.seen.max(proposal.version.number);
        self.committed = proposal.clone();
        self.outputs.push_back(Output::Commit(proposal));
        let overtaken = self.prepared.take_if(|it| it.version <= self.committed.version).is_some();
        if overtaken || self.prepared.is_none() {
            self.outputs.push_back(Output::Keep(None));
        }
    }

    fn pass_time(&mut self, now: Instant) {
        if let Some(leading) = &self.leading {
            if now >= leading.deadline {
                self.run_out_of_time();
            } else if now >= leading.repeat_at {
                self.repeat(now);
            }
        }
        if let Some(prepared) = &self.prepared
            && now >= self.ask_at
        {
            let version = prepared.version.clone();
            self.ask_at = now + REPEAT * 2;
            for to in self.others() {
                self.send(to, Message::HowEnded { version: version.clone() });
            }
        }
    }

    fn run_out_of_time(&mut self) {
        let Some(leading) = &self.leading else { return };
        match leading.done {
            None => {
                let silent = self.others().filter(|node| !leading.yes.contains_key(node));
                let against = silent.map(|node| (node, "no answer".to_owned())).collect();
                self.abort(against);
            }
            Some(done) => {
                let missing = self.others().filter(|node| !done.contains(*node)).collect();
                let version = leading.proposal.version.clone();
                self.leading = None;
                self.outputs.push_back(Output::Concluded(Conclusion::Applied { version, missing }));
            }
        }
    }

    fn repeat(&mut self, now: Instant) {
        let others: Vec<NodeId> = self.others().collect();
        let Some(leading) = &mut self.leading else { return };
        leading.repeat_at = now + REPEAT;
        let Leading { proposal, dry_run, yes, done, .. } = &*leading;
        let message = match done {
            None => Message::Prepare { proposal: proposal.clone(), dry_run: *dry_run },
            Some(_) => Message::Commit { version: proposal.version.clone() },
        };
        let has_answered = |node: &NodeId| match done {
            None => yes.contains_key(node),
            Some(done) => done.contains(*node),
        };
        let silent = others.into_iter().filter(|node| !has_answered(node));
        self.outputs.extend(silent.map(|to| Output::Send { to, message: message.clone() }));
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.me;
        (0..self.names.len()).map(|node| NodeId(node as u8)).filter(move |node| *node != me)
    }

    fn name(&self, node: NodeId) -> &str {
        &self.names[usize::from(node.0)]
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.prepared.as_ref().is_none_or(|it| it.version > self.committed.version),
            "a promise is about the future"
        );
        debug_assert!(self.seen >= self.committed.version.number, "what is in force has been met");
    }
}

#[cfg(test)]
mod tests;
