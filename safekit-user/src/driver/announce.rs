//! Gratuitous ARP: tells the neighbours which MAC answers for a virtual IP.
//!
//! The payload names the virtual MAC; the Ethernet source is the node's own. Neighbours learn from the payload and
//! switches from the header, so no switch ever learns the virtual MAC and all keep flooding it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Where and as whom to announce one virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub address: Ipv4Addr,
    pub virtual_mac: [u8; 6],
    pub interface_index: u32,
    pub interface_mac: [u8; 6],
}

const FRAME_BYTES: usize = 42;

/// A packet socket that only sends.
pub struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok(Self { socket })
    }

    /// Broadcasts one gratuitous ARP request.
    pub fn announce(&self, announcement: &Announcement) -> io::Result<()> {
        let frame = gratuitous_arp(announcement);
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut target: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        target.sll_family = libc::AF_PACKET as u16;
        target.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
        target.sll_ifindex = announcement.interface_index as i32;
        target.sll_halen = 6;
        target.sll_addr[..6].copy_from_slice(&[0xff; 6]);
        // SAFETY: frame and address live through the call, and their lengths are their own.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const target).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// RFC 5227 section 3: sender and target protocol address are both the announced one.
fn gratuitous_arp(announcement: &Announcement) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[0..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&announcement.interface_mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, address lengths 6 and 4, request.
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&announcement.virtual_mac);
    frame[28..32].copy_from_slice(&announcement.address.octets());
    frame[38..42].copy_from_slice(&announcement.address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_never_carries_the_virtual_mac() {
        let announcement = Announcement {
            address: Ipv4Addr::new(10, 99, 0, 100),
            virtual_mac: [2, 1, 1, 1, 1, 1],
            interface_index: 7,
            interface_mac: [2, 9, 9, 9, 9, 9],
        };
        let frame = gratuitous_arp(&announcement);
        assert_eq!(frame[6..12], [2, 9, 9, 9, 9, 9], "the source is the node's own MAC");
        assert_eq!(frame[22..28], [2, 1, 1, 1, 1, 1], "the payload names the virtual MAC");
        assert_eq!(frame[28..32], frame[38..42], "gratuitous: sender and target address are the same");
    }
}
