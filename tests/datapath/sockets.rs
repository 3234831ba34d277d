//! Buckets in transition: real sockets of a real kernel are the evidence.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;
use safekit_ebpf::Reason;
use safekit_ebpf::verdict::Standing;
use safekit_tests::filter::{Host, Kernel, VIP, action, in_namespace, ip, uniform};
use safekit_tests::packets::{ACK, Packet, SYN};
use safekit_tests::wire::Wire;

/// A client's address on the loopback interface of the namespace.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);

#[test]
fn a_packet_in_transition_passes_only_where_its_socket_is() {
    in_namespace(|| {
        ip(&["address", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        ip(&["address", "add", &format!("{CLIENT}/32"), "dev", "lo"])?;
        let listener = TcpListener::bind((VIP, 80))?;
        let mut connection = TcpStream::connect((VIP, 80))?;
        let client = own_end(&connection)?;
        let (_accepted, _) = listener.accept()?;
        connection.write_all(b"alive")?;
        let (mut host, mut kernel) = (Host::new(), Kernel::load()?);
        kernel.set_lease(true)?;
        host.connections = vec![client];
        let stranger = SocketAddrV4::new(*client.ip(), client.port() ^ 1);
        let cases = [
            ("its own segment, gained", Standing::Gained, client, ACK, Reason::MineBySocket),
            ("a stranger's segment, gained", Standing::Gained, stranger, ACK, Reason::Unproven),
            ("its own segment, lost", Standing::Lost, client, ACK, Reason::Kept),
            ("a stranger's segment, lost", Standing::Lost, stranger, ACK, Reason::Foreign),
            ("a new connection, gained", Standing::Gained, stranger, SYN, Reason::Mine),
            ("a new connection, lost", Standing::Lost, stranger, SYN, Reason::Foreign),
            ("its own segment, foreign and stable", Standing::Foreign, client, ACK, Reason::Foreign),
        ];
        for (name, standing, from, flags, reason) in cases {
            host.write_table(&uniform(standing));
            kernel.write_table(&uniform(standing))?;
            let frame = Packet::ipv4(*from.ip(), VIP).tcp(from.port(), 80, flags).build();
            let (decision, expected) = host.run(&frame);
            assert_eq!(decision.reason, reason, "{name}");
            assert_eq!(kernel.datapath.test_run(&frame)?, (action(decision.verdict), expected), "{name}");
        }
        Ok(())
    })
    .expect("the filter runs");
}

/// Past its lease a node keeps the connections that it has and takes no new one.
#[test]
fn past_the_lease_only_live_connections_pass() {
    in_namespace(|| {
        ip(&["address", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        ip(&["address", "add", &format!("{CLIENT}/32"), "dev", "lo"])?;
        let listener = TcpListener::bind((VIP, 80))?;
        let connection = TcpStream::connect((VIP, 80))?;
        let client = own_end(&connection)?;
        let (_accepted, _) = listener.accept()?;
        let mut kernel = Kernel::load()?;
        kernel.write_table(&uniform(Standing::Mine))?;
        let segment = Packet::ipv4(*client.ip(), VIP).tcp(client.port(), 80, ACK).build();
        let opening = Packet::ipv4(*client.ip(), VIP).tcp(client.port() ^ 1, 80, SYN).build();
        kernel.set_lease(true)?;
        assert_eq!((kernel.datapath.test_run(&segment)?.0, kernel.datapath.test_run(&opening)?.0), (2, 2));
        kernel.set_lease(false)?;
        assert_eq!((kernel.datapath.test_run(&segment)?.0, kernel.datapath.test_run(&opening)?.0), (2, 1));
        assert_eq!(kernel.counted(Reason::Kept), 1);
        assert_eq!(kernel.counted(Reason::LeaseOver), 1);
        Ok(())
    })
    .expect("the filter runs");
}

/// With SYN cookies there is no socket until the last packet of the handshake, which therefore has to be recognised. One
/// namespace only: all namespaces of a kernel share the cookies' secret.
#[test]
fn the_last_packet_of_a_handshake_by_cookie_is_recognised() {
    in_namespace(|| {
        ip(&["address", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        ip(&["address", "add", &format!("{CLIENT}/32"), "dev", "lo"])?;
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
        let listener = TcpListener::bind((VIP, 80))?;
        let wire = Wire::on("lo")?;
        let connection = TcpStream::connect((VIP, 80))?;
        let client = own_end(&connection)?;
        let offer = wire.receive(|frame| frame.get(47) == Some(&(SYN | ACK)))?;
        let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| offer[at + byte]));
        let (cookie, next) = (number(38), number(42));
        // Both ends go without a trace: no socket may answer for the cookie.
        let (server, _) = listener.accept()?;
        sockopt::set_socket_linger(&server, Some(Duration::ZERO))?;
        drop(server);
        drop(connection);

        let mut kernel = Kernel::load()?;
        kernel.set_lease(true)?;
        kernel.write_table(&uniform(Standing::Gained))?;
        let last = |acknowledged: u32| {
            let packet = Packet::ipv4(*client.ip(), VIP);
            packet.tcp_numbered([client.port(), 80], ACK, next, acknowledged).build()
        };
        let mut passes =
            |acknowledged| kernel.datapath.test_run(&last(acknowledged)).map(|(action, _)| action == 2);
        assert!(!passes(cookie.wrapping_add(12_345))?, "a guessed cookie");
        assert!(passes(cookie.wrapping_add(1))?, "the cookie");
        Ok(())
    })
    .expect("the filter runs");
}

fn own_end(connection: &TcpStream) -> anyhow::Result<SocketAddrV4> {
    match connection.local_addr()? {
        SocketAddr::V4(client) => Ok(client),
        SocketAddr::V6(client) => anyhow::bail!("{client} is not IPv4: {}", IpAddr::from(*client.ip())),
    }
}
