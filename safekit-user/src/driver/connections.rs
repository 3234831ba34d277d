//! Counts live TCP connections by bucket: the evidence that ends a transition exactly.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// One end-to-end connection as the kernel of this node holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub local: IpAddr,
    pub local_port: u16,
    pub peer: IpAddr,
    pub peer_port: u16,
}

/// The kernel answers a dump in messages of at most 32 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Every TCP connection of this network namespace that still has two ends, half-open ones included: a handshake
/// that this node has begun is its own to finish. Listeners, closed sockets and TIME_WAIT do not count.
///
/// Blocks for the dump, about a millisecond for each thousand connections; call it off the heartbeat thread.
pub fn live(mut each: impl FnMut(Connection)) -> io::Result<()> {
    // A server that listens on [::] serves IPv4 clients by IPv6 sockets with mapped addresses: ask for both.
    for family in [AF_INET, AF_INET6] {
        dump(family, &mut each)?;
    }
    Ok(())
}

fn dump(family: u8, each: &mut impl FnMut(Connection)) -> io::Result<()> {
    dump_ids(family, &mut |connection, _| each(connection))
}

fn dump_ids(family: u8, each: &mut impl FnMut(Connection, SocketId)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(family), 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if answers(&answer, each)? == Dump::Done {
            return Ok(());
        }
    }
}

/// Ends the connections that are `wanted`: both ends learn it (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY). Says how many.
pub fn destroy(mut wanted: impl FnMut(Connection) -> bool) -> io::Result<usize> {
    let mut doomed = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump_ids(family, &mut |connection, id| {
            if doomed.len() < DESTROYED_MAX && wanted(connection) {
                doomed.push((family, id));
            }
        })?;
    }
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut ended = 0;
    for (family, id) in doomed {
        let mut bytes = message(family, id, NLM_F_REQUEST | NLM_F_ACK);
        // The same body under another type (linux/sock_diag.h).
        bytes[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
        socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        socket.recv(&mut answer, 0)?;
        match errno(&answer) {
            0 => ended += 1,
            // Gone meanwhile.
            code if code == -libc::ENOENT => {}
            code => return Err(io::Error::from_raw_os_error(-code)),
        }
    }
    Ok(ended)
}

const SOCK_DESTROY: u16 = 21;
/// At one time; the rest is ended by whoever asks again.
const DESTROYED_MAX: usize = 65_536;

/// Of an acknowledgement: behind the header of 16 bytes.
fn errno(answer: &[u8]) -> i32 {
    answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes)
}

#[derive(PartialEq, Eq)]
enum Dump {
    More,
    Done,
}

fn answers(mut bytes: &[u8], each: &mut impl FnMut(Connection, SocketId)) -> io::Result<Dump> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        let length = message.header.length as usize;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                let connection = Connection {
                    local: unmapped(id.source_address),
                    local_port: id.source_port,
                    peer: unmapped(id.destination_address),
                    peer_port: id.destination_port,
                };
                each(connection, id.clone());
            }
            NetlinkPayload::Done(_) => return Ok(Dump::Done),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        if length == 0 || length > bytes.len() {
            return Ok(Dump::More);
        }
        // Messages are aligned to four bytes.
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(Dump::More)
}

fn request(family: u8) -> Vec<u8> {
    let id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    message(family, id, NLM_F_REQUEST | NLM_F_DUMP)
}

fn message(family: u8, socket_id: SocketId, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let states = StateFlags::all()
        & !StateFlags::LISTEN
        & !StateFlags::CLOSE
        & !StateFlags::TIME_WAIT
        & !StateFlags::SYN_SENT;
    let body =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(body).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => Ipv6Addr::to_canonical(&v6),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_counted_while_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let server = listener.local_addr().expect("bound");
        let client = TcpStream::connect(server).expect("connects");
        let peer = client.local_addr().expect("connected");
        let accepted = listener.accept().expect("accepts");
        let is_ours = |connection: &Connection| {
            (connection.local, connection.local_port, connection.peer_port)
                == (server.ip(), server.port(), peer.port())
        };
        assert_eq!(count(is_ours), 1, "established on the server's side");
        drop(client);
        drop(accepted);
        assert_eq!(count(is_ours), 0, "closed first by the client: nothing lives here");
    }

    #[test]
    fn a_destroyed_connection_is_reset_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let server = listener.local_addr().expect("bound");
        let client = TcpStream::connect(server).expect("connects");
        let (accepted, _) = listener.accept().expect("accepts");
        let ours = |connection: Connection| connection.local_port == server.port();
        match destroy(ours) {
            Ok(ended) => {
                assert_eq!(ended, 1);
                let mut byte = [0];
                assert!(io::Read::read(&mut &client, &mut byte).is_err(), "the client learns it");
                drop(accepted);
            }
            // Only root may, and only where the kernel can.
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::EINVAL)),
                "{error}"
            ),
        }
    }

    fn count(wanted: impl Fn(&Connection) -> bool) -> usize {
        let mut found = 0;
        live(|connection| found += usize::from(wanted(&connection))).expect("the kernel lists sockets");
        found
    }
}
