//! Each operation against what the system call gives; names, numbers and links that are refused.

use std::fs;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use super::scratch::{Scratch, open};
use super::*;
use crate::driver::replica::identity;
use crate::wire::replica::{Kind, Time};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const PIPE: u32 = 0o010_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// A copy that follows, and what the tests ask of it.
struct Follower {
    scratch: Scratch,
    applier: Applier,
}

impl Follower {
    fn new() -> Option<Self> {
        let scratch = Scratch::new()?;
        let root = scratch.root("copy");
        let numbering = Arc::new(Numbering::open(root.as_fd()).expect("it keeps attributes"));
        let applier = Applier::open(root, numbering).expect("it is a directory");
        Some(Self { scratch, applier })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("copy").join(name)
    }

    fn apply(&mut self, operation: &Operation, bulk: &[u8]) {
        self.applier.apply(operation, bulk).unwrap_or_else(|fault| panic!("{operation:?}: {fault:?}"));
    }

    fn refuses(&mut self, operation: &Operation) {
        let refused = self.applier.apply(operation, b"");
        assert!(
            matches!(refused, Err(Fault::Differs { .. } | Fault::Unknown(_))),
            "{operation:?}: {refused:?}"
        );
    }

    fn make(&mut self, number: u64, parent: u64, name: &str, mode: u32) {
        self.apply(&create(number, parent, name, mode), b"");
    }

    fn number(&self, name: &str) -> Option<u64> {
        let fd = open(&self.path(name));
        let inode = rustix::fs::fstat(&fd).expect("it is open").st_ino;
        identity::read(fd.as_fd(), inode).expect("it can be read")
    }

    fn is_there(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }
}

fn meta(mode: u32) -> Meta {
    Meta { mode, uid: 7, gid: 8, modified: Time { seconds: -5, nanoseconds: 600 } }
}

fn create(number: u64, parent: u64, name: &str, mode: u32) -> Operation {
    let kind = Kind {
        mode,
        device: if mode & 0o170_000 == DEVICE { rustix::fs::makedev(1, 3) } else { 0 },
        target: if mode & 0o170_000 == LINK { b"/nowhere/at all".to_vec() } else { Vec::new() },
    };
    let entry = Entry { name: name.as_bytes().to_vec(), object: ObjectId(number), kind };
    Operation::Create { parent: ObjectId(parent), entry, meta: meta(mode), attributes: Vec::new() }
}

fn remove(number: u64, parent: u64, name: &str, directory: bool) -> Operation {
    let name = name.as_bytes().to_vec();
    Operation::Remove { parent: ObjectId(parent), name, object: ObjectId(number), directory }
}

fn link(number: u64, parent: u64, name: &str) -> Operation {
    Operation::Link { object: ObjectId(number), parent: ObjectId(parent), name: name.as_bytes().to_vec() }
}

fn rename(number: u64, (parent, name): (u64, &str), (to, new_name): (u64, &str)) -> Operation {
    Operation::Rename {
        object: ObjectId(number),
        parent: ObjectId(parent),
        name: name.as_bytes().to_vec(),
        new_parent: ObjectId(to),
        new_name: new_name.as_bytes().to_vec(),
        replaced: None,
        exchanged: false,
    }
}

fn displacing(operation: Operation, object: u64, exchanging: bool) -> Operation {
    match operation {
        Operation::Rename { object: moved, parent, name, new_parent, new_name, .. } => Operation::Rename {
            object: moved,
            parent,
            name,
            new_parent,
            new_name,
            replaced: Some(ObjectId(object)),
            exchanged: exchanging,
        },
        other => other,
    }
}

#[test]
fn each_kind_of_object_is_made_as_it_was() {
    let Some(mut follower) = Follower::new() else { return };
    let kinds = [
        ("directory", DIRECTORY | 0o3750),
        ("file", FILE | 0o6755),
        ("pipe", PIPE | 0o622),
        ("link", LINK | 0o777),
        ("device", DEVICE | 0o660),
    ];
    for (number, (name, mode)) in (20..).zip(kinds) {
        follower.make(number, 1, name, mode);
        let made = follower.path(name).symlink_metadata().expect("it was made");
        assert_eq!((made.mode(), made.uid(), made.gid()), (mode, 7, 8), "{name}");
        assert_eq!((made.mtime(), made.mtime_nsec()), (-5, 600), "{name}");
        assert_eq!(follower.number(name), Some(number), "{name}");
        // Again: it is there.
        follower.make(number, 1, name, mode);
        follower.refuses(&create(99, 1, name, mode));
    }
    assert!(follower.path("pipe").symlink_metadata().expect("it was made").file_type().is_fifo());
    assert_eq!(fs::read_link(follower.path("link")).expect("a link"), PathBuf::from("/nowhere/at all"));
    let device = follower.path("device").symlink_metadata().expect("it was made").rdev();
    assert_eq!(device, rustix::fs::makedev(1, 3));
    follower.refuses(&create(21, 1, "another of that number", FILE));
    follower.refuses(&create(3, 1, "no such number", FILE));
    follower.refuses(&create(50, 1, ".safekit", DIRECTORY));
    follower.refuses(&create(50, 49, "in an unknown directory", FILE));
}

#[test]
fn an_inherited_access_list_does_not_stay() {
    let Some(mut follower) = Follower::new() else { return };
    // Version 2; owner, user 9, group, mask, others: as `setfacl -d -m u:9:rwx` writes it.
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 7, 9), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let attribute = Attribute { name: b"system.posix_acl_default".to_vec(), value: list };
    follower.make(20, 1, "d", DIRECTORY | 0o755);
    follower.apply(&Operation::SetAttribute { object: ObjectId(20), attribute: attribute.clone() }, b"");
    follower.make(21, 20, "f", FILE | 0o640);
    let own = shape::attributes(open(&follower.path("d/f")).as_fd()).expect("they can be read");
    assert_eq!(own, []);
    assert_eq!(follower.path("d/f").metadata().expect("it is there").mode(), FILE | 0o640);
    let kept = shape::attributes(open(&follower.path("d")).as_fd()).expect("they can be read");
    assert_eq!(kept, [attribute]);
}

#[test]
fn contents_change_as_they_did() {
    let Some(mut follower) = Follower::new() else { return };
    follower.make(20, 1, "a", FILE | 0o600);
    follower.make(21, 1, "b", FILE | 0o600);
    let (a, b) = (ObjectId(20), ObjectId(21));
    follower.apply(&Operation::Write { object: a, offset: 3 }, b"hello");
    follower.apply(&Operation::Truncate { object: a, size: 7 }, b"");
    follower.apply(&Operation::Copy { from: a, at: 1, to: b, new_at: 2, length: 6 }, b"");
    assert_eq!(fs::read(follower.path("a")).expect("a file"), b"\0\0\0hell");
    assert_eq!(fs::read(follower.path("b")).expect("a file"), b"\0\0\0\0hell");
    let short = follower.applier.apply(&Operation::Copy { from: a, at: 1, to: b, new_at: 2, length: 7 }, b"");
    assert!(matches!(short, Err(Fault::Differs { object, .. }) if object == a), "{short:?}");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    follower.apply(&Operation::Allocate { object: b, mode: punch as u32, offset: 5, length: 2 }, b"");
    follower.apply(&Operation::Allocate { object: b, mode: 0, offset: 0, length: 9 }, b"");
    assert_eq!(fs::read(follower.path("b")).expect("a file"), b"\0\0\0\0h\0\0l\0");
    follower.make(22, 1, "pipe", PIPE | 0o600);
    follower.refuses(&Operation::Write { object: ObjectId(22), offset: 0 });
    follower.refuses(&Operation::Write { object: ObjectId(50), offset: 0 });
    for object in [a, ObjectId(22), ObjectId(50)] {
        follower.applier.flush(object, true).run().expect("it is on the disk");
    }
    follower.applier.forget_places();
    follower.refuses(&Operation::Write { object: a, offset: 0 });
    follower.applier.place(a, ObjectId::ROOT, b"a").expect("it is there");
    follower.applier.flush(a, false).run().expect("it is on the disk");
    assert!(follower.applier.place(b, ObjectId::ROOT, b"pipe").is_err());
}

#[test]
fn more_files_than_may_be_open_are_written() {
    let Some(mut follower) = Follower::new() else { return };
    let numbers = 20..220;
    for number in numbers.clone() {
        follower.make(number, 1, &format!("{number}"), FILE | 0o600);
    }
    for round in 0..2 {
        for number in numbers.clone() {
            let write = Operation::Write { object: ObjectId(number), offset: round };
            follower.apply(&write, &[number as u8]);
        }
    }
    for number in numbers {
        let name = format!("{number}");
        assert_eq!(fs::read(follower.path(&name)).expect("a file"), [number as u8; 2], "{name}");
    }
}

#[test]
fn names_change_as_they_did() {
    let Some(mut follower) = Follower::new() else { return };
    follower.make(20, 1, "d", DIRECTORY | 0o755);
    follower.make(21, 20, "f", FILE | 0o644);
    follower.make(22, 1, "g", FILE | 0o644);
    follower.apply(&link(21, 1, "f2"), b"");
    follower.apply(&link(21, 1, "f2"), b"");
    assert_eq!(follower.path("f2").metadata().expect("a file").nlink(), 2);
    follower.refuses(&link(21, 1, "g"));
    follower.apply(&rename(20, (1, "d"), (1, "e")), b"");
    follower.refuses(&rename(21, (20, "f"), (1, "g")));
    follower.refuses(&displacing(rename(21, (20, "f"), (1, "g")), 20, false));
    follower.refuses(&rename(22, (20, "f"), (1, "h")));
    follower.apply(&displacing(rename(21, (20, "f"), (1, "g")), 22, true), b"");
    assert_eq!((follower.number("g"), follower.number("e/f")), (Some(21), Some(22)));
    follower.apply(&displacing(rename(22, (20, "f"), (1, "g")), 21, false), b"");
    assert_eq!((follower.number("g"), follower.number("f2")), (Some(22), Some(21)));
    // It has another name: it is still known. Then it has none.
    follower.apply(&Operation::Write { object: ObjectId(21), offset: 0 }, b"x");
    follower.refuses(&remove(22, 1, "f2", false));
    follower.refuses(&remove(21, 1, "f2", true));
    follower.apply(&remove(21, 1, "f2", false), b"");
    follower.refuses(&Operation::Write { object: ObjectId(21), offset: 0 });
    follower.apply(&remove(20, 1, "e", true), b"");
    follower.refuses(&create(23, 20, "in a removed directory", FILE));
    follower.refuses(&remove(20, 1, "e", true));
    assert!(!follower.is_there("e") && !follower.is_there("f2"));
}

#[test]
fn what_is_said_about_an_object_is_set() {
    let Some(mut follower) = Follower::new() else { return };
    follower.make(20, 1, "f", FILE | 0o600);
    let f = ObjectId(20);
    let path = follower.path("f");
    fs::File::open(&path).expect("a file").write_at(b"", 0).ok();
    follower.apply(&Operation::Meta { object: f, meta: Meta { uid: 0, ..meta(FILE | 0o4711) } }, b"");
    let set = path.metadata().expect("a file");
    assert_eq!((set.permissions().mode(), set.uid(), set.mtime()), (FILE | 0o4711, 0, -5));
    follower.refuses(&Operation::Meta { object: f, meta: meta(DIRECTORY | 0o755) });
    let attribute = Attribute { name: b"user.colour".to_vec(), value: b"r\xffd".to_vec() };
    follower.apply(&Operation::SetAttribute { object: f, attribute: attribute.clone() }, b"");
    assert_eq!(shape::attributes(open(&path).as_fd()).expect("they can be read"), vec![attribute.clone()]);
    for _ in 0..2 {
        follower.apply(&Operation::RemoveAttribute { object: f, name: attribute.name.clone() }, b"");
    }
    let own = Attribute { name: b"trusted.safekit.object".to_vec(), value: vec![0; 16] };
    follower.refuses(&Operation::RemoveAttribute { object: f, name: own.name.clone() });
    follower.refuses(&Operation::SetAttribute { object: f, attribute: own });
}

/// A number that the other node has given is not given here, and the reservation only grows.
#[test]
fn numbers_of_the_other_node_are_not_given_again() {
    let Some(mut follower) = Follower::new() else { return };
    let mut reserved = 0;
    for number in [100_000_u64, 70_000, 200_000] {
        follower.make(number, 1, &format!("of {number}"), FILE | 0o644);
        let now = Numbering::open(open(&follower.path("")).as_fd()).expect("it keeps attributes").reserved();
        assert!(now > number && now >= reserved, "{number}: {reserved} {now}");
        reserved = now;
    }
    for number in [0, 15, 1 << 63, u64::MAX] {
        let made = follower.applier.apply(&create(number, 1, "nobody's", FILE), b"");
        assert!(made.is_err() && !follower.is_there("nobody's"), "{number}: {made:?}");
    }
    fs::write(follower.path("own"), "").expect("a file");
    let own = open(&follower.path("own"));
    let inode = rustix::fs::fstat(&own).expect("it is open").st_ino;
    let numbered = follower.applier.numbering.number_of(own.as_fd(), inode).expect("it can be numbered");
    assert!(numbered.anew && numbered.object.0 >= 200_000, "{numbered:?}");
}

/// What lies outside stays as it is, whatever the copy has been made to look like.
#[test]
fn a_planted_link_leads_nowhere() {
    let Some(mut follower) = Follower::new() else { return };
    let outside = follower.scratch.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("file"), "as it was").expect("a file");
    follower.make(20, 1, "d", DIRECTORY | 0o755);
    follower.make(21, 20, "file", FILE | 0o644);
    follower.applier.forget_places();
    fs::remove_file(follower.path("d/file")).expect("it is there");
    std::os::unix::fs::symlink(outside.join("file"), follower.path("d/file")).expect("a link");
    fs::rename(follower.path("d"), follower.path("real")).expect("it is there");
    std::os::unix::fs::symlink(&outside, follower.path("d")).expect("a link");
    // Even with its number.
    for (name, number) in [("d", 20), ("real/file", 21)] {
        let fd = open(&follower.path(name));
        let inode = rustix::fs::fstat(&fd).expect("it is open").st_ino;
        identity::write(fd.as_fd(), number, inode).expect("root may");
    }
    follower.applier.place(ObjectId(20), ObjectId::ROOT, b"d").expect("a link of that number");
    assert!(follower.applier.place(ObjectId(21), ObjectId(20), b"file").is_err());
    assert!(follower.applier.apply(&create(22, 20, "new", FILE), b"").is_err());
    assert!(follower.applier.apply(&Operation::Write { object: ObjectId(20), offset: 0 }, b"x").is_err());
    follower.apply(&Operation::Meta { object: ObjectId(20), meta: meta(LINK | 0o777) }, b"");
    assert_eq!(fs::read(outside.join("file")).expect("a file"), b"as it was");
    assert_eq!(outside.metadata().expect("a directory").uid(), 0);
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
}
