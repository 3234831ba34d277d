//! One connection of a client: each byte that comes back is known beforehand.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use safekit::front::demo::client::failure;
use safekit::front::demo::ledger::Failure;
use safekit::types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::socket;

/// SYNs are sent again after 1 and 3 seconds (RFC 6298, section 2): room for two.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// Longer than a reset of a dead node's connection can take, with the pauses between retransmissions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const NAME_BYTES_MAX: usize = 32;
const QUESTION_BYTES_MAX: usize = 1_024;

/// A handshake that succeeded; the node has not said its name yet.
pub(super) struct Opened {
    stream: TcpStream,
    pub(super) local: SocketAddr,
    /// How often its SYN had to be sent again.
    pub(super) retransmissions: u32,
}

pub(super) struct Connection {
    stream: TcpStream,
    pub(super) node: NodeId,
    /// Tells this connection's bytes from those of another.
    key: u64,
    /// Bytes sent, all of them answered.
    position: u64,
}

impl Opened {
    pub(super) async fn connect(source: IpAddr, target: SocketAddr) -> Result<Self, Failure> {
        let socket = socket::tcp_from(source).map_err(|_| Failure::Local)?;
        let stream = timeout(HANDSHAKE_TIMEOUT, socket.connect(target))
            .await
            .map_err(|_| Failure::Timeout)?
            .map_err(|error| failure(&error))?;
        let local = stream.local_addr().map_err(|_| Failure::Local)?;
        let retransmissions = socket::retransmissions(&stream).map_err(|_| Failure::Local)?;
        Ok(Self { stream, local, retransmissions })
    }

    /// Reads the node's name.
    pub(super) async fn greeted(mut self, nodes: &[String], key: u64) -> Result<Connection, Failure> {
        let mut name = Vec::with_capacity(NAME_BYTES_MAX);
        let read = async {
            loop {
                match self.stream.read_u8().await {
                    Ok(b'\n') => return Ok(()),
                    Ok(_) if name.len() == NAME_BYTES_MAX => return Err(Failure::WrongAnswer),
                    Ok(byte) => name.push(byte),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Err(Failure::Closed);
                    }
                    Err(error) => return Err(failure(&error)),
                }
            }
        };
        timeout(ANSWER_TIMEOUT, read).await.map_err(|_| Failure::Timeout)??;
        let node = nodes.iter().position(|node| node.as_bytes() == name).ok_or(Failure::WrongAnswer)?;
        Ok(Connection { stream: self.stream, node: NodeId(node as u8), key, position: 0 })
    }
}

impl Connection {
    /// Sends so many bytes and wants the same back.
    pub(super) async fn echo(&mut self, bytes: usize) -> Result<(), Failure> {
        timeout(ANSWER_TIMEOUT, self.ask(bytes)).await.map_err(|_| Failure::Timeout)?
    }

    async fn ask(&mut self, bytes: usize) -> Result<(), Failure> {
        assert!(
            bytes <= QUESTION_BYTES_MAX,
            "the server reads a question at once, so nobody waits for the other"
        );
        let question: Vec<u8> = (self.position..).take(bytes).map(|place| byte(self.key, place)).collect();
        self.stream.write_all(&question).await.map_err(|error| failure(&error))?;
        let mut answer = [0; QUESTION_BYTES_MAX];
        let mut length = 0;
        while length < bytes {
            match self.stream.read(&mut answer[length..bytes]).await.map_err(|error| failure(&error))? {
                0 => return Err(Failure::Closed),
                more => length += more,
            }
        }
        if answer[..bytes] != question[..] {
            return Err(Failure::WrongAnswer);
        }
        self.position += bytes as u64;
        Ok(())
    }

    /// Waits for what must not come while nothing was asked: the end, a reset, bytes.
    pub(super) async fn unasked(&mut self) -> Failure {
        match self.stream.read_u8().await {
            Ok(_) => Failure::WrongAnswer,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Failure::Closed,
            Err(error) => failure(&error),
        }
    }

    /// Ends in order: FIN, and the other side's FIN.
    pub(super) async fn goodbye(mut self) -> Result<(), Failure> {
        let end = async {
            self.stream.shutdown().await.map_err(|error| failure(&error))?;
            match self.unasked().await {
                Failure::Closed => Ok(()),
                other => Err(other),
            }
        };
        timeout(ANSWER_TIMEOUT, end).await.map_err(|_| Failure::Timeout)?
    }

    /// Ends by a reset.
    pub(super) fn abort(self) {
        // Refused only for a connection that is no more.
        let _gone = socket::end_by_reset(&self.stream);
    }
}

/// What the connection `key` sends at a place of its stream: a shifted, lost or foreign byte is noticed.
fn byte(key: u64, place: u64) -> u8 {
    let mixed = (key ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::byte;

    #[test]
    fn streams_differ_from_each_other_and_from_themselves_shifted() {
        let stream = |key, from| (from..from + 64).map(|place| byte(key, place)).collect::<Vec<u8>>();
        assert_eq!(stream(1, 0), stream(1, 0));
        assert_ne!(stream(1, 0), stream(2, 0));
        assert_ne!(stream(1, 0), stream(1, 1));
    }
}
