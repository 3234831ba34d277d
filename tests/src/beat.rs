//! Heartbeats under any bytes: what the fuzzer and the property test both ask.

use safekit::types::{BootId, ClusterKey, NodeId, Seq};
use safekit::wire::heartbeat::{Beat, Body, decode, encode};
use safekit::wire::seal::{Header, Opener, Refused, Sealer, VERSION};

const KEY: ClusterKey = ClusterKey::new([7; 32]);
const OTHER_KEY: ClusterKey = ClusterKey::new([8; 32]);
const CLUSTER: &str = "shop";
const NODES: usize = 3;
const HEADER: Header = Header { sender: NodeId(1), boot: BootId([0x42; 16]), seq: Seq(1) };

/// The first three bytes say how the datagram is spoiled on its way, the rest is a body. Whatever the body: what is
/// understood is understood the same way after it was sent again; what was sealed comes out unchanged, and what was
/// spoiled, cut, lengthened, or sealed with another key or by a later version is refused and counted, once. Whether
/// the body was understood.
pub fn check(bytes: &[u8]) -> bool {
    let Some((how, body)) = bytes.split_first_chunk::<3>() else { return false };
    let understood = decode(body);
    if let Ok(message) = &understood {
        assert_eq!(decode(&encode(message)).as_ref(), Ok(message), "sent again");
    }
    let mut datagram = Vec::new();
    Sealer::new(&KEY, CLUSTER, HEADER.sender, HEADER.boot).seal(HEADER.seq, body, &mut datagram);
    let mut opener = Opener::new(&KEY, CLUSTER, NODES);
    assert_eq!(opener.open(&mut datagram.clone()), Ok((HEADER, body)));
    let (mut spoiled, mut opens, expected) = spoil(*how, &datagram);
    let refused = opens.open(&mut spoiled).map(|_| ()).expect_err("a spoiled datagram came through");
    assert!(expected.is_none_or(|expected| refused == expected), "{refused}");
    assert_eq!((opens.refused(refused), opens.refused_total()), (1, 1), "it is counted");
    // The same bytes as they are: whoever sends them does not know the key.
    opener.open(&mut bytes.to_vec()).expect_err("noise came through");
    assert_eq!(opener.refused_total(), 1);
    understood.is_ok()
}

/// The datagram as it arrives, who opens it, and why it is refused, where that is certain.
fn spoil([kind, high, low]: [u8; 3], datagram: &[u8]) -> (Vec<u8>, Opener, Option<Refused>) {
    let place = usize::from(u16::from_be_bytes([high, low])) % datagram.len();
    let mut spoiled = datagram.to_vec();
    let opener = |key, cluster, nodes| Opener::new(key, cluster, nodes);
    let ours = opener(&KEY, CLUSTER, NODES);
    match kind % 7 {
        0 => {
            spoiled[place] ^= 1 << (kind >> 5);
            (spoiled, ours, None)
        }
        1 => {
            spoiled.truncate(place);
            (spoiled, ours, None)
        }
        2 => {
            spoiled.insert(place, low);
            // A byte that equals its neighbour lengthens all the same.
            (spoiled, ours, None)
        }
        3 => {
            spoiled[2] = VERSION + 1 + low % 200;
            (spoiled, ours, Some(Refused::OtherVersion))
        }
        4 => (spoiled, opener(&OTHER_KEY, CLUSTER, NODES), Some(Refused::NotAuthentic)),
        5 => (spoiled, opener(&KEY, "bank", NODES), Some(Refused::OtherCluster)),
        _ => (spoiled, opener(&KEY, CLUSTER, 1), Some(Refused::UnknownSender)),
    }
}

/// Bodies that nodes send, in each way of spoiling.
pub fn seeds() -> Vec<Vec<u8>> {
    let beat = quiet();
    let busy = Beat {
        wishes: vec![safekit::types::Change::Drain { node: NodeId(2) }],
        drain: Some(safekit::types::snapshot::DrainInfo { left: 2, of: 3118 }),
        partial: true,
        ..beat.clone()
    };
    let bodies = [Body::Obituary, Body::Beat(Box::new(beat)), Body::Beat(Box::new(busy))];
    let all =
        bodies.iter().flat_map(|body| (0..7).map(move |kind| [&[kind, 0, 40], &encode(body)[..]].concat()));
    all.collect()
}

/// Of a node that is alone, with nothing to say.
fn quiet() -> Beat {
    use safekit::types::snapshot::MemberState;
    use safekit::types::{Follows, NodeSet, Notes};
    Beat {
        state: MemberState::Active,
        rx_ok: true,
        config: 1,
        view: NodeSet(0b010),
        follows: Follows::default(),
        offers: vec![],
        wishes: vec![],
        peers: vec![],
        partial: false,
        acks: vec![],
        held: vec![],
        loads: vec![],
        drain: None,
        notes: Notes::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 20_000;

    #[test]
    fn the_seeds_are_understood() {
        assert!(seeds().iter().all(|seed| check(seed)));
    }

    #[test]
    fn any_body_on_any_way_is_refused_or_understood() {
        let seeds = seeds();
        let mut random = fastrand::Rng::with_seed(5);
        let (mut understood, mut refused) = (0, 0);
        for _ in 0..ROUNDS {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            bytes[..3].fill_with(|| random.u8(..));
            for _ in 0..random.usize(..3) {
                let place = random.usize(3..bytes.len());
                match random.u8(..3) {
                    0 => bytes[place] = random.u8(..),
                    1 => bytes.insert(place, random.u8(..)),
                    _ => bytes.truncate(place.max(4)),
                }
            }
            if check(&bytes) { understood += 1 } else { refused += 1 }
        }
        assert!(
            understood > ROUNDS / 10 && refused > ROUNDS / 10,
            "{understood} understood, {refused} refused"
        );
    }
}
