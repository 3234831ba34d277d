//! System calls that aya does not have: detaching a link for good, asking an interface what it is, mounting bpffs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

/// linux/bpf.h
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;
/// linux/magic.h
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// linux/sockios.h, linux/ethtool.h
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

/// Fields of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
#[derive(Default)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Fields of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// The head of `struct bpf_link_info` (linux/bpf.h), for links on interfaces: XDP and tcx begin alike.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    gap: u32,
    interface: u32,
    rest: u32,
}

/// The index of the interface that the link pinned at `path` is on; 0 when that has gone.
pub(super) fn pinned_link_interface(path: &Path) -> io::Result<u32> {
    let link = open_pin(path)?;
    let mut info = LinkInfo::default();
    let mut attributes = InfoAttributes {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel reads the attributes and fills `info` up to its length; both live until the call returns.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attributes, size_of::<InfoAttributes>())
    };
    if answer != 0 { Err(io::Error::last_os_error()) } else { Ok(info.interface) }
}

/// Detaches the link pinned at `path`, whoever else holds it, and removes the pin. Closing the last descriptor would
/// detach it too, but some time later, and until then the interface is busy.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let link = open_pin(path)?;
    // Linux 5.9: the attributes are the descriptor and nothing else.
    let mut attributes = link.as_raw_fd() as u32;
    // SAFETY: the kernel reads four bytes, which live until the call returns.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw mut attributes, size_of::<u32>()) };
    // ENOLINK: the interface has gone, and the link with it.
    if answer != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOLINK) {
        return Err(io::Error::last_os_error());
    }
    std::fs::remove_file(path)
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, ..Default::default() };
    // SAFETY: the kernel reads the attributes and the path behind them; both live until the call returns.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut attributes, size_of::<ObjectAttributes>())
    };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `directory` a place where the kernel keeps maps and links. Does nothing where it is one already.
pub fn ensure_bpffs(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    if statfs(directory)?.f_type == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("bpf", directory, "bpf", flags, Some(c"mode=0700"))?)
}

/// An interface of the caller's network namespace. (/sys would show that of whoever mounted it.)
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    /// Name of the driver; none where the driver does not say, as the loopback.
    pub(super) driver: Option<String>,
}

impl Interface {
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
        let index = rustix::net::netdevice::name_to_index(&socket, name)?;
        let mut request = interface_request(name)?;
        // SAFETY: the kernel fills the request that lives here.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as libc::Ioctl, &raw mut request) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the address is the member of the union that was written.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        let mac = std::array::from_fn(|place| address[place] as u8);
        Ok(Self { index, mac, driver: driver_of(&socket, name) })
    }
}

/// linux/ethtool.h: `cmd`, `driver[32]`, and 160 bytes that we do not read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

fn driver_of(socket: &OwnedFd, name: &str) -> Option<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = interface_request(name).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the kernel fills `info` (196 bytes, `struct ethtool_drvinfo`), which lives until the call returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } != 0 {
        return None;
    }
    let end = info.driver.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// A request about an interface, as the kernel's ioctls take it.
pub fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a C struct of integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}
