//! The filter on real interfaces: what a frame meets from the wire to the stack, and what outlives a daemon.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use safekit::driver::clock;
use safekit::driver::datapath::{Datapath, XdpMode, close_lease, ensure_bpffs, remove_pins};
use safekit::driver::vip::Interface;
use safekit_ebpf::Reason;
use safekit_ebpf::verdict::Standing;
use safekit_tests::filter::{Kernel, VIP, in_namespace, ip, plan, uniform};
use safekit_tests::packets::{ACK, Packet, SYN, TARGET_MAC};
use safekit_tests::wire::Wire;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 50);
const OWN_MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 9];
const LEASE: Duration = Duration::from_secs(600);

/// `eth0` is the node's; `far0` is the other end of its cable.
fn cable() -> anyhow::Result<BTreeMap<String, Interface>> {
    let mac = OWN_MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&["link", "add", "eth0", "address", &mac, "type", "veth", "peer", "name", "far0"])?;
    for name in ["eth0", "far0"] {
        ip(&["link", "set", name, "up"])?;
    }
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let index = netdevice::name_to_index(&any, "eth0")?;
    let interface = Interface { index, mac: OWN_MAC, kind: Some("veth".to_owned()) };
    Ok(BTreeMap::from([("eth0".to_owned(), interface)]))
}

fn attached(pins: Option<&Path>, interfaces: &BTreeMap<String, Interface>) -> anyhow::Result<Kernel> {
    let mut datapath = Datapath::load(&plan(), pins, LEASE)?;
    datapath.attach(interfaces, pins, XdpMode::Auto)?;
    Ok(Kernel { datapath })
}

/// The filter runs on another thread than the test: a frame is counted a moment after it was sent.
fn wait_counted(kernel: &Kernel, reason: Reason) -> anyhow::Result<()> {
    let deadline = clock::now() + Duration::from_secs(5);
    while kernel.counted(reason) == 0 {
        anyhow::ensure!(clock::now() < deadline, "no frame was counted as {reason:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn an_arp_request_on_the_wire_is_answered_on_the_wire() {
    in_namespace(|| {
        let interfaces = cable()?;
        let mut kernel = attached(None, &interfaces)?;
        let attachment = kernel.datapath.attachment("eth0").cloned();
        assert_eq!(
            attachment.map(|attachment| attachment.mode),
            Some("generic"),
            "veth is no place for native mode"
        );
        kernel.write_table(&uniform(Standing::Mine))?;
        kernel.set_lease(true)?;
        let wire = Wire::on("far0")?;
        wire.send(&Packet::arp(true, CLIENT, VIP).build())?;
        let answer = wire.receive(|frame| frame[12..14] == [8, 6] && frame[21] == 2)?;
        assert_eq!(answer[22..28], TARGET_MAC, "the payload names the virtual MAC");
        assert_eq!(
            answer[6..12],
            OWN_MAC,
            "the source is the node's own, so no switch learns the virtual one"
        );
        wait_counted(&kernel, Reason::ArpAnswered)
    })
    .expect("the filter runs");
}

/// The whole way of a flooded frame: virtual MAC, filter, stack, and a SYN-ACK that leaves under the node's own MAC.
#[test]
fn a_flooded_syn_reaches_the_stack_of_its_owner_only() {
    in_namespace(|| {
        let interfaces = cable()?;
        ip(&["address", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        ip(&["address", "add", "10.99.0.1/24", "dev", "eth0"])?;
        ip(&[
            "neigh",
            "add",
            &CLIENT.to_string(),
            "lladdr",
            "02:cc:00:00:00:07",
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])?;
        let _listener = TcpListener::bind((VIP, 80))?;
        let mut kernel = attached(None, &interfaces)?;
        let wire = Wire::on("far0")?;
        let syn = |port| Packet::ipv4(CLIENT, VIP).tcp_numbered([port, 80], SYN, 7, 0).build_for_a_stack();
        kernel.set_lease(true)?;

        kernel.write_table(&uniform(Standing::Foreign))?;
        wire.send(&syn(41_000))?;
        wait_counted(&kernel, Reason::Foreign)?;

        kernel.write_table(&uniform(Standing::Mine))?;
        wire.send(&syn(42_000))?;
        let answer = wire.receive(|frame| frame.get(47) == Some(&(SYN | ACK)))?;
        assert_eq!(answer[36..38], 42_000_u16.to_be_bytes(), "the foreign SYN was not answered");
        assert_eq!(answer[6..12], OWN_MAC, "the virtual MAC is never a source");
        Ok(())
    })
    .expect("the filter runs");
}

/// A daemon that dies leaves its filter behind; its parent closes the lease; the next life replaces the filter.
#[test]
fn a_pinned_filter_outlives_its_daemon_and_is_replaced_by_the_next() {
    in_namespace(|| {
        let interfaces = cable()?;
        let pins = std::env::temp_dir().join(format!("safekit-pins-{}", std::process::id()));
        ensure_bpffs(&pins)?;
        let lived = lives_and_deaths(&interfaces, &pins);
        remove_pins(&pins)?;
        assert!(!pins.exists(), "nothing is left of the pins");
        lived
    })
    .expect("the filter runs");
}

fn lives_and_deaths(interfaces: &BTreeMap<String, Interface>, pins: &Path) -> anyhow::Result<()> {
    let mut first = attached(Some(pins), interfaces)?;
    first.write_table(&uniform(Standing::Mine))?;
    first.set_lease(true)?;
    close_lease(pins)?;
    let opening = Packet::ipv4(CLIENT, VIP).tcp(1, 80, SYN).build();
    first.datapath.know(safekit_tests::filter::LOOPBACK_INDEX, OWN_MAC)?;
    assert_eq!(first.datapath.test_run(&opening)?.0, 1, "the parent has closed the lease");
    drop(first);
    assert!(has_filter()?, "a pinned filter stays when its daemon has gone");

    let mut second = attached(Some(pins), interfaces)?;
    second.write_table(&uniform(Standing::Mine))?;
    second.set_lease(true)?;
    Wire::on("far0")?.send(&Packet::ipv4(CLIENT, VIP).tcp(1, 80, ACK).build())?;
    wait_counted(&second, Reason::Mine)?;
    second.datapath.detach()?;
    assert!(!has_filter()?, "a detached filter is gone at once");
    Ok(())
}

fn has_filter() -> anyhow::Result<bool> {
    let output = std::process::Command::new("ip").args(["link", "show", "eth0"]).output()?;
    Ok(String::from_utf8(output.stdout)?.contains("xdp"))
}
