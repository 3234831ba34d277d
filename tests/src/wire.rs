//! A socket on an interface's wire: whole frames out and in.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netdevice, socket, sockopt};

pub struct Wire {
    socket: OwnedFd,
}

/// Longer than any frame takes on a loaded machine; a test that gets none fails after it.
const PATIENCE: Duration = Duration::from_secs(2);

impl Wire {
    pub fn on(interface: &str) -> io::Result<Self> {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = netdevice::name_to_index(&any, interface)?;
        let everything = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no memory is involved.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(everything))
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so this is a descriptor, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a C struct of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = index as i32;
        // SAFETY: the kernel reads the address, which lives, for its length.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.socket, frame)?;
        Ok(())
    }

    /// The first frame that `wanted` says yes to; an error when none comes in time.
    pub fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        loop {
            let length = rustix::io::read(&self.socket, &mut buffer[..])?;
            if wanted(&buffer[..length]) {
                return Ok(buffer[..length].to_vec());
            }
        }
    }
}
