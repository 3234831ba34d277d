//! The counting thread: which buckets of other nodes still hold live connections of this one, and how many it has in all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::datapath::FlowNotes;
use super::inbox::{Inbox, Request};
use super::{clock, connections};
use crate::config::{Balance, Config, Evidence, Protocol, Rule};
use crate::engine::farm::Table;
use crate::types::{Bucket, BucketBits, GroupId};

/// One count to make: of connections in buckets that are not this table's.
pub struct Census {
    pub group: GroupId,
    pub table: Arc<Table>,
}

/// One count under way and one waiting; the engine repeats what was dropped.
const CENSUSES_MAX: usize = 1;

/// How often all connections are counted, unless that takes longer than a twentieth of it.
const HEADCOUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Where a connection of a farm's TCP rule falls.
pub struct Places {
    /// By virtual IP, the narrowest first: that is the one that counts.
    rules: HashMap<IpAddr, Vec<Rule>>,
    bucket_of: BucketOf,
}

/// The filter's own hash: (balance, client, client's port) to bucket.
pub type BucketOf = Box<dyn Fn(Balance, IpAddr, u16) -> Bucket + Send>;

impl Places {
    pub fn new(config: &Config, bucket_of: BucketOf) -> Self {
        let mut rules: HashMap<_, Vec<_>> = HashMap::new();
        for farm in config.farms() {
            let mut of_tcp: Vec<Rule> =
                farm.rules.iter().filter(|rule| rule.protocol == Protocol::Tcp).cloned().collect();
            of_tcp.sort_by_key(|rule| rule.ports.width());
            for vip in &farm.virtual_ips {
                rules.insert(vip.address, of_tcp.clone());
            }
        }
        Self { rules, bucket_of }
    }

    /// Every group that has rules for TCP, with nothing counted yet.
    fn groups(&self) -> BTreeMap<GroupId, u32> {
        self.rules.values().flatten().map(|rule| (rule.group, 0)).collect()
    }

    /// The rule that a connection is counted under. None also for those that are counted by what the filter has noted.
    fn rule(&self, connection: &connections::Connection) -> Option<&Rule> {
        let rules = self.rules.get(&connection.local)?;
        let rule = rules.iter().find(|rule| rule.ports.contains(connection.local_port))?;
        (rule.evidence != Evidence::Flows).then_some(rule)
    }

    fn place(&self, connection: &connections::Connection) -> Option<(GroupId, Bucket)> {
        let rule = self.rule(connection)?;
        Some((rule.group, (self.bucket_of)(rule.balance, connection.peer, connection.peer_port)))
    }
}

/// Starts the thread. It ends when the sender is dropped.
pub fn start(places: Places, notes: Arc<FlowNotes>, inbox: Inbox) -> std::io::Result<SyncSender<Census>> {
    let (sender, receiver) = sync_channel(CENSUSES_MAX);
    std::thread::Builder::new()
        .name("census".into())
        .spawn(move || run(&places, &notes, &inbox, &receiver))?;
    Ok(sender)
}

fn run(places: &Places, notes: &FlowNotes, inbox: &Inbox, censuses: &Receiver<Census>) {
    let mut next = clock::now();
    loop {
        match censuses.recv_timeout(next.since(clock::now())) {
            Ok(census) => count(places, notes, inbox, &census),
            Err(RecvTimeoutError::Timeout) => {
                let began = clock::now();
                headcount(places, inbox);
                let took = clock::now().since(began);
                next = clock::now() + HEADCOUNT_INTERVAL.max(took * 20);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// For screens, of sockets alone: a count that fails or finds the inbox full leaves the figures as they were.
fn headcount(places: &Places, inbox: &Inbox) {
    let mut live: BTreeMap<GroupId, u32> = places.groups();
    let counted = connections::live(|connection| {
        if let Some(rule) = places.rule(&connection) {
            *live.entry(rule.group).or_default() += 1;
        }
    });
    if counted.is_ok() {
        let _full = inbox.post(Request::Live(live.into_iter().collect()));
    }
}

fn count(places: &Places, notes: &FlowNotes, inbox: &Inbox, census: &Census) {
    let since = clock::now();
    let mut buckets = BucketBits::none(census.table.mine.capacity());
    let mut connections = 0;
    let counted = connections::live(|connection| {
        let Some((group, bucket)) = places.place(&connection) else { return };
        if group == census.group && !census.table.mine.contains(bucket) {
            buckets.insert(bucket);
            connections += 1;
        }
    });
    let noted = notes.held(census.group, &census.table, since, |bucket| {
        buckets.insert(bucket);
        connections += 1;
    });
    match (counted, noted) {
        // Dropped when the inbox is full: the engine asks again.
        (Ok(()), Ok(())) => {
            let _full = inbox.post(Request::Counted { group: census.group, buckets, since, connections });
        }
        (Err(error), _) => {
            tracing::warn!(%error, "cannot count live connections; transitions last longer");
        }
        (Ok(()), Err(error)) => {
            tracing::warn!(%error, "cannot count noted flows; transitions last longer");
        }
    }
}
