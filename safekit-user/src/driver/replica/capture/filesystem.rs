//! Requests of the kernel, each carried to the tree and answered. A panic in one of them is that one's error.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::attributes::{kind, timestamps, unpacked};
use super::credentials::Caller;
use super::tree::{Tree, Wanted};
use crate::driver::replica::directory::is_dot;
use crate::driver::replica::identity::ROOT;

/// Nobody but this process changes the directory, and what it changes the kernel knows.
const VALID: Duration = Duration::from_secs(3600);
/// A number is never given to another object.
const GENERATION: Generation = Generation(0);
const READ_BYTES_MAX: usize = 1024 * 1024;
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Passage {
    tree: Tree,
}

impl Passage {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree }
    }
}

fn attempt<T>(work: impl FnOnce() -> Result<T, Errno>) -> Result<T, fuser::Errno> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| fuser::Errno::from_i32(error.raw_os_error())),
        Err(_panic) => {
            tracing::error!("a request to a replicated directory met a defect of safekit and was refused");
            Err(fuser::Errno::EIO)
        }
    }
}

fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

fn flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

/// `$reply.$say(…)` with what came out, or its error.
macro_rules! answer {
    ($reply:ident, $work:expr, |$value:pat_param| $say:expr) => {
        match attempt(|| $work) {
            Ok($value) => $say,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Passage {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO;
        for flag in wanted.iter() {
            if config.add_capabilities(flag).is_err() {
                return Err(std::io::Error::other(format!("this kernel's FUSE lacks {flag:?}")));
            }
        }
        // Refused: the kernel's own limit, which is smaller.
        let _smaller = config.set_max_write(WRITE_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.tree.lookup(parent.0, name), |found| reply.entry(&VALID, &found, GENERATION));
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.tree.forget(node.0, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let handle = handle.map(|handle| handle.0);
        answer!(reply, self.tree.stat(node.0, handle), |found| reply.attr(&VALID, &found));
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (accessed.is_some() || modified.is_some()).then(|| timestamps(accessed, modified));
        let wanted = Wanted { mode, uid, gid, size, times };
        let handle = handle.map(|handle| handle.0);
        answer!(reply, self.tree.change(node.0, handle, &wanted, caller(request, 0)), |found| {
            reply.attr(&VALID, &found);
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        answer!(reply, self.tree.readlink(node.0), |target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let caller = caller(request, umask);
        answer!(reply, self.tree.mknod(parent.0, name, mode, unpacked(device), caller), |found| {
            reply.entry(&VALID, &found, GENERATION);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        answer!(reply, self.tree.mkdir(parent.0, name, mode, caller(request, umask)), |found| {
            reply.entry(&VALID, &found, GENERATION);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.tree.unlink(parent.0, name, AtFlags::empty()), |()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.tree.unlink(parent.0, name, AtFlags::REMOVEDIR), |()| reply.ok());
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer!(reply, self.tree.symlink(parent.0, name, target, caller(request, 0)), |found| {
            reply.entry(&VALID, &found, GENERATION);
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer!(reply, self.tree.rename(from, to, flags.bits()), |()| reply.ok());
    }

    fn link(&self, _: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.tree.link(node.0, new_parent.0, new_name), |found| {
            reply.entry(&VALID, &found, GENERATION);
        });
    }

    fn open(&self, request: &Request, node: INodeNo, open: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.tree.open_file(node.0, flags(open.0), caller(request, 0)), |handle| {
            reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        open: i32,
        reply: ReplyCreate,
    ) {
        let caller = caller(request, umask);
        answer!(reply, self.tree.create(parent.0, name, mode, flags(open), caller), |(found, handle)| {
            reply.created(&VALID, &found, GENERATION, FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = (size as usize).min(READ_BYTES_MAX);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = || read_full(&*self.tree.file(handle.0)?, &mut buffer[..size], offset);
            match attempt(read) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let by = write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| caller(request, 0));
        answer!(reply, self.tree.write(handle.0, offset, data, by), |count| {
            reply.written(u32::try_from(count).unwrap_or(u32::MAX));
        });
    }

    /// Close of one of a file's descriptors. Locks are the kernel's own, and what was written is there already.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tree.close_file(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer!(reply, self.tree.sync(handle.0, data_only), |()| reply.ok());
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.tree.open_directory(node.0), |handle| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut read = || {
            let directory = self.tree.directory(handle.0)?;
            directory.read(offset, |entry| {
                let name = OsStr::from_bytes(entry.name.to_bytes());
                let number = if is_dot(&entry.name) {
                    // Nobody may ask for `..` of the directory itself: its number only has to be there.
                    ROOT
                } else {
                    match self.tree.peek(&directory, name) {
                        Ok(number) => number,
                        // It has gone since, or is no part of the replicated directory.
                        Err(Errno::NOENT | Errno::XDEV) => return Ok(true),
                        Err(error) => return Err(error),
                    }
                };
                let kind = kind(entry.kind.as_raw_mode());
                Ok(!reply.add(INodeNo(number), entry.next, kind, name))
            })
        };
        answer!(reply, read(), |()| reply.ok());
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut read = || {
            let directory = self.tree.directory(handle.0)?;
            directory.read(offset, |entry| {
                let name = OsStr::from_bytes(entry.name.to_bytes());
                let found = if is_dot(&entry.name) {
                    self.tree.stat(node.0, None)
                } else {
                    self.tree.enter_from(&directory, name)
                };
                let found = match found {
                    Ok(found) => found,
                    Err(Errno::NOENT | Errno::XDEV) => return Ok(true),
                    Err(error) => return Err(error),
                };
                let full = reply.add(found.ino, entry.next, name, &VALID, &found, GENERATION);
                if full && !is_dot(&entry.name) {
                    self.tree.forget(found.ino.0, 1);
                }
                Ok(!full)
            })
        };
        answer!(reply, read(), |()| reply.ok());
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.tree.close_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer!(reply, self.tree.sync_directory(handle.0, data_only), |()| reply.ok());
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        answer!(reply, self.tree.statvfs(node.0), |vfs| reply.statfs(
            vfs.f_blocks,
            vfs.f_bfree,
            vfs.f_bavail,
            vfs.f_files,
            vfs.f_ffree,
            u32::try_from(vfs.f_bsize).unwrap_or(u32::MAX),
            u32::try_from(vfs.f_namemax).unwrap_or(u32::MAX),
            u32::try_from(vfs.f_frsize).unwrap_or(u32::MAX),
        ));
    }

    fn setxattr(
        &self,
        _: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let set = || self.tree.set_attribute(node.0, name, value, flags.cast_unsigned());
        answer!(reply, set(), |()| reply.ok());
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        answer!(reply, self.tree.attribute(node.0, name, room as usize), |(value, size)| {
            if room == 0 { reply.size(u32::try_from(size).unwrap_or(u32::MAX)) } else { reply.data(&value) }
        });
    }

    fn listxattr(&self, _: &Request, node: INodeNo, room: u32, reply: ReplyXattr) {
        let list = || {
            let names = self.tree.list_attributes(node.0)?;
            if room != 0 && names.len() > room as usize { Err(Errno::RANGE) } else { Ok(names) }
        };
        answer!(reply, list(), |names| {
            if room == 0 {
                reply.size(u32::try_from(names.len()).unwrap_or(u32::MAX));
            } else {
                reply.data(&names);
            }
        });
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.tree.remove_attribute(node.0, name), |()| reply.ok());
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate =
            || self.tree.fallocate(handle.0, mode.cast_unsigned(), (offset, length), caller(request, 0));
        answer!(reply, allocate(), |()| reply.ok());
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        answer!(reply, self.tree.seek(handle.0, offset, whence), |found| {
            reply.offset(i64::try_from(found).unwrap_or(i64::MAX));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        at: u64,
        _: INodeNo,
        to: FileHandle,
        new_at: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        answer!(reply, self.tree.copy((from.0, at), (to.0, new_at), length, caller(request, 0)), |count| {
            reply.written(u32::try_from(count).unwrap_or(u32::MAX));
        });
    }
}

/// Short only at the end of the file: the kernel takes a short answer for that.
fn read_full(file: &std::os::fd::OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut read = 0;
    while read < buffer.len() {
        match rustix::io::pread(file, &mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
