//! Requests of the kernel, each carried to the tree and answered. A panic in one of them is that one's error.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::attributes::{kind, timestamps, unpacked};
use super::credentials::Caller;
use super::tree::{Answer, Tree, VALID, Wanted};
use crate::driver::replica::apply::files::read_full;
use crate::driver::replica::directory::is_dot;
use crate::driver::replica::identity::ROOT;

/// A number is never given to another object.
const GENERATION: Generation = Generation(0);
const READ_BYTES_MAX: usize = 1024 * 1024;
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Passage {
    tree: Arc<Tree>,
}

impl Passage {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self { tree }
    }

    /// Whether what the kernel has read of a file may stay when it is opened again.
    fn kept(&self) -> FopenFlags {
        if self.tree.leads() { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
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

/// The answer to a change, when it may be known.
fn later<T, R: Refuse + Send + 'static>(reply: R, say: impl FnOnce(R, T) + Send + 'static) -> Answer<T> {
    Box::new(move |made: Result<T, Errno>| match made {
        Ok(value) => say(reply, value),
        Err(error) => reply.refuse(fuser::Errno::from_i32(error.raw_os_error())),
    })
}

/// What all replies have in common.
trait Refuse {
    fn refuse(self, error: fuser::Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, error: fuser::Errno) {
                self.error(error);
            }
        })*
    };
}

refuse!(ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite);

fn done(reply: ReplyEmpty) -> Answer<()> {
    later(reply, |reply, ()| reply.ok())
}

fn entered(reply: ReplyEntry) -> Answer<FileAttr> {
    later(reply, |reply, found| reply.entry(&VALID, &found, GENERATION))
}

fn counted(reply: ReplyWrite) -> Answer<usize> {
    later(reply, |reply, count| reply.written(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// A change answers by itself, also when it panics before it begins: the reply says so when it is dropped.
fn guarded(change: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(change)).is_err() {
        tracing::error!("a change of a replicated directory met a defect of safekit and was refused");
    }
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
        answer!(reply, self.tree.lookup(parent.0, name), |found| {
            reply.entry(&self.tree.validity(), &found, GENERATION);
        });
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.tree.forget(node.0, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let handle = handle.map(|handle| handle.0);
        answer!(reply, self.tree.stat(node.0, handle), |found| {
            reply.attr(&self.tree.validity(), &found);
        });
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
        let answer = later(reply, |reply, found| reply.attr(&VALID, &found));
        guarded(|| self.tree.set(node.0, handle, &wanted, caller(request, 0), answer));
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
        let answer = entered(reply);
        guarded(|| self.tree.mknod((parent.0, name), mode, unpacked(device), caller, answer));
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
        let answer = entered(reply);
        guarded(|| self.tree.mkdir((parent.0, name), mode, caller(request, umask), answer));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = done(reply);
        guarded(|| self.tree.unlink((parent.0, name), AtFlags::empty(), answer));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = done(reply);
        guarded(|| self.tree.unlink((parent.0, name), AtFlags::REMOVEDIR, answer));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let answer = entered(reply);
        guarded(|| self.tree.symlink((parent.0, name), target, caller(request, 0), answer));
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
        let answer = done(reply);
        guarded(|| self.tree.rename(from, to, flags.bits(), answer));
    }

    fn link(&self, _: &Request, node: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let answer = entered(reply);
        guarded(|| self.tree.link(node.0, (new_parent.0, new_name), answer));
    }

    fn open(&self, request: &Request, node: INodeNo, open: OpenFlags, reply: ReplyOpen) {
        let kept = self.kept();
        let answer = later(reply, move |reply, handle| reply.opened(FileHandle(handle), kept));
        guarded(|| self.tree.open_file(node.0, flags(open.0), caller(request, 0), answer));
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
        let kept = self.kept();
        let answer = later(reply, move |reply: ReplyCreate, (found, handle)| {
            reply.created(&VALID, &found, GENERATION, FileHandle(handle), kept);
        });
        guarded(|| self.tree.create((parent.0, name), mode, flags(open), caller, answer));
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
            let read = || read_full(&*self.tree.file(handle.0)?, offset, &mut buffer[..size]);
            match attempt(read) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let by = write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| caller(request, 0));
        let answer = counted(reply);
        guarded(|| self.tree.write((node.0, handle.0), offset, data, by, answer));
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

    fn fsync(&self, _: &Request, node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let answer = done(reply);
        guarded(|| self.tree.sync((node.0, handle.0), data_only, answer));
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.tree.open_directory(node.0), |handle| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut read = || {
            let directory = self.tree.directory(handle.0)?;
            directory.read(offset, |entry| {
                let name = OsStr::from_bytes(entry.name.to_bytes());
                let number = if is_dot(&entry.name) {
                    // Nobody may ask for `..` of the directory itself: its number only has to be there.
                    ROOT
                } else {
                    match self.tree.peek(&directory, node.0, name) {
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
                    self.tree.enter_from(&directory, node.0, name)
                };
                let found = match found {
                    Ok(found) => found,
                    Err(Errno::NOENT | Errno::XDEV) => return Ok(true),
                    Err(error) => return Err(error),
                };
                let valid = self.tree.validity();
                let full = reply.add(found.ino, entry.next, name, &valid, &found, GENERATION);
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

    fn fsyncdir(&self, _: &Request, node: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let answer = done(reply);
        guarded(|| self.tree.sync_directory((node.0, handle.0), data_only, answer));
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
        let answer = done(reply);
        guarded(|| self.tree.set_attribute(node.0, name, value, flags.cast_unsigned(), answer));
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
        let answer = done(reply);
        guarded(|| self.tree.remove_attribute(node.0, name, answer));
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (file, mode, caller) = ((node.0, handle.0), mode.cast_unsigned(), caller(request, 0));
        let answer = done(reply);
        guarded(|| self.tree.fallocate(file, mode, (offset, length), caller, answer));
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
        node: INodeNo,
        from: FileHandle,
        at: u64,
        new_node: INodeNo,
        to: FileHandle,
        new_at: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = (((node.0, from.0), at), ((new_node.0, to.0), new_at));
        let answer = counted(reply);
        guarded(|| self.tree.copy(from, to, length, caller(request, 0), answer));
    }
}
