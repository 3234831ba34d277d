//! Two pairs over loopback, with real mounts: what applications do to one is the same on the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

use super::{Pair, Setup};
use crate::driver::clock;
use crate::driver::cluster::tls::Identities;
use crate::driver::replica::apply::scratch::{Scratch, open};
use crate::driver::replica::apply::shape;
use crate::driver::replica::link::{self, Port};
use crate::engine::mirror::Order;
use crate::types::mirror::{CopyInfo, SyncState};
use crate::types::replica::{Acknowledge, MirrorRole};
use crate::types::{ClusterKey, NodeId};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// Two nodes with a directory each.
struct Stage {
    pairs: [Option<Pair>; 2],
    /// The directories as they are below their mounts.
    below: [OwnedFd; 2],
    addresses: [SocketAddr; 2],
    scratch: Scratch,
    max_stall: Duration,
    /// A file system for this stage alone.
    mounted: Option<PathBuf>,
}

fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + (std::process::id() % 2_000) as u16 * 16 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn identities(me: u8) -> Arc<Identities> {
    let text = "cluster:\n  name: shop\n  networks: [{ name: lan, port: 4899 }]\n  nodes:\n    \
                - { name: a, addresses: { lan: 127.0.0.1 } }\n    - { name: b, addresses: { lan: 127.0.0.2 } }\n\
                modules:\n  - { name: x, kind: light }\n";
    let config = crate::config::parse(text, "mirror.yaml").expect("a cluster");
    Identities::of(&[ClusterKey::new([7; 32])], &config, NodeId(me))
}

impl Stage {
    fn new() -> Option<Self> {
        Some(Self::with(Scratch::new()?))
    }

    /// The disk of the second has little room.
    fn with_little_room() -> Option<Self> {
        let scratch = Scratch::new()?;
        scratch.root("b");
        let (at, options) = (scratch.path().join("b"), c"size=16m");
        rustix::mount::mount("small", &at, "tmpfs", MountFlags::empty(), Some(options)).expect("root may");
        let mut stage = Self::with(scratch);
        stage.mounted = Some(at);
        Some(stage)
    }

    fn with(scratch: Scratch) -> Self {
        let below = ["a", "b"].map(|name| scratch.root(name));
        let addresses = [1, 2].map(|host| SocketAddr::from(([127, 0, 0, host], next_port())));
        let max_stall = Duration::from_secs(2);
        Self { pairs: [None, None], below, addresses, scratch, max_stall, mounted: None }
    }

    /// Both, and the first serves.
    fn mirrored() -> Option<Self> {
        let mut stage = Self::new()?;
        stage.mirror();
        Some(stage)
    }

    fn mirror(&mut self) {
        self.start(0);
        self.start(1);
        self.until("they meet", |stage| stage.info(0).connected && stage.info(1).connected);
        self.order(0, Order::Lead { force: false });
        self.until_in_sync(0);
    }

    fn start(&mut self, at: usize) {
        let names = ["a", "b"];
        let port = Port::open(link::Setup {
            cluster: "shop".into(),
            module: "db".into(),
            own_name: names[at].into(),
            peer_name: names[1 - at].into(),
            peer: NodeId(1 - at as u8),
            own: self.addresses[at],
            theirs: self.addresses[1 - at],
            dials: at == 0,
            directories: 1,
            stall: Duration::from_secs(5),
            silence: Duration::from_secs(5),
            identities: Box::new(move || Ok(identities(at as u8))),
        });
        let setup = Setup {
            directory: self.mount(at),
            acknowledge: Acknowledge::Disk,
            max_stall: self.max_stall,
            require: None,
            port: Arc::new(port.expect("a port")),
            place: 0,
        };
        self.pairs[at] = Some(Pair::start(&setup).expect("it can be mounted"));
    }

    fn stop(&mut self, at: usize) {
        let pair = self.pairs[at].take().expect("it runs");
        pair.stop().expect("in order");
    }

    fn order(&self, at: usize, order: Order) {
        self.pairs[at].as_ref().expect("it runs").order(order);
    }

    fn mount(&self, at: usize) -> PathBuf {
        self.scratch.path().join(["a", "b"][at])
    }

    fn below(&self, at: usize) -> PathBuf {
        crate::driver::replica::object::proc_path(self.below[at].as_fd())
    }

    fn info(&self, at: usize) -> CopyInfo {
        self.pairs[at].as_ref().expect("it runs").info()
    }

    fn until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = clock::now() + PATIENCE;
        while !ready(self) {
            let infos: Vec<_> = self.pairs.iter().flatten().map(Pair::info).collect();
            assert!(clock::now() < deadline, "{what}: not within {PATIENCE:?}: {infos:#?}");
            std::thread::sleep(LOOK);
        }
    }

    fn until_in_sync(&self, leader: usize) {
        self.until("in sync", |stage| {
            (stage.info(leader).role, stage.info(1 - leader).role) == (MirrorRole::Prim, MirrorRole::Second)
        });
    }

    /// What was told has been applied.
    fn assert_same(&self) {
        let leader = usize::from(self.info(1).role.leads());
        // The times of what was modified are told a little later.
        let deadline = clock::now() + PATIENCE;
        loop {
            let trees = [0, 1].map(|at| listing(&self.below(at)));
            if self.info(leader).behind_operations == 0 && trees[0] == trees[1] {
                return;
            }
            let differ = |path: &&PathBuf| trees[0].get(*path) != trees[1].get(*path);
            let first = trees[0].keys().chain(trees[1].keys()).find(differ);
            let first = first.map(|path| (path, trees[0].get(path), trees[1].get(path)));
            assert!(clock::now() < deadline, "not the same: {first:#?} {:#?}", self.info(leader));
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for pair in &mut self.pairs {
            if let Some(pair) = pair.take()
                && let Err(error) = pair.stop()
            {
                eprintln!("a pair does not stop: {error}");
            }
        }
        if let Some(mounted) = &self.mounted
            && let Err(error) = rustix::mount::unmount(mounted, UnmountFlags::DETACH)
        {
            eprintln!("cannot unmount {}: {error}", mounted.display());
        }
    }
}

/// Everything of a tree that a copy has to have.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(root.join(&directory)) else { continue };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            if path == Path::new(".safekit") {
                continue;
            }
            let full = root.join(&path);
            let Ok(meta) = fs::symlink_metadata(&full) else { continue };
            let what = if meta.is_symlink() {
                format!("{:?}", fs::read_link(&full))
            } else if meta.is_file() {
                blake3::hash(&fs::read(&full).unwrap_or_default()).to_string()
            } else {
                String::new()
            };
            let attributes = shape::attributes(open(&full).as_fd());
            let seen = format!(
                "{:o} {}:{} {} {}.{:09} links {} {what} {attributes:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                if meta.is_dir() { 0 } else { meta.size() },
                meta.mtime(),
                meta.mtime_nsec(),
                if meta.is_dir() { 0 } else { meta.nlink() },
            );
            all.insert(path.clone(), seen);
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    all
}

fn write_and_sync(path: &Path, contents: &[u8]) {
    let mut file = File::create(path).expect("it can be made");
    file.write_all(contents).expect("there is room");
    file.sync_all().expect("both disks take it");
}

#[test]
fn what_an_application_does_is_the_same_on_the_other_node() {
    let Some(stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir_all(top.join("deep/er")).unwrap();
    write_and_sync(&top.join("deep/er/one"), b"one");
    // Synced: it is there at once.
    assert_eq!(fs::read(stage.below(1).join("deep/er/one")).unwrap(), b"one");
    fs::hard_link(top.join("deep/er/one"), top.join("two")).unwrap();
    fs::rename(top.join("deep"), top.join("shallow")).unwrap();
    symlink("shallow/er", top.join("link")).unwrap();
    let file = File::options().write(true).open(top.join("link/one")).unwrap();
    file.write_all_at(b"more", 1_000_000).unwrap();
    fs::set_permissions(top.join("two"), fs::Permissions::from_mode(0o640)).unwrap();
    write_and_sync(&top.join("gone"), &[7; 300_000]);
    fs::remove_file(top.join("gone")).unwrap();
    stage.assert_same();
    assert_eq!(fs::read_link(stage.below(1).join("link")).unwrap(), Path::new("shallow/er"));
}

#[test]
fn nobody_writes_to_a_node_that_follows() {
    let Some(stage) = Stage::mirrored() else { return };
    write_and_sync(&stage.mount(0).join("here"), b"x");
    assert_eq!(fs::read(stage.mount(1).join("here")).unwrap(), b"x", "reading is allowed");
    let refused = File::create(stage.mount(1).join("there")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_node_that_comes_back_gets_what_it_missed_and_nothing_else() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    for number in 0..200 {
        write_and_sync(&top.join(format!("file{number}")), &vec![number as u8; 50_000]);
    }
    stage.assert_same();
    stage.stop(1);
    stage.until("it serves alone", |stage| stage.info(0).role == MirrorRole::Alone);
    write_and_sync(&top.join("file7"), b"changed");
    fs::rename(top.join("file8"), top.join("moved")).unwrap();
    fs::remove_file(top.join("file9")).unwrap();
    write_and_sync(&top.join("new"), &[1; 100_000]);
    stage.start(1);
    stage.until_in_sync(0);
    stage.assert_same();
    let resync = stage.info(0).resync.expect("there was one");
    assert!(!resync.everything, "only what was recorded: {resync:?}");
    assert!(resync.bytes <= 200_000, "{resync:?}");
}

#[test]
fn what_was_changed_in_directories_that_both_have_had_for_long_is_carried_over() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir_all(top.join("deep/er")).unwrap();
    fs::create_dir_all(top.join("moves/inner")).unwrap();
    write_and_sync(&top.join("deep/er/file"), &[1; 100_000]);
    write_and_sync(&top.join("moves/inner/file"), b"as it was");
    // What serves anew counts nothing of what is there as new.
    stage.order(0, Order::Follow);
    stage.until("it serves no longer", |stage| !stage.info(0).role.leads());
    stage.order(0, Order::Lead { force: false });
    stage.until_in_sync(0);
    stage.stop(1);
    stage.until("it serves alone", |stage| stage.info(0).role == MirrorRole::Alone);
    let file = File::options().write(true).open(top.join("deep/er/file")).unwrap();
    file.write_all_at(b"changed", 70_000).unwrap();
    drop(file);
    fs::rename(top.join("moves"), top.join("deep/er/moved")).unwrap();
    stage.start(1);
    stage.until_in_sync(0);
    stage.assert_same();
    let resync = stage.info(0).resync.expect("there was one");
    assert!(!resync.everything && resync.bytes < 100_000, "{resync:?}");
}

#[test]
fn roles_change_hands_in_order() {
    let Some(stage) = Stage::mirrored() else { return };
    write_and_sync(&stage.mount(0).join("from a"), b"a");
    for leader in [1, 0, 1] {
        stage.order(1 - leader, Order::Follow);
        stage.until("it serves no longer", |stage| !stage.info(1 - leader).role.leads());
        stage.order(leader, Order::Lead { force: false });
        stage.until_in_sync(leader);
        write_and_sync(&stage.mount(leader).join(format!("by {leader}")), b"next");
        stage.assert_same();
    }
}

#[test]
fn an_application_waits_for_a_lost_node_no_longer_than_max_stall() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    let writer = std::thread::spawn({
        let top = top.clone();
        move || {
            let mut longest = Duration::ZERO;
            for number in 0..100 {
                let begun = clock::now();
                write_and_sync(&top.join(format!("{number}")), &[3; 4096]);
                longest = longest.max(clock::now().since(begun));
            }
            longest
        }
    });
    stage.stop(1);
    let longest = writer.join().expect("no write failed");
    assert!(longest < stage.max_stall + PATIENCE / 2, "{longest:?}");
    stage.start(1);
    stage.until_in_sync(0);
    stage.assert_same();
    assert_eq!(stage.info(0).sync, SyncState::InSync);
}

#[test]
fn what_was_changed_while_nobody_watched_is_found() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    for number in 0..50 {
        write_and_sync(&top.join(format!("file{number}")), &[number; 10_000]);
    }
    stage.stop(1);
    stage.order(0, Order::Follow);
    stage.until("it serves no longer", |stage| !stage.info(0).role.leads());
    stage.stop(0);
    // The directory lies there as it is.
    fs::write(top.join("file3"), b"changed underneath").unwrap();
    fs::write(top.join("made underneath"), b"new").unwrap();
    fs::rename(top.join("file4"), top.join("renamed underneath")).unwrap();
    fs::remove_file(top.join("file5")).unwrap();
    stage.start(0);
    stage.start(1);
    stage.until("they meet", |stage| stage.info(0).connected && stage.info(1).connected);
    assert!(stage.info(0).recorded_regions > 0);
    stage.order(0, Order::Lead { force: false });
    stage.until_in_sync(0);
    stage.assert_same();
    assert_eq!(fs::read(stage.below(1).join("made underneath")).unwrap(), b"new");
    let resync = stage.info(0).resync.expect("there was one");
    assert!(!resync.everything, "{resync:?}");
}

/// Leaves the other node alone for a moment, so that it has met nothing when it is back, changes something, and expects
/// that no resynchronisation was needed for that.
fn check_told_after_a_reconnection(stage: &mut Stage, leader: usize, change: impl FnOnce()) {
    stage.stop(1 - leader);
    stage.until("it serves alone", |stage| stage.info(leader).role == MirrorRole::Alone);
    stage.start(1 - leader);
    stage.until_in_sync(leader);
    let before = stage.info(leader).resync.expect("there was one").since;
    change();
    stage.assert_same();
    let info = stage.info(leader);
    assert_eq!((info.role, info.resync.map(|it| it.since)), (MirrorRole::Prim, Some(before)));
}

#[test]
fn a_file_goes_by_the_name_that_is_left() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir(top.join("inner")).unwrap();
    write_and_sync(&top.join("one"), b"one");
    let file = File::options().write(true).open(top.join("one")).unwrap();
    fs::hard_link(top.join("one"), top.join("inner/two")).unwrap();
    fs::remove_file(top.join("one")).unwrap();
    check_told_after_a_reconnection(&mut stage, 0, || {
        file.write_all_at(b"more", 3).unwrap();
        file.sync_all().expect("both disks take it");
    });
    assert_eq!(fs::read(stage.below(1).join("inner/two")).unwrap(), b"onemore");
}

/// Nobody has used them since this node was started.
#[test]
fn names_that_were_never_seen_are_looked_for() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir_all(top.join("deep/er")).unwrap();
    write_and_sync(&top.join("one"), b"one");
    fs::hard_link(top.join("one"), top.join("deep/er/two")).unwrap();
    stage.stop(1);
    stage.order(0, Order::Follow);
    stage.until("it serves no longer", |stage| !stage.info(0).role.leads());
    stage.stop(0);
    stage.start(0);
    stage.start(1);
    stage.order(0, Order::Lead { force: false });
    stage.until_in_sync(0);
    let file = File::options().write(true).open(top.join("one")).unwrap();
    fs::remove_file(top.join("one")).unwrap();
    check_told_after_a_reconnection(&mut stage, 0, || {
        file.write_all_at(b"more", 3).unwrap();
        file.sync_all().expect("both disks take it");
    });
    assert_eq!(fs::read(stage.below(1).join("deep/er/two")).unwrap(), b"onemore");
}

/// What is open on a node that follows is renamed underneath.
#[test]
fn what_the_other_node_has_renamed_goes_by_its_new_name() {
    let Some(mut stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir_all(top.join("old/er")).unwrap();
    fs::create_dir(top.join("plain")).unwrap();
    write_and_sync(&top.join("old/file"), b"one");
    let directories = ["old/er", "plain"].map(|it| open(&stage.mount(1).join(it)));
    let place = open(&stage.mount(1).join("old/file"));
    fs::rename(top.join("old"), top.join("new")).unwrap();
    fs::rename(top.join("new/file"), top.join("other")).unwrap();
    fs::rename(top.join("plain"), top.join("simple")).unwrap();
    stage.assert_same();
    stage.order(0, Order::Follow);
    stage.until("it serves no longer", |stage| !stage.info(0).role.leads());
    stage.order(1, Order::Lead { force: false });
    stage.until_in_sync(1);
    check_told_after_a_reconnection(&mut stage, 1, || {
        let proc = |fd: &OwnedFd| crate::driver::replica::object::proc_path(fd.as_fd());
        directories.iter().for_each(|it| write_and_sync(&proc(it).join("made"), b"made"));
        let file = File::options().append(true).open(proc(&place)).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
    });
    for directory in ["new/er", "simple"] {
        assert_eq!(fs::read(stage.below(0).join(directory).join("made")).unwrap(), b"made");
    }
}

#[test]
fn the_node_that_serves_says_why_the_other_one_gave_up() {
    let Some(mut stage) = Stage::with_little_room() else { return };
    stage.mirror();
    let large = stage.mount(0).join("large");
    // Here there is room: the application hears of nothing.
    write_and_sync(&large, &vec![7; 32 << 20]);
    stage.until("it is told", |stage| {
        let info = stage.info(0);
        info.role == MirrorRole::Alone && info.why.contains("the other node gave up: ")
    });
    let why = stage.info(0).why;
    assert!(why.contains("No space left on device"), "{why}");
    fs::remove_file(&large).unwrap();
    stage.until_in_sync(0);
    stage.assert_same();
    let why = stage.info(0).why;
    assert!(!why.contains("gave up"), "{why}");
}

#[test]
fn a_comparison_finds_what_is_not_equal_and_mends_it() {
    let Some(stage) = Stage::mirrored() else { return };
    let top = stage.mount(0);
    fs::create_dir(top.join("inner")).unwrap();
    for number in 0..20 {
        write_and_sync(&top.join(format!("inner/file{number}")), &[number; 200_000]);
    }
    stage.assert_same();
    let verify = |differing| {
        stage.pairs[0].as_ref().expect("it runs").verify();
        stage.until("compared", |stage| stage.info(0).verification.is_some_and(|it| it.ended.is_some()));
        let verification = stage.info(0).verification.expect("there was one");
        assert!(verification.complete, "{verification:?}");
        assert_eq!(verification.differing, differing, "{verification:?}");
    };
    verify(0);
    // What no application can do: the copy of the other node, underneath.
    let damaged = File::options().write(true).open(stage.below(1).join("inner/file7")).unwrap();
    damaged.write_all_at(b"!", 150_000).unwrap();
    fs::remove_file(stage.below(1).join("inner/file8")).unwrap();
    drop(damaged);
    stage.pairs[0].as_ref().expect("it runs").verify();
    stage.until("found", |stage| {
        stage.info(0).verification.is_some_and(|it| it.differing > 0 && it.ended.is_some())
    });
    stage.until_in_sync(0);
    stage.assert_same();
}
