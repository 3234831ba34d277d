//! How a rule group's buckets are shared out, and what operators change of that at run time.

use serde::{Deserialize, Serialize};

use super::{GroupId, NodeId, NodeSet};

/// Who may own buckets of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// By node, in the order of the cluster: a node's part of the traffic follows its weight; 0 = none.
    Weighted(Vec<u32>),
    /// The first of these that is there takes all.
    Cascade(Vec<NodeId>),
}

impl Share {
    /// Whether the node may ever own anything.
    pub fn includes(&self, node: NodeId) -> bool {
        match self {
            Self::Weighted(weights) => weights.get(usize::from(node.0)).is_some_and(|weight| *weight > 0),
            Self::Cascade(order) => order.contains(&node),
        }
    }
}

/// What operators asked for since the configuration was written. All nodes of one generation have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Adjustments {
    /// They take no new session in any group, and keep their connections.
    pub drained: NodeSet,
    /// In the order of group and node, each pair once; [`WEIGHTS_SET_MAX`] at most.
    pub weights: Vec<WeightSet>,
    /// How well the application of a node is, where that is not 100 percent. In the order of group and node, each pair
    /// once; [`HEALTHS_SET_MAX`] at most.
    pub health: Vec<HealthSet>,
}

/// What is left of a node's part of a group, by the health of its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HealthSet {
    pub group: GroupId,
    pub node: NodeId,
    /// 0 to 99.
    pub percent: u8,
}

pub const HEALTHS_SET_MAX: usize = 512;
/// All is well.
pub const HEALTH_FULL: u8 = 100;

/// Weights that a generation can hold against the configuration.
pub const WEIGHTS_SET_MAX: usize = 256;
/// The largest weight, in the configuration and at run time.
pub const WEIGHT_MAX: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WeightSet {
    pub group: GroupId,
    pub node: NodeId,
    pub weight: u32,
}

/// One state of the adjustments. A later one has the higher counter; where two nodes that were parted counted to the
/// same, the proposer tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// 0: as configured.
    pub counter: u32,
    pub proposer: NodeId,
    pub adjustments: Adjustments,
}

impl Generation {
    pub fn configured() -> Self {
        Self { counter: 0, proposer: NodeId(0), adjustments: Adjustments::default() }
    }

    pub fn id(&self) -> GenerationId {
        if self.counter == 0 {
            return GenerationId::CONFIGURED;
        }
        GenerationId::of(self.counter, self.proposer, self.adjustments.hash24())
    }
}

/// Names a generation: counter, then proposer, then a hash of what it holds. So two that differ are told apart and are
/// in one order on all nodes, also where a proposer that had forgotten its last one counted to the same again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationId(u64);

impl GenerationId {
    pub const CONFIGURED: Self = Self(0);

    /// Of `hash` the lower 24 bits count.
    pub fn of(counter: u32, proposer: NodeId, hash: u32) -> Self {
        Self(u64::from(counter) << 32 | u64::from(proposer.0) << 24 | u64::from(hash & 0xff_ffff))
    }

    pub fn counter(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn proposer(self) -> NodeId {
        NodeId((self.0 >> 24) as u8)
    }

    pub fn hash24(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }
}

/// The generations that a node follows at one time: it owns only what is its own in each of them. More than two only
/// where nodes that could not hear each other proposed at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follows([GenerationId; FOLLOWED_MAX]);

pub const FOLLOWED_MAX: usize = 4;

impl Follows {
    pub const CONFIGURED: Self = Self([GenerationId::CONFIGURED; FOLLOWED_MAX]);

    /// Of one to [`FOLLOWED_MAX`] generations, in any order.
    pub fn of(ids: impl IntoIterator<Item = GenerationId>) -> Self {
        let mut sorted: Vec<GenerationId> = ids.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert!((1..=FOLLOWED_MAX).contains(&sorted.len()), "a node follows {} generations", sorted.len());
        let last = sorted.len() - 1;
        Self(std::array::from_fn(|place| sorted[place.min(last)]))
    }

    /// The lowest first, each once.
    pub fn iter(&self) -> impl Iterator<Item = GenerationId> + '_ {
        let places = self.0.iter().enumerate();
        places.filter(|(place, id)| *place == 0 || self.0[place - 1] != **id).map(|(_, id)| *id)
    }

    pub fn contains(&self, id: GenerationId) -> bool {
        self.0.contains(&id)
    }

    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().any(|id| other.contains(*id))
    }

    pub fn highest(&self) -> GenerationId {
        self.0[FOLLOWED_MAX - 1]
    }

    pub fn is_only(&self, id: GenerationId) -> bool {
        self.0 == [id; FOLLOWED_MAX]
    }
}

impl Adjustments {
    /// As `change` wants it already.
    pub fn has(&self, change: &Change) -> bool {
        match *change {
            Change::Drain { node } => self.drained.contains(node),
            Change::Undrain { node } => !self.drained.contains(node),
            Change::Weight { group, node, weight } => self.weight(group, node) == weight,
            Change::Health { group, node, percent } => self.health(group, node) == percent,
        }
    }

    /// In percent.
    pub fn health(&self, group: GroupId, node: NodeId) -> u8 {
        let place = self.health.binary_search_by_key(&(group, node), |set| (set.group, set.node));
        place.map_or(HEALTH_FULL, |place| self.health[place].percent)
    }

    /// Who takes no new session in the group, drained or because its application is down.
    pub fn passed_over(&self, group: GroupId) -> NodeSet {
        let down = self.health.iter().filter(|set| set.group == group && set.percent == 0);
        down.map(|set| set.node).fold(self.drained, NodeSet::with)
    }

    /// None: as configured.
    pub fn weight(&self, group: GroupId, node: NodeId) -> Option<u32> {
        let place = self.weights.binary_search_by_key(&(group, node), |set| (set.group, set.node));
        place.ok().map(|place| self.weights[place].weight)
    }

    /// With the changes, in order. None when that would be more than a generation holds.
    pub fn with(&self, changes: &[Change]) -> Option<Self> {
        let mut next = self.clone();
        for change in changes {
            match *change {
                Change::Drain { node } => next.drained = next.drained.with(node),
                Change::Undrain { node } => next.drained = next.drained.without(node),
                Change::Weight { group, node, weight } => {
                    next.weights.retain(|set| (set.group, set.node) != (group, node));
                    let set = weight.map(|weight| WeightSet { group, node, weight });
                    let place = next.weights.partition_point(|set| (set.group, set.node) < (group, node));
                    next.weights.splice(place..place, set);
                }
                Change::Health { group, node, percent } => {
                    next.health.retain(|set| (set.group, set.node) != (group, node));
                    let set = (percent < HEALTH_FULL).then_some(HealthSet { group, node, percent });
                    let place = next.health.partition_point(|set| (set.group, set.node) < (group, node));
                    next.health.splice(place..place, set);
                }
            }
        }
        let fits = next.weights.len() <= WEIGHTS_SET_MAX && next.health.len() <= HEALTHS_SET_MAX;
        fits.then_some(next)
    }

    /// FNV-1a, folded.
    fn hash24(&self) -> u32 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        eat(&self.drained.0.to_le_bytes());
        for set in &self.weights {
            eat(&set.group.0.to_le_bytes());
            eat(&[set.node.0]);
            eat(&set.weight.to_le_bytes());
        }
        for set in &self.health {
            eat(&set.group.0.to_le_bytes());
            eat(&[set.node.0, set.percent]);
        }
        (hash >> 24 ^ hash) as u32 & 0xff_ffff
    }
}

impl Share {
    /// What is left of it in force. Who is passed over is not looked at here: it is absent.
    pub fn adjusted(&self, group: GroupId, adjustments: &Adjustments) -> Self {
        let weight = |node: NodeId| adjustments.weight(group, node);
        match self {
            Self::Weighted(weights) => {
                let adjusted = |(node, configured): (usize, &u32)| {
                    weight(NodeId(node as u8)).map_or(*configured, |weight| weight.min(WEIGHT_MAX))
                };
                let mut weights: Vec<u32> = weights.iter().enumerate().map(adjusted).collect();
                // In hundredths only where somebody is half well: nothing moves while all are.
                let partly = |set: &HealthSet| set.group == group && set.percent > 0;
                if adjustments.health.iter().any(partly) {
                    for (node, weight) in weights.iter_mut().enumerate() {
                        // Who has nothing left is absent, and back as it was.
                        let percent = match adjustments.health(group, NodeId(node as u8)) {
                            0 => HEALTH_FULL,
                            percent => percent,
                        };
                        *weight *= u32::from(percent);
                    }
                }
                Self::Weighted(weights)
            }
            Self::Cascade(line) => {
                Self::Cascade(line.iter().copied().filter(|node| weight(*node) != Some(0)).collect())
            }
        }
    }
}

/// One thing that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Drain {
        node: NodeId,
    },
    Undrain {
        node: NodeId,
    },
    /// None: as configured.
    Weight {
        group: GroupId,
        node: NodeId,
        weight: Option<u32>,
    },
    /// By the node itself: how well its application is. 0: no new sessions, 100: its whole part.
    Health {
        group: GroupId,
        node: NodeId,
        percent: u8,
    },
}

impl Change {
    /// Two changes of one thing: the later one counts.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        let subject = |change: Self| match change {
            Self::Drain { node } | Self::Undrain { node } => (0, None, node),
            Self::Weight { group, node, .. } => (1, Some(group), node),
            Self::Health { group, node, .. } => (2, Some(group), node),
        };
        subject(*self) == subject(*other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(group: u16, node: u8, weight: Option<u32>) -> Change {
        Change::Weight { group: GroupId(group), node: NodeId(node), weight }
    }

    #[test]
    fn changes_are_kept_in_order_and_taken_back() {
        let changes = [weight(2, 0, Some(7)), weight(1, 3, Some(0)), Change::Drain { node: NodeId(4) }];
        let some = Adjustments::default().with(&changes).expect("three fit");
        assert!(changes.iter().all(|change| some.has(change)));
        assert!(some.weights.is_sorted());
        let back = [weight(2, 0, None), weight(1, 3, None), Change::Undrain { node: NodeId(4) }];
        assert_eq!(some.with(&back), Some(Adjustments::default()));
        let many: Vec<Change> = (0..=256).map(|group| weight(group, 0, Some(2))).collect();
        assert_eq!(some.with(&many), None, "more than a generation holds");
    }

    #[test]
    fn generations_that_differ_have_names_that_differ() {
        let of = |counter, node, changes: &[Change]| Generation {
            counter,
            proposer: NodeId(node),
            adjustments: Adjustments::default().with(changes).expect("few fit"),
        };
        let drained = [Change::Drain { node: NodeId(1) }];
        let ids = [of(0, 0, &[]), of(1, 0, &drained), of(1, 0, &[weight(0, 0, Some(1))]), of(1, 2, &drained)]
            .map(|generation| generation.id());
        assert_eq!(ids[0], GenerationId::CONFIGURED);
        let mut unique = ids.to_vec();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 4);
        assert!(ids[3] > ids[1] && ids[3] > ids[2] && of(2, 0, &[]).id() > ids[3]);
    }

    #[test]
    fn sets_of_generations_are_compared_whatever_their_order() {
        let id = |counter| GenerationId::of(counter, NodeId(0), 0);
        let two = Follows::of([id(5), id(3)]);
        assert_eq!(two, Follows::of([id(3), id(5), id(3)]));
        assert_eq!(two.iter().collect::<Vec<_>>(), [id(3), id(5)]);
        assert!(two.contains(id(3)) && !two.contains(id(4)) && !two.is_only(id(5)));
        assert!(two.intersects(&Follows::of([id(5)])) && !two.intersects(&Follows::of([id(4)])));
        assert_eq!((two.highest(), Follows::of([id(9)]).is_only(id(9))), (id(5), true));
    }

    #[test]
    fn health_takes_a_part_away_and_gives_it_back() {
        let health = |node, percent| Change::Health { group: GroupId(1), node: NodeId(node), percent };
        let share = Share::Weighted(vec![1, 3, 1]);
        let down = Adjustments::default().with(&[health(0, 0)]).expect("one fits");
        assert_eq!(share.adjusted(GroupId(1), &down), share, "absence needs no other ranks");
        assert_eq!(down.passed_over(GroupId(1)), NodeSet::of(NodeId(0)));
        assert_eq!(down.passed_over(GroupId(2)), NodeSet::EMPTY);
        let half = down.with(&[health(1, 50)]).expect("two fit");
        assert_eq!(share.adjusted(GroupId(1), &half), Share::Weighted(vec![100, 150, 100]));
        assert_eq!(half.with(&[health(0, 100), health(1, 100)]), Some(Adjustments::default()));
        assert_ne!(down.hash24(), half.hash24());
    }

    #[test]
    fn an_adjusted_share_keeps_what_nobody_changed() {
        let some = Adjustments::default()
            .with(&[weight(1, 0, Some(5)), weight(1, 2, Some(0)), weight(2, 1, Some(9))])
            .expect("three fit");
        let weighted = Share::Weighted(vec![1, 1, 1]).adjusted(GroupId(1), &some);
        assert_eq!(weighted, Share::Weighted(vec![5, 1, 0]));
        let cascade = Share::Cascade([2, 0, 1].map(NodeId).into()).adjusted(GroupId(1), &some);
        assert_eq!(cascade, Share::Cascade([0, 1].map(NodeId).into()));
    }
}
