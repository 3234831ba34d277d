//! One TCP connection that asks for the same small answer, without blocking.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
};
use safekit::driver::clock;
use safekit::types::Instant;

const ANSWER_BYTES_MAX: usize = 4096;

/// Whether the connection serves one request or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    Alive,
    /// The server closes after its answer.
    Once,
}

impl Keeping {
    fn request(self) -> &'static [u8] {
        match self {
            Self::Alive => b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n",
            Self::Once => b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The socket says when there is more to do.
    Waiting,
    Answered,
    /// By the server.
    Closed,
    Failed,
}

#[derive(Debug)]
pub struct Exchange {
    socket: OwnedFd,
    keeping: Keeping,
    asked: bool,
    received: Vec<u8>,
    /// Of the connection, or of the latest request on it.
    pub started: Instant,
}

impl Exchange {
    /// Begins to connect from `source`, at a port of the kernel's choice.
    pub fn open(source: Ipv4Addr, target: SocketAddrV4, keeping: Keeping) -> Result<Self, Errno> {
        let started = clock::now();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrV4::new(source, 0))?;
        match connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { socket, keeping, asked: false, received: Vec::with_capacity(512), started })
    }

    /// Asks again on the same connection.
    pub fn ask_again(&mut self) {
        self.received.clear();
        self.asked = false;
        self.started = clock::now();
    }

    pub fn is_answered(&self) -> bool {
        answer_bytes(&self.received) == Some(self.received.len())
    }

    /// Does what the socket is ready for: asks, or takes an answer.
    pub fn advance(&mut self) -> Progress {
        if !self.asked {
            let request = self.keeping.request();
            match send(&self.socket, request, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == request.len() => {
                    self.asked = true;
                    return Progress::Waiting;
                }
                Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::Waiting,
                // A buffer that is full after a hundred bytes is no buffer.
                Ok(_) | Err(_) => return Progress::Failed,
            }
        }
        let mut buffer = [0_u8; 1024];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => return Progress::Closed,
                Ok((bytes, _)) => self.received.extend_from_slice(&buffer[..bytes]),
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Failed,
            }
            match answer_bytes(&self.received) {
                Some(bytes) if bytes == self.received.len() => return Progress::Answered,
                Some(bytes) if bytes > self.received.len() => {}
                None if self.received.len() < ANSWER_BYTES_MAX => {}
                // More than was asked for, or no answer of a web server.
                Some(_) | None => return Progress::Failed,
            }
        }
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Of a good answer, as soon as its head is there.
fn answer_bytes(received: &[u8]) -> Option<usize> {
    const LENGTH: &[u8] = b"\r\nContent-Length: ";
    let head = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    if !received.starts_with(b"HTTP/1.1 200 ") {
        return Some(0);
    }
    let Some(at) = received[..head].windows(LENGTH.len()).position(|window| window == LENGTH) else {
        return Some(0);
    };
    let digits = received[at + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits
        .fold(0_usize, |value, digit| value.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    Some(head.saturating_add(length))
}

#[cfg(test)]
mod tests {
    use super::answer_bytes;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        for (received, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Some(41)),
            ("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 12\r\nA: b\r\n\r\nn1", Some(68)),
            ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nabc", Some(0)),
            ("HTTP/1.1 200 OK\r\n\r\nabc", Some(0)),
        ] {
            assert_eq!(answer_bytes(received.as_bytes()), expected, "{received:?}");
        }
        assert_eq!(
            answer_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
            Some(usize::MAX)
        );
    }
}
