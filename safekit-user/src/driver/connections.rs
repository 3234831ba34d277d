//! Counts live TCP connections by bucket: the evidence that ends a transition exactly.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
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

#[derive(PartialEq, Eq)]
enum Dump {
    More,
    Done,
}

fn answers(mut bytes: &[u8], each: &mut impl FnMut(Connection)) -> io::Result<Dump> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        let length = message.header.length as usize;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                each(Connection {
                    local: unmapped(id.source_address),
                    local_port: id.source_port,
                    peer: unmapped(id.destination_address),
                    peer_port: id.destination_port,
                });
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
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let states = StateFlags::all()
        & !StateFlags::LISTEN
        & !StateFlags::CLOSE
        & !StateFlags::TIME_WAIT
        & !StateFlags::SYN_SENT;
    let body = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
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

    fn count(wanted: impl Fn(&Connection) -> bool) -> usize {
        let mut found = 0;
        live(|connection| found += usize::from(wanted(&connection))).expect("the kernel lists sockets");
        found
    }
}
