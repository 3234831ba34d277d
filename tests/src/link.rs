//! Frames between nodes under any bytes: what the fuzzer and the property test both ask.

use safekit::wire::link::{
    Answered, Decoder, FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, Refused, Sent, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte says into which pieces the rest is cut on its way. Nothing panics, pieces make no difference, and what
/// is understood is understood the same way after it was sent again.
pub fn check(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let piece = usize::from(*piece).max(1);
    check_as::<Hello>(bytes, piece, HELLO_BYTES_MAX);
    check_as::<Sent>(bytes, piece, FRAME_BYTES_MAX);
    check_as::<Answered>(bytes, piece, FRAME_BYTES_MAX);
}

fn check_as<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    piece: usize,
    bytes_max: usize,
) {
    let whole = decode::<T>(std::iter::once(bytes), bytes_max);
    assert_eq!(decode::<T>(bytes.chunks(piece), bytes_max), whole, "cut into pieces of {piece}");
    let (messages, _) = whole;
    for message in messages {
        // A float of the snapshot would be another after rounding; there is none in what nodes say.
        let again = encode(&message).expect("it came in a frame, and takes no more than twice its bytes");
        assert_eq!(decode::<T>(std::iter::once(&again[..]), FRAME_BYTES_MAX).0, [message]);
    }
}

/// All messages until the first that is refused, or until the bytes end.
fn decode<'a, T: DeserializeOwned>(
    pieces: impl Iterator<Item = &'a [u8]>,
    bytes_max: usize,
) -> (Vec<T>, Option<Refused>) {
    let mut decoder = Decoder::new(bytes_max);
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(refused) => return (messages, Some(refused)),
            }
        }
    }
    (messages, None)
}

/// What nodes say, one of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    use safekit::types::cluster::{ApplyMessage, Effect, Proposal};
    use safekit::types::{Command, ConfigIdentity, ConfigVersion, Instant, Reply};
    let hello = Hello { version: 1, cluster: "shop".into(), node: "web1".into(), program: "1".into() };
    let ask = |command| Sent::Ask { id: 7, by: "root on web1".into(), command };
    let version = ConfigVersion { number: 1, by: "web1".into(), attempt: 2 };
    let prepare = ApplyMessage::Prepare { proposal: Proposal::default(), dry_run: true };
    let yes = ApplyMessage::Yes { version, effect: Effect::default() };
    let frames = [
        encode(&hello),
        encode(&ask(Command::Status)),
        encode(&ask(Command::Agree { message: prepare })),
        encode(&ask(Command::Agree { message: yes })),
        encode(&Sent::News { reports: vec![], config: ConfigIdentity::default() }),
        encode(&Answered::Heard),
        encode(&Answered::Answer { id: 7, reply: Reply::Accepted { at: Instant(1) } }),
    ];
    frames.into_iter().map(|frame| [&[3][..], &frame.expect("it is short")].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 100_000;

    /// Frames that are torn, joined, and changed in places.
    #[test]
    fn any_bytes_are_refused_or_understood() {
        let seeds = seeds();
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..ROUNDS {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            bytes.extend_from_slice(&seeds[random.usize(..seeds.len())][1..]);
            for _ in 0..random.usize(..4) {
                let place = random.usize(..bytes.len().max(1));
                if bytes.len() < 2 {
                    break;
                }
                match random.u8(..3) {
                    0 => bytes[place] = random.u8(..),
                    1 => drop(bytes.remove(place)),
                    _ => bytes.truncate(place.max(1)),
                }
            }
            check(&bytes);
        }
    }

    #[test]
    fn the_seeds_are_understood() {
        for seed in seeds() {
            let bytes = &seed[1..];
            let understood = decode::<Hello>(std::iter::once(bytes), HELLO_BYTES_MAX).0.len()
                + decode::<Sent>(std::iter::once(bytes), FRAME_BYTES_MAX).0.len()
                + decode::<Answered>(std::iter::once(bytes), FRAME_BYTES_MAX).0.len();
            assert_eq!(understood, 1, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
