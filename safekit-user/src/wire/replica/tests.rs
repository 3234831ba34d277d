//! Frames cut anywhere, changed, and made of garbage.

use super::*;

fn write(offset: u64) -> Frame {
    let operation = Operation::Write { object: ObjectId(7), offset };
    Frame::Operation { position: Position(3), acknowledge: Acknowledge::Disk, operation }
}

fn named(name: &[u8]) -> Frame {
    Frame::Place { object: ObjectId(7), parent: ObjectId::ROOT, name: name.to_vec() }
}

fn wire(frames: &[(Frame, &[u8])]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (frame, bulk) in frames {
        encode(frame, bulk, &mut wire);
    }
    wire
}

fn first(wire: &[u8]) -> Result<Option<(Frame, Vec<u8>)>, Refused> {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(wire);
    Ok(decoder.take()?.map(|(frame, bulk)| (frame, bulk.to_vec())))
}

/// However the bytes are cut on their way, the same frames come out in their order.
#[test]
fn pieces_of_any_size_make_the_same_frames() {
    let sent: [(Frame, &[u8]); 3] =
        [(write(0), b"hello"), (Frame::Message(Message::Alive), b""), (named(b"a b\xff"), b"")];
    let bytes = wire(&sent);
    for size in 1..=bytes.len() {
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.buffer().extend_from_slice(piece);
            while let Some((frame, bulk)) = decoder.take().expect("nothing is wrong with them") {
                received.push((frame, bulk.to_vec()));
            }
        }
        let sent: Vec<_> = sent.iter().map(|(frame, bulk)| (frame.clone(), bulk.to_vec())).collect();
        assert_eq!(received, sent, "in pieces of {size}");
        assert!(decoder.is_empty());
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let mut changed = wire(&[(write(0), b"hello")]);
    *changed.last_mut().expect("it has bytes") ^= 1;
    let mut long = wire(&[(write(0), b"hello")]);
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut short = wire(&[(write(0), b"hello")]);
    short[..4].copy_from_slice(&3_u32.to_le_bytes());
    let cases: [(&str, Vec<u8>, Refused); 9] = [
        ("a changed byte", changed, Refused::Checksum),
        ("a huge length", long, Refused::TooLong(u32::MAX as usize)),
        ("a length below the prefix", short, Refused::Malformed),
        ("the way up", wire(&[(named(b".."), b"")]), Refused::Name),
        ("the directory itself", wire(&[(named(b"."), b"")]), Refused::Name),
        ("a path", wire(&[(named(b"a/b"), b"")]), Refused::Name),
        ("no name", wire(&[(named(b""), b"")]), Refused::Name),
        ("a name of 256 bytes", wire(&[(named(&[b'x'; 256]), b"")]), Refused::Name),
        ("bulk where none belongs", wire(&[(named(b"a"), b"x")]), Refused::Malformed),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(first(&bytes), Err(expected), "{name}");
    }
}

/// Whoever waits until something is complete must not wait for what no frame can be.
#[test]
fn a_huge_length_is_not_waited_for() {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(!decoder.is_empty());
    assert_eq!(decoder.take(), Err(Refused::TooLong(u32::MAX as usize)));
}

/// A frame of a later version, or garbage: refused, never a panic, whatever the bytes.
#[test]
fn garbage_with_a_right_checksum_is_refused_or_complete() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..200_000 {
        let body: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(&random.u32(..80).to_le_bytes());
        bytes.extend_from_slice(&body);
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        if let Ok(Some((frame, bulk))) = first(&bytes) {
            assert_eq!(first(&wire(&[(frame.clone(), &bulk)])), Ok(Some((frame, bulk))));
        }
    }
}
