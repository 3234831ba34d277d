//! Another cluster key on every node, step by step: accepted by all, sent by all, and only then the old one forgotten.
//!
//! The first node that cannot be reached ends it. Before all accept the new key nothing counts; after that, it can be
//! taken up again at any step, because everybody understands both keys.

use ring::rand::{SecureRandom as _, SystemRandom};
use safekit::config::key::{read_ring, write_ring};
use safekit::driver::clock;
use safekit::driver::inbox::Request;
use safekit::types::journal::{Level, Note};
use safekit::types::key::OtherKey;
use safekit::types::{ClusterKey, Command, KeyRing, KeyStep, Reply};
use safekit::wire::seal::key_id;
use tokio::task::JoinSet;

use super::desk::{Desk, OTHER_NODE, refused};

impl Desk {
    pub(super) async fn rotate(&self) -> Reply {
        let path = &self.cluster.config().cluster.key_file;
        let ring = match read_ring(path) {
            Ok(ring) => ring,
            Err(error) => return refused(&error.to_string(), &error.next_step()),
        };
        let Some(new) = key_to_reach(&ring) else {
            return refused("the system has no random numbers", "try again in a moment");
        };
        let begun = ring.other.is_some();
        let next = "mend what is named, then `safekit keygen --rotate` again";
        if let Err(why) = self.step_everywhere(&KeyStep::Probe).await {
            return refused(&format!("nothing was changed: {why}"), next);
        }
        if let Err(why) = self.step_everywhere(&KeyStep::Accept { key: new, from: ring.sending }).await {
            if begun {
                return refused(&format!("all keys are still accepted: {why}"), next);
            }
            // Nobody sends with it yet.
            let _unreachable = self.step_everywhere(&KeyStep::Settle).await;
            return refused(&format!("nothing was changed: {why}"), next);
        }
        for step in [KeyStep::Send, KeyStep::Settle] {
            if let Err(why) = self.step_everywhere(&step).await {
                return refused(&format!("the nodes go on with both keys: {why}"), next);
            }
        }
        Reply::Accepted { at: clock::now() }
    }

    /// On the others first: this node knows by its own file how far it has come.
    async fn step_everywhere(&self, step: &KeyStep) -> Result<(), String> {
        let mut asked = JoinSet::new();
        for node in self.cluster.others() {
            let (cluster, command) = (self.cluster.clone(), Command::KeyStep { step: step.clone() });
            asked.spawn(async move { (node, cluster.ask(node, command, "root", OTHER_NODE).await) });
        }
        let mut against = Vec::new();
        while let Some(Ok((node, answer))) = asked.join_next().await {
            let name = self.cluster.config().name(node);
            match answer {
                Ok(Reply::Accepted { .. }) => {}
                Ok(Reply::Refused { error, .. }) => against.push(format!("{name}: {error}")),
                Ok(_) => against.push(format!("{name}: an answer to another question")),
                Err(why) => against.push(format!("{name} is unreachable: {why}")),
            }
        }
        if against.is_empty()
            && let Reply::Refused { error, .. } = self.key_step(step)
        {
            against.push(format!("{}: {error}", self.cluster.config().name(self.cluster.me())));
        }
        if against.is_empty() { Ok(()) } else { Err(against.join("; ")) }
    }

    /// The file first: what this node says after a restart is what it says now.
    pub(super) fn key_step(&self, step: &KeyStep) -> Reply {
        let path = &self.cluster.config().cluster.key_file;
        let ring = match read_ring(path) {
            Ok(ring) => ring,
            Err(error) => return refused(&error.to_string(), &error.next_step()),
        };
        let Some(next) = ring.after(step) else {
            return refused(
                "it is in a change of the key that began elsewhere",
                "`safekit keygen --rotate` on that node",
            );
        };
        if let Err(error) = write_ring(path, &next) {
            return refused(&error.to_string(), &error.next_step());
        }
        self.cluster.use_keys(&next.accepted());
        if self.inbox.post(Request::Keys(next.accepted())).is_err() {
            return refused("the heartbeat thread takes no requests", "look at the daemon's log");
        }
        if let Some(text) = said(step) {
            self.journal.note(Note::of_node(Level::Info, "key", text));
        }
        Reply::Accepted { at: clock::now() }
    }
}

fn said(step: &KeyStep) -> Option<&'static str> {
    match step {
        KeyStep::Probe => None,
        KeyStep::Accept { .. } => Some("another cluster key is accepted beside the present one"),
        KeyStep::Send => Some("this node talks with the new cluster key"),
        KeyStep::Settle => Some("only one cluster key is accepted"),
    }
}

/// A new one, or that of a change which was interrupted.
fn key_to_reach(ring: &KeyRing) -> Option<ClusterKey> {
    match &ring.other {
        Some(OtherKey::Next(next)) => return Some(next.clone()),
        Some(OtherKey::Previous(_)) => return Some(ring.sending.clone()),
        None => {}
    }
    let mut bytes = [0; 32];
    loop {
        SystemRandom::new().fill(&mut bytes).ok()?;
        let key = ClusterKey::new(bytes);
        if key_id(&key) != key_id(&ring.sending) {
            return Some(key);
        }
    }
}
