//! Heartbeats on the clients' own path: as Ethernet frames to the virtual MAC, beside the datagrams.
//!
//! Two halves of a farm that do not hear each other and are both reached by clients break those clients' connections.
//! Where frames for the virtual IP reach every node, frames to the same MAC do, whatever a host's firewall, a wrong
//! route or a full socket does to datagrams. So while somebody's answers are missing, each heartbeat also goes this
//! way; otherwise none does, because a switch floods it to every port.
//!
//! ```text
//! virtual MAC (directed delivery: broadcast) | own MAC | EtherType 0x88b6 | length u16, network order | sealed heartbeat
//! ```
//!
//! The EtherType is the second of those for local experiments (IEEE 802, 9.2.3).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::packet_socket::PacketSocket;

const ETHERTYPE: u16 = 0x88b6;
const HEADER_BYTES: usize = 16;
/// Every Ethernet carries it; a heartbeat that does not fit goes without.
const FRAME_BYTES_MAX: usize = 1514;

/// Where frames go out and come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub interface_index: u32,
    pub interface_mac: [u8; 6],
    /// What clients' frames for the virtual IP are sent to.
    pub target: [u8; 6],
}

pub struct Frames {
    links: Vec<(PacketSocket, Path)>,
    frame: Vec<u8>,
}

impl Frames {
    pub fn open(paths: &[Path]) -> io::Result<Self> {
        let open = |path: &Path| Ok((PacketSocket::listening(path.interface_index, ETHERTYPE)?, *path));
        let links = paths.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { links, frame: Vec::with_capacity(FRAME_BYTES_MAX) })
    }

    /// Sends a sealed heartbeat on every path. Returns how many could not be sent.
    pub fn send_to_all(&mut self, sealed: &[u8]) -> u64 {
        if HEADER_BYTES + sealed.len() > FRAME_BYTES_MAX {
            return self.links.len() as u64;
        }
        let mut failed = 0;
        for (socket, path) in &self.links {
            write_frame(&mut self.frame, path, sealed);
            failed += u64::from(socket.send(path.interface_index, &self.frame).is_err());
        }
        failed
    }

    /// The next heartbeat that waits on any path, without blocking: its length, and it lies at the buffer's beginning.
    /// Frames that are none are skipped.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        self.links.iter().find_map(|(socket, _)| {
            let length = socket.receive_now(buffer).ok().flatten()?;
            read_frame(buffer, length)
        })
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|(socket, _)| socket.as_fd())
    }
}

fn write_frame(frame: &mut Vec<u8>, path: &Path, sealed: &[u8]) {
    frame.clear();
    frame.extend(path.target);
    frame.extend(path.interface_mac);
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend((sealed.len() as u16).to_be_bytes());
    frame.extend(sealed);
}

/// Moves the heartbeat to the beginning. Ethernet pads short frames, so the length is inside.
fn read_frame(buffer: &mut [u8], length: usize) -> Option<usize> {
    let header = buffer.get(..length)?.first_chunk::<HEADER_BYTES>()?;
    let sealed = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if header[12..14] != ETHERTYPE.to_be_bytes() || HEADER_BYTES + sealed > length {
        return Some(0); // refused by its seal, and counted there
    }
    buffer.copy_within(HEADER_BYTES..HEADER_BYTES + sealed, 0);
    Some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Path =
        Path { interface_index: 7, interface_mac: [2, 0, 0, 0, 0, 9], target: [2, 0x53, 10, 99, 0, 100] };

    #[test]
    fn a_heartbeat_comes_out_as_it_went_in_padding_or_not() {
        for padding in [0, 40] {
            let mut frame = Vec::new();
            write_frame(&mut frame, &PATH, b"sealed");
            assert_eq!(frame[..6], PATH.target);
            assert_eq!(
                frame[6..12],
                PATH.interface_mac,
                "the source is the node's own, never the virtual one"
            );
            frame.resize(frame.len() + padding, 0);
            let length = frame.len();
            assert_eq!(read_frame(&mut frame, length), Some(6));
            assert_eq!(frame[..6], *b"sealed");
        }
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_no_heartbeat() {
        let mut whole = Vec::new();
        write_frame(&mut whole, &PATH, b"sealed");
        for length in 0..whole.len() {
            let mut frame = whole.clone();
            assert!(matches!(read_frame(&mut frame, length), None | Some(0)), "{length} bytes");
        }
        let mut other = whole.clone();
        other[12] = 0x08;
        let length = other.len();
        assert_eq!(read_frame(&mut other, length), Some(0), "another EtherType");
        assert_eq!(read_frame(&mut [0; 4], 99), None, "a length beyond the buffer");
    }
}
