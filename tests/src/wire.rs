//! A socket on an interface's wire: whole frames out and in.

use std::io;
use std::time::Duration;

use safekit::driver::datapath::index_and_mac;
use safekit::driver::packet_socket::PacketSocket;

pub struct Wire {
    socket: PacketSocket,
    index: u32,
}

/// Longer than any frame takes on a loaded machine; a test that gets none fails after it.
const PATIENCE: Duration = Duration::from_secs(2);

impl Wire {
    pub fn on(interface: &str) -> io::Result<Self> {
        let (index, _) = index_and_mac(interface)?;
        Ok(Self { socket: PacketSocket::listening(index, libc::ETH_P_ALL as u16)?, index })
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(self.index, frame)
    }

    /// The first frame that `wanted` says yes to; an error when none comes in time.
    pub fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        loop {
            match self.socket.receive(&mut buffer, PATIENCE)? {
                Some(frame) if wanted(frame) => return Ok(frame.to_vec()),
                Some(_) => {}
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}
