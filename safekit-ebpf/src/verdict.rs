//! The verdict: two bits of a bucket, the lease, and what the kernel's own sockets say.
//!
//! | bucket | opens a connection | belongs to one | needs no connection |
//! |---|---|---|---|
//! | mine, stable | pass | pass | pass |
//! | mine, transitional | pass | pass iff a local socket has it | pass |
//! | not mine, transitional | drop | pass iff a local socket has it | drop |
//! | not mine, stable | drop | drop | drop |
//!
//! Past its lease a node treats what is its own as lost: "not mine, transitional".

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not the farm's: to the stack, untouched.
    Untouched,
    /// The farm's and this node's: to the stack, under the node's own MAC.
    Accept,
    /// An ARP request has been turned into its answer: back out.
    Answer,
    Drop,
}

/// Why. One counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reason {
    /// Not for a virtual IP.
    NotFarm = 0,
    /// Too short or too odd to have a destination.
    Unreadable = 1,
    /// In a bucket of this node.
    Mine = 2,
    /// In a bucket gained lately; a local socket has the connection.
    MineBySocket = 3,
    /// In a bucket of another node; a local socket has the connection.
    Kept = 4,
    /// In a bucket of another node.
    Foreign = 5,
    /// In a bucket gained lately; no local socket has the connection: its former owner may.
    Unproven = 6,
    /// In a bucket of this node, but its lease has run out.
    LeaseOver = 7,
    /// To a virtual IP, but no rule names protocol and port.
    NoRule = 8,
    /// A fragment to a virtual IP.
    Fragment = 9,
    /// An ICMP message other than an echo request to a virtual IP.
    Icmp = 10,
    /// A protocol other than TCP, UDP and ICMP, or a chain of headers longer than we follow.
    Protocol = 11,
    /// To a virtual IP, and cut short.
    Malformed = 12,
    /// An ARP request for a virtual IP that this node answers.
    ArpAnswered = 13,
    /// An ARP request for a virtual IP that another node answers.
    ArpForeign = 14,
    /// Any other ARP about a virtual IP: announcements of peers, or somebody who claims it.
    ArpOther = 15,
    /// On an interface that the filter does not know.
    Interface = 16,
}

impl Reason {
    pub const ALL: [Self; 17] = [
        Self::NotFarm,
        Self::Unreadable,
        Self::Mine,
        Self::MineBySocket,
        Self::Kept,
        Self::Foreign,
        Self::Unproven,
        Self::LeaseOver,
        Self::NoRule,
        Self::Fragment,
        Self::Icmp,
        Self::Protocol,
        Self::Malformed,
        Self::ArpAnswered,
        Self::ArpForeign,
        Self::ArpOther,
        Self::Interface,
    ];

    /// As `status` and the metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFarm => "not_farm",
            Self::Unreadable => "unreadable",
            Self::Mine => "mine",
            Self::MineBySocket => "mine_by_socket",
            Self::Kept => "kept",
            Self::Foreign => "foreign",
            Self::Unproven => "unproven",
            Self::LeaseOver => "lease_over",
            Self::NoRule => "no_rule",
            Self::Fragment => "fragment",
            Self::Icmp => "icmp",
            Self::Protocol => "protocol",
            Self::Malformed => "malformed",
            Self::ArpAnswered => "arp_answered",
            Self::ArpForeign => "arp_foreign",
            Self::ArpOther => "arp_other",
            Self::Interface => "interface",
        }
    }
}

/// How a packet stands to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A TCP SYN without ACK.
    Opens,
    /// Any other TCP segment.
    Belongs,
    /// UDP, echo, ARP: the owner of the bucket answers.
    Alone,
}

/// The state of a bucket on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Mine,
    Gained,
    Lost,
    Foreign,
}

impl Standing {
    /// From the two bits of the table.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            1 => Self::Mine,
            3 => Self::Gained,
            2 => Self::Lost,
            _ => Self::Foreign,
        }
    }
}

/// The table above. `lease_live` and `has_socket` are asked only where they decide.
#[inline(always)]
pub fn judge(
    standing: Standing,
    role: Role,
    lease_live: impl FnOnce() -> bool,
    has_socket: impl FnOnce() -> bool,
) -> (Verdict, Reason) {
    match (standing, role) {
        (Standing::Foreign, Role::Opens | Role::Belongs | Role::Alone)
        | (Standing::Lost, Role::Opens | Role::Alone) => (Verdict::Drop, Reason::Foreign),
        (Standing::Mine | Standing::Gained, Role::Opens | Role::Alone) => {
            if lease_live() {
                (Verdict::Accept, Reason::Mine)
            } else {
                (Verdict::Drop, Reason::LeaseOver)
            }
        }
        (Standing::Mine, Role::Belongs) => {
            if lease_live() {
                (Verdict::Accept, Reason::Mine)
            } else if has_socket() {
                (Verdict::Accept, Reason::Kept)
            } else {
                (Verdict::Drop, Reason::LeaseOver)
            }
        }
        (Standing::Gained, Role::Belongs) => {
            if has_socket() {
                (Verdict::Accept, Reason::MineBySocket)
            } else {
                (Verdict::Drop, Reason::Unproven)
            }
        }
        (Standing::Lost, Role::Belongs) => {
            if has_socket() {
                (Verdict::Accept, Reason::Kept)
            } else {
                (Verdict::Drop, Reason::Foreign)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row of the table, for both leases and both answers of the sockets.
    #[test]
    fn the_table_holds() {
        use Reason::{Foreign, Kept, LeaseOver, Mine, MineBySocket, Unproven};
        use Role::{Alone, Belongs, Opens};
        let rows = [
            // standing, role, then (lease, socket): (yes, yes) (yes, no) (no, yes) (no, no)
            (Standing::Mine, Opens, [Mine, Mine, LeaseOver, LeaseOver]),
            (Standing::Mine, Belongs, [Mine, Mine, Kept, LeaseOver]),
            (Standing::Mine, Alone, [Mine, Mine, LeaseOver, LeaseOver]),
            (Standing::Gained, Opens, [Mine, Mine, LeaseOver, LeaseOver]),
            (Standing::Gained, Belongs, [MineBySocket, Unproven, MineBySocket, Unproven]),
            (Standing::Gained, Alone, [Mine, Mine, LeaseOver, LeaseOver]),
            (Standing::Lost, Opens, [Foreign; 4]),
            (Standing::Lost, Belongs, [Kept, Foreign, Kept, Foreign]),
            (Standing::Lost, Alone, [Foreign; 4]),
            (Standing::Foreign, Opens, [Foreign; 4]),
            (Standing::Foreign, Belongs, [Foreign; 4]),
            (Standing::Foreign, Alone, [Foreign; 4]),
        ];
        for (standing, role, reasons) in rows {
            let conditions = [(true, true), (true, false), (false, true), (false, false)];
            for ((lease, socket), reason) in conditions.into_iter().zip(reasons) {
                let passes = matches!(reason, Mine | MineBySocket | Kept);
                let verdict = if passes { Verdict::Accept } else { Verdict::Drop };
                assert_eq!(
                    judge(standing, role, || lease, || socket),
                    (verdict, reason),
                    "{standing:?} {role:?} lease {lease} socket {socket}"
                );
            }
        }
    }

    #[test]
    fn a_stable_bucket_of_another_node_costs_no_look_up() {
        for role in [Role::Opens, Role::Belongs, Role::Alone] {
            let asked = || unreachable!("neither lease nor sockets decide here");
            assert_eq!(judge(Standing::Foreign, role, asked, asked), (Verdict::Drop, Reason::Foreign));
        }
    }

    #[test]
    fn reasons_are_numbered_as_listed() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.as_str());
        }
        assert!(Reason::ALL.len() <= crate::abi::REASONS_MAX as usize);
    }
}
