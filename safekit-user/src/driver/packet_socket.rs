//! Frames by hand: a packet socket on one interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// One that only sends, by any interface.
    pub fn sender() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        Ok(Self { socket })
    }

    /// One that also receives what comes in by interface `index` with this EtherType.
    pub fn listening(index: u32, ethertype: u16) -> io::Result<Self> {
        let socket = Self::sender()?;
        let address = link_address(index, ethertype);
        // SAFETY: the address lives through the call, and its length is its own.
        let bound = unsafe {
            libc::bind(
                socket.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    /// Sends a whole frame, Ethernet header included.
    pub fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let address = link_address(index, 0);
        // SAFETY: frame and address live through the call, and their lengths are their own.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame, cut to `buffer`; none when there was none `within` the time.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], within: Duration) -> io::Result<Option<&'a [u8]>> {
        let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
        let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        if poll(&mut polled, Some(&timeout))? == 0 {
            return Ok(None);
        }
        Ok(self.receive_now(buffer)?.map(|length| &buffer[..length]))
    }

    /// The length of the next frame, cut to `buffer`; none when none waits.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(&self.socket, &mut *buffer, rustix::net::RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn link_address(index: u32, ethertype: u16) -> libc::sockaddr_ll {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index as i32;
    address
}

/// RFC 1071: the complement of the ones' complement sum.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        assert!(
            part.len() % 2 == 0 || std::ptr::eq(*part, parts[parts.len() - 1]),
            "only the last may be odd"
        );
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // Its section 3: the sum of this is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x00, 0x01], &[0xf2]]), !0xf201);
    }
}
