//! What the standard sockets cannot be asked: the port at the last moment, and how often a SYN was sent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// A TCP socket that will connect from `source`. Its port is chosen at the connect, so that sixty thousand ports of an
/// address count per destination (ip(7), IP_BIND_ADDRESS_NO_PORT).
pub(super) fn tcp_from(source: IpAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address((source, 0).into()), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // The IPv4 option works on IPv6 sockets too: it is kept in the part that both share.
    set_flag(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A reset instead of a FIN at the drop.
pub(super) fn end_by_reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Segments that had to be sent again so far, the SYN included.
pub(super) fn retransmissions(stream: &TcpStream) -> io::Result<u32> {
    // SAFETY: the kernel's structure is plain numbers, for which zeros are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes, and the kernel writes no more than `length` says.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info.tcpi_total_retrans) } else { Err(io::Error::last_os_error()) }
}

fn set_flag(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is readable for the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// As many descriptors as the system allows: tens of thousands of connections are one each.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 262_144;
    let now = getrlimit(Resource::Nofile);
    let more = Rlimit { current: Some(WANTED), maximum: now.maximum.map(|maximum| maximum.max(WANTED)) };
    if setrlimit(Resource::Nofile, more).is_err() {
        // Without the right to raise the hard limit, up to it.
        let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}
