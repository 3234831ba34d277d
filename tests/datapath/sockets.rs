//! Buckets on the move: what the kernel's own sockets say of a packet, with real sockets in a namespace of our own.

use std::io::Write as _;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use safekit_ebpf::verdict::{BucketState, Evidence, Reason};
use safekit_tests::fixture::{Circumstances, Host, Loaded, PORT_CONNECTION, VIP, VIP6};
use safekit_tests::netns::{in_new_namespace, ip, sysctl};
use safekit_tests::packets::{ACK, RST, SYN};
use safekit_tests::rows::{CLIENT, CLIENT6, v4, v6};
use safekit_tests::wire::Wire;

pub(crate) const PORT: u16 = 40_000;

/// The virtual IPs and the client are all local, so that both ends of a connection live here.
pub(crate) fn addresses() -> Result<()> {
    for line in [format!("address add {VIP}/32 dev lo"), format!("address add {CLIENT}/32 dev lo")] {
        ip(&line)?;
    }
    for address in [VIP6, CLIENT6] {
        ip(&format!("-6 address add {address}/128 dev lo nodad"))?;
    }
    Ok(())
}

pub(crate) fn connected(client: IpAddr, port: u16, server: IpAddr) -> Result<OwnedFd> {
    let family = if client.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let end = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&end, true)?;
    bind(&end, &SocketAddr::new(client, port))?;
    connect(&end, &SocketAddr::new(server, PORT_CONNECTION))
        .context("cannot connect to the listener of the test")?;
    Ok(end)
}

/// Both filters, in the three circumstances in which a socket decides.
struct Both {
    loaded: Loaded,
    host: Host,
}

const UNDECIDED: [Circumstances; 3] = [
    Circumstances { state: BucketState::Gained, lease: true },
    Circumstances { state: BucketState::Lost, lease: true },
    Circumstances { state: BucketState::Mine, lease: false },
];

impl Both {
    fn new() -> Result<Self> {
        Ok(Self { loaded: Loaded::new()?, host: Host::new() })
    }

    fn host_sees(&mut self, client: impl Into<IpAddr>, evidence: Evidence) {
        self.host.sockets.insert((client.into(), PORT, PORT_CONNECTION), evidence);
    }

    fn check(&mut self, what: &str, frame: &[u8], expected: Reason) -> Result<()> {
        for circumstances in UNDECIDED {
            self.loaded.set(circumstances)?;
            self.host.set(circumstances);
            let in_kernel = self.loaded.run(frame)?;
            assert_eq!(in_kernel.reason, expected, "{what}, {circumstances:?}");
            assert_eq!(in_kernel, self.host.run(frame), "{what}, {circumstances:?}");
        }
        Ok(())
    }
}

#[test]
fn a_live_connection_keeps_its_packets_and_no_other_does() -> Result<()> {
    in_new_namespace(|| {
        addresses()?;
        let mut both = Both::new()?;
        let ack = v4().tcp(PORT, PORT_CONNECTION, ACK).build();
        both.check("nobody listens", &ack, Reason::NoSocket)?;

        let listener = TcpListener::bind((VIP, PORT_CONNECTION))?;
        both.check("only a listener", &ack, Reason::NoSocket)?;

        let client = connected(CLIENT.into(), PORT, VIP.into())?;
        let (server, _) = listener.accept()?;
        both.host_sees(CLIENT, Evidence::Connection);
        both.check("an established connection", &ack, Reason::Kept)?;
        both.check("its reset", &v4().tcp(PORT, PORT_CONNECTION, RST).build(), Reason::Kept)?;
        both.check(
            "its answer to a simultaneous open",
            &v4().tcp(PORT, PORT_CONNECTION, SYN | ACK).build(),
            Reason::Kept,
        )?;
        let ours = || safekit_tests::packets::ethernet([2; 6]).ipv4(VIP, CLIENT);
        let error = |port| v4().icmp_error(3, 4, &ours().tcp(PORT_CONNECTION, port, ACK).quoted()).build();
        both.check("an error about it", &error(PORT), Reason::IcmpError)?;
        both.check("an error about another", &error(PORT + 1), Reason::NoSocket)?;
        both.check(
            "another port of that client",
            &v4().tcp(PORT + 1, PORT_CONNECTION, ACK).build(),
            Reason::NoSocket,
        )?;
        let optioned =
            safekit_tests::packets::ethernet([2; 6]).vlan(9).ipv4_with_options(CLIENT, VIP, &[1; 8]);
        both.check("tagged, with options", &optioned.tcp(PORT, PORT_CONNECTION, ACK).build(), Reason::Kept)?;

        // The server closes first, so its end waits (RFC 9293 3.6.1) and still answers for its packets.
        server.shutdown(Shutdown::Both)?;
        drop(server);
        drop(client);
        std::thread::sleep(Duration::from_millis(50));
        both.check("a connection in time-wait", &ack, Reason::Kept)?;
        Ok(())
    })
}

#[test]
fn a_connection_that_was_reset_keeps_nothing() -> Result<()> {
    in_new_namespace(|| {
        addresses()?;
        let mut both = Both::new()?;
        let listener = TcpListener::bind((VIP, PORT_CONNECTION))?;
        let client = connected(CLIENT.into(), PORT, VIP.into())?;
        let (server, _) = listener.accept()?;
        let ack = v4().tcp(PORT, PORT_CONNECTION, ACK).build();
        both.host_sees(CLIENT, Evidence::Connection);
        both.check("established", &ack, Reason::Kept)?;

        reset(server)?;
        drop(client);
        both.host_sees(CLIENT, Evidence::None);
        both.check("reset", &ack, Reason::NoSocket)
    })
}

#[test]
fn ipv6_connections_are_found_too() -> Result<()> {
    in_new_namespace(|| {
        addresses()?;
        let mut both = Both::new()?;
        let listener = TcpListener::bind((VIP6, PORT_CONNECTION))?;
        let ack = v6().tcp(PORT, PORT_CONNECTION, ACK).build();
        both.check("only a listener", &ack, Reason::NoSocket)?;

        let _client = connected(CLIENT6.into(), PORT, VIP6.into())?;
        let (mut server, _) = listener.accept()?;
        server.write_all(b"hello")?;
        both.host_sees(CLIENT6, Evidence::Connection);
        both.check("established", &ack, Reason::Kept)?;
        let ours = safekit_tests::packets::ethernet([2; 6]).ipv6(VIP6, CLIENT6);
        let error = v6().icmpv6_error(2, 0, &ours.tcp(PORT_CONNECTION, PORT, ACK).quoted()).build();
        both.check("an error about it", &error, Reason::IcmpError)?;
        let extended = v6().hop_by_hop(0).destination_options(1).tcp(PORT, PORT_CONNECTION, ACK).build();
        both.check("behind extension headers", &extended, Reason::Kept)
    })
}

/// With SYN cookies there is no socket until the handshake's last packet, which therefore has to be recognised. One
/// namespace only: all namespaces of a kernel share the cookies' secret.
#[test]
fn the_last_packet_of_a_handshake_by_cookie_is_recognised() -> Result<()> {
    in_new_namespace(|| {
        addresses()?;
        sysctl("net.ipv4.tcp_syncookies", "2")?;
        let mut both = Both::new()?;
        let listener = TcpListener::bind((VIP, PORT_CONNECTION))?;
        let wire = Wire::on("lo")?;
        let client = connected(CLIENT.into(), PORT, VIP.into())?;
        let offer = wire.receive(|frame| frame.get(47) == Some(&(SYN | ACK)))?;
        let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| offer[at + byte]));
        let (cookie, next) = (number(38), number(42));
        let (server, _) = listener.accept()?;
        reset(server)?;
        drop(client);

        let last = |ack| v4().tcp_numbered(PORT, PORT_CONNECTION, ACK, next, ack).build();
        both.check("a guessed cookie", &last(cookie.wrapping_add(12_345)), Reason::NoSocket)?;
        both.host_sees(CLIENT, Evidence::Cookie);
        both.check("the cookie", &last(cookie.wrapping_add(1)), Reason::KeptByCookie)
    })
}

fn reset(stream: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}
