//! The rows: crossed where one thing may matter for another, single where it cannot.

use rustix::fs::{Access, FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

use crate::identities::{ANN, Actor};
use crate::steps::Step;

use Actor::{Ann, Bob, Root};
use Step::{
    Append, Chmod, Chown, Copy, Fallocate, GetAttribute, Holes, Link, List, Mkdir, Mknod, Open, Read,
    RemoveAttribute, Rename, Rmdir, SetAttribute, Symlink, Sync, Times, TimesNow, Truncate, TruncateOpen,
    Umask, Unlink, Write,
};

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) steps: Vec<(Actor, Step)>,
}

fn s(text: &str) -> String {
    text.to_owned()
}

fn file(name: &str, mode: u32) -> Step {
    Open(s(name), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)
}

const MODES: [u32; 6] = [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777];
const KINDS: [FileType; 4] =
    [FileType::Fifo, FileType::Socket, FileType::CharacterDevice, FileType::RegularFile];

/// Every kind of object, with modes, masks, owners, and directories that hand on their group.
pub(crate) fn made() -> Vec<Row> {
    let mut rows = Vec::new();
    for parent in [0o755, 0o777, 0o2777, 0o1777, 0o555] {
        for umask in [0, 0o022, 0o077] {
            for actor in [Root, Ann, Bob] {
                for mode in MODES {
                    let mut makers = vec![file("d/x", mode), Mkdir(s("d/x"), mode)];
                    makers.extend(KINDS.map(|kind| Mknod(s("d/x"), kind, mode)));
                    if mode == 0 {
                        makers.push(Symlink(s("anywhere"), s("d/x")));
                    }
                    rows.extend(makers.into_iter().map(|maker| Row {
                        name: format!("in {parent:o} with umask {umask:o} by {actor:?}: {maker:?}"),
                        steps: vec![
                            (Root, Mkdir(s("d"), 0o700)),
                            (Root, Chown(s("d"), Some(ANN), Some(ANN))),
                            (Root, Chmod(s("d"), parent)),
                            (Root, Umask(umask)),
                            (actor, maker),
                        ],
                    }));
                }
            }
        }
    }
    rows
}

/// Names of any bytes and lengths.
pub(crate) fn named() -> Vec<Row> {
    let long = "n".repeat(255);
    let too_long = "n".repeat(256);
    let names = [
        "with space",
        "tab\\x09",
        "line\\x0aend",
        "\\xff\\xfe\\x80",
        "-rf",
        "*?[a]",
        "'\"`$",
        ".hidden",
        "...",
        "caf\\xc3\\xa9",
        "trailing.",
        "x;y|z&",
        &long,
        &too_long,
        "",
        ".",
        "..",
        "a/",
        "a//b",
        "./a",
        "missing/a",
    ];
    names
        .iter()
        .map(|name| Row {
            name: format!("named {name:?}"),
            steps: vec![
                (Ann, file(name, 0o644)),
                (Ann, Write(s(name), 3, 10)),
                (Ann, Read(s(name))),
                (Ann, Link(s(name), s("second"))),
                (Ann, Rename(s(name), s("third"), RenameFlags::empty())),
                (Ann, Rename(s("third"), s(name), RenameFlags::empty())),
                (Ann, List(s("."))),
                (Ann, Unlink(s(name))),
                (Ann, Mkdir(s(name), 0o755)),
                (Ann, Rmdir(s(name))),
                (Ann, Symlink(s(name), s("link"))),
                (Ann, Symlink(s("link"), s(name))),
            ],
        })
        .collect()
}

/// A stage with one object of each kind, owned by Ann.
fn stage() -> Vec<(Actor, Step)> {
    vec![
        (Ann, file("file", 0o644)),
        (Ann, file("closed", 0o600)),
        (Ann, Mkdir(s("empty"), 0o755)),
        (Ann, Mkdir(s("full"), 0o755)),
        (Ann, file("full/inside", 0o644)),
        (Ann, Symlink(s("file"), s("to_file"))),
        (Ann, Symlink(s("full"), s("to_full"))),
        (Ann, Symlink(s("nowhere"), s("to_nothing"))),
        (Ann, Symlink(s("to_itself"), s("to_itself"))),
        (Ann, Mknod(s("pipe"), FileType::Fifo, 0o644)),
    ]
}

const STAGED: [&str; 13] = [
    "file",
    "closed",
    "empty",
    "full",
    "full/inside",
    "to_file",
    "to_full",
    "to_nothing",
    "to_itself",
    "pipe",
    "missing",
    "file/below",
    "to_full/inside",
];

/// Every call on every kind of object, by its owner, by others, and by root.
pub(crate) fn met() -> Vec<Row> {
    let calls: Vec<fn(String) -> Step> = vec![
        Unlink,
        Rmdir,
        Read,
        List,
        Sync,
        TimesNow,
        |at| Mkdir(at, 0o755),
        |at| Chmod(at, 0o640),
        |at| Chmod(at, 0o6711),
        |at| Chown(at, Some(1001), None),
        |at| Chown(at, None, Some(1001)),
        |at| Chown(at, None, Some(ANN)),
        |at| Chown(at, None, None),
        |at| Truncate(at, 3),
        |at| Truncate(at, 5000),
        |at| Times(at, 1_000_000_007, 1_234_567_890),
        |at| Times(at, -5, -9_999_999),
        |at| Open(at, OFlags::RDONLY, 0),
        |at| Open(at, OFlags::WRONLY, 0),
        |at| Open(at, OFlags::RDWR, 0),
        |at| Open(at, OFlags::WRONLY | OFlags::TRUNC, 0),
        |at| Open(at, OFlags::WRONLY | OFlags::APPEND, 0),
        |at| Open(at, OFlags::WRONLY | OFlags::CREATE, 0o640),
        |at| Open(at, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o640),
        |at| Open(at, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o640),
        |at| Open(at, OFlags::RDONLY | OFlags::DIRECTORY, 0),
        |at| Open(at, OFlags::RDONLY | OFlags::NOFOLLOW, 0),
        |at| Open(at, OFlags::RDWR | OFlags::SYNC, 0),
        |at| Step::Access(at, Access::READ_OK),
        |at| Step::Access(at, Access::WRITE_OK | Access::EXEC_OK),
        |at| Link(at, s("new")),
        |at| Symlink(s("x"), at),
        |at| Mknod(at, FileType::Fifo, 0o600),
        |at| SetAttribute(at, "user.color", b"green".to_vec(), XattrFlags::empty()),
        |at| SetAttribute(at, "trusted.color", b"red".to_vec(), XattrFlags::empty()),
        |at| RemoveAttribute(at, "user.none"),
        |at| GetAttribute(at, "user.none"),
    ];
    let mut rows = Vec::new();
    for actor in Actor::ALL {
        for call in &calls {
            for target in STAGED {
                let step = call(s(target));
                let mut steps = stage();
                let name = format!("{actor:?}: {step:?}");
                steps.push((actor, step));
                rows.push(Row { name, steps });
            }
        }
    }
    rows
}

/// Every kind onto every other one, in ordinary, sticky and closed directories, with every flag.
pub(crate) fn renamed() -> Vec<Row> {
    let targets =
        ["file", "empty", "full", "to_file", "to_nothing", "pipe", "missing", "full/inside", "empty/new"];
    let mut rows = Vec::new();
    for flags in [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE] {
        for from in targets {
            for to in targets {
                let mut steps = stage();
                steps.push((Ann, Rename(s(from), s(to), flags)));
                rows.push(Row { name: format!("rename {from} to {to}, {flags:?}"), steps });
            }
        }
    }
    for mode in [0o777, 0o1777, 0o755, 0o311] {
        for actor in [Root, Ann, Bob] {
            let steps = vec![
                (Root, Mkdir(s("d"), 0o777)),
                (Root, Chmod(s("d"), 0o777)),
                (Ann, file("d/ann", 0o644)),
                (Bob, file("d/bob", 0o644)),
                (Bob, Mkdir(s("d/bobs"), 0o755)),
                (Root, Chmod(s("d"), mode)),
                (actor, Rename(s("d/bob"), s("d/new"), RenameFlags::empty())),
                (actor, Rename(s("d/bobs"), s("d/moved"), RenameFlags::empty())),
                (actor, Rename(s("d/ann"), s("d/bob"), RenameFlags::empty())),
                (actor, Unlink(s("d/new"))),
                (actor, Rmdir(s("d/moved"))),
            ];
            rows.push(Row { name: format!("in a directory of mode {mode:o} by {actor:?}"), steps });
        }
    }
    rows
}

/// Sizes, holes, and copies.
pub(crate) fn written() -> Vec<Row> {
    let begin = || vec![(Ann, file("f", 0o644)), (Ann, Write(s("f"), 0, 20_000))];
    let mut rows = Vec::new();
    let mut row = |name: String, more: Vec<Step>| {
        let mut steps = begin();
        steps.extend(more.into_iter().map(|step| (Ann, step)));
        steps.push((Ann, Read(s("f"))));
        steps.push((Ann, Holes(s("f"))));
        rows.push(Row { name, steps });
    };
    for at in [0, 1, 4095, 4096, 20_000, 70_001, 1_000_000] {
        for count in [0, 1, 4096, 10_000, 200_000] {
            row(format!("write {count} at {at}"), vec![Write(s("f"), at, count)]);
        }
        row(format!("truncate to {at}"), vec![Truncate(s("f"), at), Append(s("f"), 7)]);
        row(format!("ftruncate to {at}"), vec![TruncateOpen(s("f"), at), Write(s("f"), at, 5)]);
    }
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE,
    ];
    for mode in modes {
        for (at, length) in [(0, 4096), (4096, 8192), (100, 50), (8192, 100_000), (50_000, 4096), (0, 0)] {
            row(format!("fallocate {mode:?} {at} {length}"), vec![Fallocate(s("f"), mode, at, length)]);
        }
    }
    for (at, to, count) in
        [(0, 0, 1000), (5, 30_000, 20_000), (19_990, 0, 100), (30_000, 0, 10), (0, 4096, 0)]
    {
        row(
            format!("copy {count} from {at} to {to}"),
            vec![
                file("g", 0o644),
                Write(s("g"), 0, 10_000),
                Copy(s("f"), at, s("g"), to, count),
                Read(s("g")),
            ],
        );
    }
    row(s("sparse"), vec![Truncate(s("f"), 0), Truncate(s("f"), 10_000_000), Write(s("f"), 5_000_000, 10)]);
    row(
        s("a second name"),
        vec![Link(s("f"), s("g")), Write(s("g"), 3, 9), Unlink(s("f")), Link(s("g"), s("f"))],
    );
    rows
}

/// Set-user-id and set-group-id bits go when somebody without privilege changes a file.
pub(crate) fn bits() -> Vec<Row> {
    let changes: [fn() -> Step; 9] = [
        || Write(s("f"), 0, 5),
        || Append(s("f"), 5),
        || Truncate(s("f"), 2),
        || TruncateOpen(s("f"), 2),
        || Open(s("f"), OFlags::WRONLY | OFlags::TRUNC, 0),
        || Fallocate(s("f"), FallocateFlags::empty(), 0, 9000),
        || Chown(s("f"), None, Some(ANN)),
        || Chown(s("f"), Some(1001), Some(1001)),
        || Chmod(s("f"), 0o6777),
    ];
    let mut rows = Vec::new();
    for mode in [0o6777, 0o6766, 0o2767, 0o4711] {
        for actor in Actor::ALL {
            for change in changes {
                let step = change();
                rows.push(Row {
                    name: format!("{mode:o} by {actor:?}: {step:?}"),
                    steps: vec![(Ann, file("f", 0o644)), (Root, Chmod(s("f"), mode)), (actor, step)],
                });
            }
        }
    }
    rows
}

/// Names and values beside the contents, and access control lists, which directories hand on.
pub(crate) fn attributes() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["user.a", "trusted.a", "security.a", "nonsense", "user.", "system.posix_acl_access"] {
        for flags in [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE] {
            for actor in [Root, Ann, Bob] {
                for target in ["file", "empty", "to_nothing", "pipe"] {
                    let value = if name.starts_with("system") { acl(0o6) } else { b"one\0two".to_vec() };
                    let mut steps = stage();
                    steps.extend([
                        (actor, SetAttribute(s(target), name, value.clone(), flags)),
                        (actor, SetAttribute(s(target), name, value, flags)),
                        (actor, GetAttribute(s(target), name)),
                        (actor, RemoveAttribute(s(target), name)),
                    ]);
                    rows.push(Row { name: format!("{name} of {target} by {actor:?}, {flags:?}"), steps });
                }
            }
        }
    }
    for bob in [0o0, 0o4, 0o6, 0o7] {
        for umask in [0, 0o027, 0o777] {
            for mode in [0o600, 0o664, 0o777] {
                rows.push(Row {
                    name: format!("a default list that gives Bob {bob:o}, umask {umask:o}, mode {mode:o}"),
                    steps: vec![
                        (Ann, Mkdir(s("d"), 0o755)),
                        (
                            Ann,
                            SetAttribute(s("d"), "system.posix_acl_default", acl(bob), XattrFlags::empty()),
                        ),
                        (Ann, Umask(umask)),
                        (Ann, file("d/f", mode)),
                        (Ann, Mkdir(s("d/d"), mode)),
                        (Ann, Mknod(s("d/p"), FileType::Fifo, mode)),
                        (Bob, Open(s("d/f"), OFlags::RDWR, 0)),
                        (Bob, Open(s("d/d/g"), OFlags::WRONLY | OFlags::CREATE, 0o666)),
                        (Ann, Chmod(s("d/f"), 0o640)),
                        (Bob, Open(s("d/f"), OFlags::RDONLY, 0)),
                    ],
                });
            }
        }
    }
    rows
}

/// linux/posix_acl_xattr.h: version 2; owner rwx, Bob (1001) as given, group r-x, mask rwx, others nothing.
fn acl(bob: u16) -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(0x01, 0o7, none), (0x02, bob, 1001), (0x04, 0o5, none), (0x10, 0o7, none), (0x20, 0, none)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(rights.to_le_bytes());
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}
