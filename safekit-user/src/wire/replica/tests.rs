//! Frames cut anywhere, changed, and made of garbage.

use super::*;

fn write(offset: u64) -> Frame {
    let operation = Operation::Write { object: ObjectId(7), offset };
    Frame::Operation { position: Position(3), acknowledge: Acknowledge::Disk, operation }
}

fn named(name: &[u8]) -> Frame {
    Frame::Place { object: ObjectId(7), parent: ObjectId::ROOT, name: name.to_vec() }
}

fn check(name: &[u8], offset: u64, size: u64, zones: usize) -> Frame {
    let piece = Piece::Contents { offset, size, digests: vec![[7; 16]; zones] };
    let place = Some((ObjectId::ROOT, name.to_vec()));
    Frame::Check(Check { number: 5, object: ObjectId(7), place, piece })
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
    let sent: [(Frame, &[u8]); 6] = [
        (write(0), b"hello"),
        (Frame::Message(Message::Alive), b""),
        (named(b"a b\xff"), b""),
        (check(b"a", ZONE_BYTES, 2 * ZONE_BYTES + 1, 2), b""),
        (Frame::Checked(Checked { number: 5, differs: true }), b""),
        (Frame::farewell("the disk is full"), b""),
    ];
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
    let cases: [(&str, Vec<u8>, Refused); 16] = [
        ("a changed byte", changed, Refused::Checksum),
        ("a huge length", long, Refused::TooLong(u32::MAX as usize)),
        ("a length below the prefix", short, Refused::Malformed),
        ("the way up", wire(&[(named(b".."), b"")]), Refused::Name),
        ("the directory itself", wire(&[(named(b"."), b"")]), Refused::Name),
        ("a path", wire(&[(named(b"a/b"), b"")]), Refused::Name),
        ("no name", wire(&[(named(b""), b"")]), Refused::Name),
        ("a name of 256 bytes", wire(&[(named(&[b'x'; 256]), b"")]), Refused::Name),
        ("bulk where none belongs", wire(&[(named(b"a"), b"x")]), Refused::Malformed),
        ("bulk of a check", wire(&[(check(b"a", 0, 1, 1), b"x")]), Refused::Malformed),
        ("a check on the way up", wire(&[(check(b"..", 0, 1, 1), b"")]), Refused::Name),
        ("a check of too many zones", wire(&[(check(b"a", 0, 1 << 30, 65), b"")]), Refused::TooMany),
        ("a check of fewer than there are", wire(&[(check(b"a", 0, 1 << 30, 63), b"")]), Refused::Malformed),
        ("a check beyond the end", wire(&[(check(b"a", 1 << 40, 1, 1), b"")]), Refused::Malformed),
        (
            "a farewell without end",
            wire(&[(Frame::Farewell { why: "x".repeat(513) }, b"")]),
            Refused::Malformed,
        ),
        ("a check within a zone", wire(&[(check(b"a", 1, ZONE_BYTES, 1), b"")]), Refused::Malformed),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(first(&bytes), Err(expected), "{name}");
    }
}

#[test]
fn a_farewell_is_cut_between_two_characters() {
    let Frame::Farewell { why } = Frame::farewell(&"ö".repeat(300).replacen('ö', "o", 1)) else {
        panic!("a farewell")
    };
    assert_eq!(why.len(), 511);
}

/// Whoever waits until something is complete must not wait for what no frame can be.
#[test]
fn a_huge_length_is_not_waited_for() {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(!decoder.is_empty());
    assert_eq!(decoder.take(), Err(Refused::TooLong(u32::MAX as usize)));
}

/// Random bytes hardly ever make a check: those of one are changed, a few at a time.
#[test]
fn a_changed_check_is_refused_or_complete() {
    let mut random = fastrand::Rng::with_seed(6);
    let whole = wire(&[(check(b"name", 1 << 22, 1 << 23, 64), b"")]);
    let mut passed = 0;
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(12..60);
            bytes[at] = random.u8(..);
        }
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(Some((frame, bulk))) = first(&bytes) {
            passed += 1;
            assert_eq!(first(&wire(&[(frame.clone(), &bulk)])), Ok(Some((frame, bulk))));
        }
    }
    assert!(passed > 1000, "{passed}: digests may be any");
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
