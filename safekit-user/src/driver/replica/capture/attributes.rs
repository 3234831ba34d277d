//! What an object is, in the words of the kernel's two interfaces.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// As applications see it: under its own number.
pub(super) fn attributes(number: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(stat.st_mode),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: packed(stat.st_rdev),
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

pub(super) fn kind(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => FileType::RegularFile,
    }
}

/// Seconds may lie before 1970; nanoseconds count forward from them all the same.
fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(nanoseconds)
}

/// What the kernel asked for. fuser 0.18 gives a time before 1970 with its nanoseconds counted backward: `-5 s + 0.1 s`
/// arrives as 5.1 seconds before, and is turned into what it was.
fn asked(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) },
        Err(before) => {
            let before = before.duration();
            Timespec { tv_sec: -(before.as_secs() as i64), tv_nsec: i64::from(before.subsec_nanos()) }
        }
    }
}

/// What a time is to become; none: it stays.
pub(super) fn timestamps(
    accessed: Option<fuser::TimeOrNow>,
    modified: Option<fuser::TimeOrNow>,
) -> Timestamps {
    let one = |wanted| match wanted {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(fuser::TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(fuser::TimeOrNow::SpecificTime(time)) => asked(time),
    };
    Timestamps { last_access: one(accessed), last_modification: one(modified) }
}

/// The 32 bits in which FUSE carries a device number: 12 of major, 20 of minor.
fn packed(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) fn unpacked(device: u32) -> u64 {
    rustix::fs::makedev((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_their_nanoseconds_forward() {
        let before = |millis| UNIX_EPOCH - Duration::from_millis(millis);
        assert_eq!(time(-5, 100_000_000), before(4_900));
        assert_eq!(time(-1, 0), before(1_000));
        assert_eq!(time(5, 999_000_000), UNIX_EPOCH + Duration::from_millis(5_999));
        let there = asked(before(5_100));
        assert_eq!((there.tv_sec, there.tv_nsec), (-5, 100_000_000));
    }

    #[test]
    fn device_numbers_survive_the_way() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (259, 1_048_575), (4095, 256)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(unpacked(packed(device)), device, "{major}:{minor}");
        }
    }
}
