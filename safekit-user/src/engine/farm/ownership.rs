//! One rule group: which buckets are mine, in which order they change hands (R3, R6).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::peers::{Life, Peer};
use super::rank::Ranks;
use super::transition::{self, Gained, Lost};
use super::view::Basis;
use super::{Engine, Group, Output, Setup, Table, View};
use crate::types::snapshot::MemberState;
use crate::types::{
    Bucket, BucketBits, EventKind, Generation, GroupId, Instant, NodeId, NodeSet, Share, ViewId,
};
use crate::wire::heartbeat::{HELD_RUN, Held, Load};

#[derive(Debug)]
pub(super) struct Ownership {
    id: GroupId,
    me: NodeId,
    hold: Duration,
    /// By followed generation, the lowest first.
    orders: Vec<Order>,
    /// Live connections, as counted last.
    pub(super) load: Load,
    /// As last written.
    table: Arc<Table>,
    mine: BucketBits,
    /// What may be mine by the present basis.
    allowed: BucketBits,
    take_at: Option<Instant>,
    gained: Gained,
    lost: Lost,
    /// Runs in which some peer may have live connections.
    held_by_peers: BucketBits,
    /// Something that the table follows from has changed.
    changed: bool,
    owners: Owners,
    /// The application of this node is down: it owns nothing, whatever is agreed (R14).
    closed: bool,
}

/// Who comes first where, in one generation.
#[derive(Clone, Debug)]
pub(super) struct Order {
    share: Share,
    ranks: Arc<Ranks>,
    /// Drained, or their application is down: they are passed over.
    absent: NodeSet,
}

impl Order {
    /// Ranks are the expensive part; those of a share that is in use already are shared.
    pub(super) fn of(setup: &Setup, group: GroupId, generation: &Generation, known: &[Self]) -> Self {
        let configured = setup.groups.iter().find(|configured| configured.id == group);
        let configured = &configured.expect("the group is one of the setup").share;
        let share = configured.adjusted(group, &generation.adjustments);
        let same = known.iter().find(|order| order.share == share);
        let ranks = same.map_or_else(
            || Arc::new(Ranks::of(&setup.nodes, &share, setup.buckets)),
            |order| Arc::clone(&order.ranks),
        );
        Self { share, ranks, absent: generation.adjustments.passed_over(group) }
    }

    pub(super) fn first(&self, bucket: Bucket, live: NodeSet) -> Option<NodeId> {
        self.ranks.first(bucket, live.minus(self.absent))
    }

    pub(super) fn preference(&self, bucket: Bucket, live: NodeSet) -> Vec<NodeId> {
        self.ranks.order(bucket, live.minus(self.absent))
    }

    fn may_own(&self, node: NodeId) -> bool {
        !self.absent.contains(node) && self.ranks.may_own(node)
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }
}

/// A take comes in a later step than the release or the announcement of the same change.
const TAKE_AFTER: Duration = Duration::from_millis(1);

impl Ownership {
    pub(super) fn new(setup: &Setup, group: &Group, followed: &[Arc<Generation>], now: Instant) -> Self {
        assert!(setup.buckets.is_multiple_of(64 * HELD_RUN), "runs of buckets fill whole words");
        let none = BucketBits::none(setup.buckets);
        Self {
            id: group.id,
            me: setup.me,
            hold: setup.hold,
            orders: orders(setup, group.id, followed, &[]),
            load: Load { group: group.id, live: 0, held: 0 },
            table: Arc::new(Table { mine: none.clone(), transitional: none.clone() }),
            mine: none.clone(),
            allowed: none,
            take_at: None,
            gained: Gained::default(),
            lost: Lost::all(setup.buckets, now),
            held_by_peers: BucketBits::none(setup.buckets / HELD_RUN),
            changed: true,
            owners: Owners::new(setup.buckets, now),
            closed: false,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.id
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// By the generation in force; while a change is under way, by the one before it.
    pub(super) fn in_force(&self) -> &Order {
        &self.orders[0]
    }

    pub(super) fn orders(&self) -> &[Order] {
        &self.orders
    }

    pub(super) fn follow_generations(&mut self, setup: &Setup, followed: &[Arc<Generation>]) {
        self.orders = orders(setup, self.id, followed, &self.orders);
    }

    /// In some generation that I know of.
    pub(super) fn may_own(&self, node: NodeId) -> bool {
        self.orders.iter().any(|order| order.may_own(node))
    }

    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    pub(super) fn take_at(&self) -> Option<Instant> {
        self.take_at
    }

    pub(super) fn is_drained(&self) -> bool {
        self.lost.is_empty()
    }

    pub(super) fn wants_count(&mut self, now: Instant) -> bool {
        self.lost.wants_count(now)
    }

    /// Not counted yet since something was given up.
    pub(super) fn is_uncounted(&self) -> bool {
        self.lost.is_uncounted()
    }

    /// Live connections in buckets of other nodes.
    pub(super) fn held_now(&self) -> u32 {
        if self.lost.is_empty() { 0 } else { self.load.held }
    }

    /// A new view began.
    pub(super) fn follow(&mut self, view: &View) {
        self.owners.begin(view);
        self.show(view);
    }

    pub(super) fn show(&mut self, view: &View) {
        self.owners.show(&self.orders[0], view);
    }

    /// For heartbeats: where this node may have live connections. What is not counted yet is held.
    pub(super) fn held(&self) -> Option<Held> {
        if self.lost.is_empty() {
            return None;
        }
        let mut lost = BucketBits::none(self.mine.capacity());
        self.lost.add_to(&mut lost);
        Some(Held { group: self.id, runs: transition::coarse(&lost) })
    }

    fn count(&mut self, buckets: &BucketBits, since: Instant) {
        let mut held = buckets.clone();
        transition::remove_all(&mut held, &self.mine);
        self.lost.counted(held, since);
        self.changed = true;
    }

    /// Releases at once what the basis no longer allows, and arranges for the rest to be taken.
    fn rebase(&mut self, basis: &Basis, now: Instant) -> bool {
        let yields = basis.yields.iter().any(|node| basis.strangers.contains(node) || self.may_own(node));
        let serve = basis.serve && !yields && !self.closed && self.may_own(self.me);
        let first = |order: &Order, bucket| order.first(bucket, basis.live) == Some(self.me);
        let is_mine = |bucket| serve && self.orders.iter().all(|order| first(order, bucket));
        self.allowed = BucketBits::from_fn(self.mine.capacity(), is_mine);
        let mut released = self.mine.clone();
        transition::remove_all(&mut released, &self.allowed);
        let mut takes = self.allowed.clone();
        transition::remove_all(&mut takes, &self.mine);
        self.take_at = (!takes.is_empty()).then(|| now + TAKE_AFTER);
        if released.is_empty() {
            return false;
        }
        transition::keep_only(&mut self.mine, &self.allowed);
        self.lost.add(now, released);
        true
    }

    fn take(&mut self, now: Instant) {
        self.take_at = None;
        let mut taken = self.allowed.clone();
        transition::remove_all(&mut taken, &self.mine);
        self.lost.remove(&taken);
        transition::insert_all(&mut self.mine, &taken);
        self.gained.add(now, taken);
    }

    fn transitional(&self) -> BucketBits {
        let mut bits = transition::fine(&self.held_by_peers);
        self.gained.add_to(&mut bits);
        transition::keep_only(&mut bits, &self.mine);
        self.lost.add_to(&mut bits);
        bits
    }

    fn new_table(&mut self) -> Option<Arc<Table>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let table = Table { mine: self.mine.clone(), transitional: self.transitional() };
        if table == *self.table {
            return None;
        }
        self.table = Arc::new(table);
        Some(Arc::clone(&self.table))
    }

    /// Where a peer may have live connections.
    pub(super) fn reports<'a>(&self, life: &'a Life, silence: Duration) -> Reports<'a> {
        // Third nodes tell that it holds connections, not where. And one that goes by a view without me may own
        // anything, which it does not report. Both may hold connections anywhere.
        let unheard = life.direct.is_none_or(|(_, at)| life.fresh.since(at) > silence)
            || (life.best.holds && life.best.seq > life.direct_seq());
        let apart = life.best.state == MemberState::Active && !life.best.view.contains(self.me);
        if unheard || apart || !life.best.rx_ok {
            return Reports::Anywhere;
        }
        let reported = life.held.iter().find(|held| held.group == self.id);
        match reported.filter(|held| held.runs.capacity() == self.runs()) {
            Some(held) => Reports::Runs(&held.runs),
            None => Reports::Nothing,
        }
    }

    pub(super) fn runs(&self) -> usize {
        self.held_by_peers.capacity()
    }

    /// Collects what the peers report, silent ones included for HOLD. Says whether that changed.
    fn hear_held(&mut self, peers: &[Peer], now: Instant, silence: Duration) -> bool {
        let mut runs = BucketBits::none(self.held_by_peers.capacity());
        let lately = |life: &&Life| now.since(life.fresh) <= self.hold;
        // A life that cannot prove itself can have connections all the same.
        if peers.iter().flat_map(|peer| &peer.candidates).any(|life| lately(&life)) {
            runs.words_mut().fill(u64::MAX);
        }
        for life in peers.iter().filter_map(|peer| peer.life.as_ref()).filter(lately) {
            match self.reports(life, silence) {
                Reports::Nothing => {}
                Reports::Anywhere => runs.words_mut().fill(u64::MAX),
                Reports::Runs(held) => transition::insert_all(&mut runs, held),
            }
        }
        let changed = runs != self.held_by_peers;
        self.held_by_peers = runs;
        changed
    }
}

fn orders(setup: &Setup, group: GroupId, followed: &[Arc<Generation>], known: &[Order]) -> Vec<Order> {
    let mut known = known.to_vec();
    let mut orders = Vec::with_capacity(followed.len());
    for generation in followed {
        let order = Order::of(setup, group, generation, &known);
        known.push(order.clone());
        orders.push(order);
    }
    orders
}

impl Engine {
    /// Brings the tables into line with the facts. While answers are awaited (R7) the kernel is shut, so to whom I
    /// yield makes no difference; most waits end with the table that was there before.
    pub(super) fn own(&mut self, tick: bool) {
        let mut basis = self.new_basis();
        if self.waits_for_answers() {
            basis.yields = self.basis.yields;
        }
        let rebased = basis != self.basis;
        self.basis = basis;
        if !self.basis.serve {
            self.stop_accepting();
        }
        let now = self.now;
        let silence = self.setup.timing.timeout;
        let news = std::mem::take(&mut self.held_news);
        let at_once = !self.setup.rules.release_first;
        for group in &mut self.groups {
            let closed = self.health.is_closed(group.id, &self.setup.rules);
            let turned = std::mem::replace(&mut group.closed, closed) != closed;
            let released = (rebased || turned) && group.rebase(&self.basis, now);
            let taken = group.take_at.is_some_and(|at| at_once || now >= at);
            if taken {
                group.take(now);
            }
            let expired = tick && group.gained.expire(now, group.hold);
            let held = (tick || news) && group.hear_held(&self.peers, now, silence);
            group.changed |= released || taken || expired || held;
            self.voice.urgent |= released;
        }
        self.write_tables();
    }

    /// One write a change, never half of one.
    pub(super) fn write_tables(&mut self) {
        for place in 0..self.groups.len() {
            let Some(table) = self.groups[place].new_table() else { continue };
            let group = self.groups[place].id;
            let (owned, transitional) = (table.mine.len() as u32, table.transitional.len() as u32);
            self.outputs.push_back(Output::WriteTable { group, table });
            self.event(EventKind::Applied { group, owned, transitional });
        }
    }

    pub(super) fn count_held(&mut self, group: GroupId, buckets: &BucketBits, since: Instant, held: u32) {
        let Some(group) = self.groups.iter_mut().find(|known| known.id == group) else { return };
        assert_eq!(buckets.capacity(), self.setup.buckets, "the driver counts in this cluster's buckets");
        group.load.held = held;
        group.count(buckets, since);
    }
}

/// Live connections of a peer in buckets that are not its own.
pub(super) enum Reports<'a> {
    Nothing,
    Anywhere,
    Runs(&'a BucketBits),
}

/// Who owns each bucket by this node's view, and since which view.
#[derive(Debug)]
pub(super) struct Owners {
    owner: Vec<u8>,
    since: Vec<u32>,
    /// When each view began; the oldest first.
    views: VecDeque<(ViewId, Instant)>,
}

const NOBODY: u8 = u8::MAX;
/// Older changes than these views are shown as having come with the oldest of them.
const VIEWS_MAX: usize = 1024;

impl Owners {
    fn new(buckets: usize, now: Instant) -> Self {
        let views = VecDeque::from([(ViewId(0), now)]);
        Self { owner: vec![NOBODY; buckets], since: vec![0; buckets], views }
    }

    fn begin(&mut self, view: &View) {
        if self.views.len() >= VIEWS_MAX {
            self.views.pop_front();
        }
        self.views.push_back((view.id, view.since));
    }

    fn show(&mut self, order: &Order, view: &View) {
        for bucket in 0..self.owner.len() {
            let owner = order.first(Bucket(bucket as u16), view.members).map_or(NOBODY, |node| node.0);
            if owner != self.owner[bucket] {
                self.owner[bucket] = owner;
                self.since[bucket] = view.id.0 as u32;
            }
        }
    }

    pub(super) fn by_bucket(&self) -> &[u8] {
        &self.owner
    }

    pub(super) fn owner(&self, bucket: Bucket) -> Option<NodeId> {
        let owner = self.owner[usize::from(bucket.0)];
        (owner != NOBODY).then_some(NodeId(owner))
    }

    pub(super) fn since(&self, bucket: Bucket) -> (ViewId, Instant) {
        let since = u64::from(self.since[usize::from(bucket.0)]);
        let place = self.views.partition_point(|(view, _)| view.0 < since);
        self.views[place.min(self.views.len() - 1)]
    }

    pub(super) fn shares(&self, nodes: usize) -> Vec<u32> {
        let mut shares = vec![0; nodes];
        for owner in self.owner.iter().filter(|owner| **owner != NOBODY) {
            shares[usize::from(*owner)] += 1;
        }
        shares
    }
}
