//! Virtual MACs as sources: what leaves with one is dropped and counted, what arrives with one is counted.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use safekit::driver::datapath::{Datapath, Leak, ModeChoice, VirtualMac};
use safekit_tests::fixture::{OWN_MAC, VIP, VIP6, plan};
use safekit_tests::netns::{in_new_namespace, ip};
use safekit_tests::wire::Wire;

/// An ethertype for experiments: nothing answers it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

fn frame(source: [u8; 6], mark: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&EXPERIMENT);
    frame.extend_from_slice(&[mark; 46]);
    frame
}

fn is_experiment(frame: &[u8]) -> bool {
    frame[12..14] == EXPERIMENT
}

#[test]
fn a_virtual_mac_never_leaves_and_its_arrival_is_told() -> Result<()> {
    in_new_namespace(|| {
        for line in ["eth0 type veth peer name far0", "eth1 type veth peer name far1"] {
            ip(&format!("link add {line}"))?;
        }
        for name in ["eth0", "far0", "eth1", "far1"] {
            ip(&format!("link set {name} up"))?;
        }
        let datapath = Datapath::load(&plan(), None, ModeChoice::Auto)?;
        for guard in datapath.guards() {
            ensure!(guard.missing.is_none(), "{guard:?}");
        }
        assert_eq!(datapath.leaks()?, []);

        let (inside, outside) = (Wire::on("eth0")?, Wire::on("far0")?);
        let virtual_mac = VirtualMac::of(VIP.into()).0;
        // Of all that leaves, only the frame under another source arrives.
        for mark in 1..=3 {
            // The packet socket hears that its frame was dropped.
            let _refused = inside.send(&frame(virtual_mac, mark));
        }
        let _refused = inside.send(&frame(VirtualMac::of(VIP6.into()).0, 4));
        inside.send(&frame(OWN_MAC, 5))?;
        let first = outside.receive(is_experiment)?;
        assert_eq!((&first[6..12], first[14]), (&OWN_MAC[..], 5), "the first that arrives");

        outside.send(&frame(virtual_mac, 6))?;
        let of = |leaks: &[Leak], address: IpAddr| leaks.iter().find(|leak| leak.address == address).cloned();
        for _ in 0..200 {
            if of(&datapath.leaks()?, VIP.into()).is_some_and(|leak| leak.heard == 1) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let leaks = datapath.leaks()?;
        let of_vip = of(&leaks, VIP.into()).expect("a leak of the IPv4 address");
        assert_eq!((of_vip.sent, of_vip.heard, of_vip.interface.as_str()), (3, 1, "eth0"));
        assert_eq!(of(&leaks, VIP6.into()).map(|leak| (leak.sent, leak.heard)), Some((1, 0)));
        assert_eq!(leaks.len(), 2);
        Ok(())
    })
}
