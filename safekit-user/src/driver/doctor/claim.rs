//! Asks the wire who has a virtual IP, as a host asks before it takes an address (RFC 5227, RFC 4862 section 5.4).
//!
//! The question names no address of ours, so nobody learns anything from it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::super::clock;
use super::super::datapath::{VirtualMac, index_and_mac};
use super::super::packet_socket::{PacketSocket, checksum};
use crate::engine::doctor::facts::Claim;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Two questions, so that one lost frame hides nobody.
const QUESTIONS: u32 = 2;
const WAIT_EACH: Duration = Duration::from_millis(300);
const ARP_BYTES: usize = 42;
const IPV6_BYTES: usize = 40;
const SOLICITATION_BYTES: usize = 24;

pub(super) fn ask(interface: &str, address: IpAddr, virtual_mac: VirtualMac) -> Claim {
    match answers(interface, address) {
        Err(error) => Claim::Failed(error.to_string()),
        Ok(macs) => match macs.iter().find(|mac| **mac != virtual_mac.0) {
            Some(stranger) => Claim::Stranger(*stranger),
            None if macs.is_empty() => Claim::Nobody,
            None => Claim::Farm,
        },
    }
}

/// The MACs that answered.
fn answers(interface: &str, address: IpAddr) -> io::Result<Vec<[u8; 6]>> {
    let (index, own) = index_and_mac(interface)?;
    let (ethertype, question) = match address {
        IpAddr::V4(v4) => (ETHERTYPE_ARP, arp_probe(own, v4).to_vec()),
        IpAddr::V6(v6) => (ETHERTYPE_IPV6, solicitation(own, v6)),
    };
    let socket = PacketSocket::listening(index, ethertype)?;
    let mut macs = Vec::new();
    let mut buffer = [0; 256];
    for _ in 0..QUESTIONS {
        socket.send(index, &question)?;
        let deadline = clock::now() + WAIT_EACH;
        while clock::now() < deadline {
            let left = deadline.since(clock::now());
            let Some(frame) = socket.receive(&mut buffer, left)? else { continue };
            let mac = match address {
                IpAddr::V4(v4) => arp_sender(frame, v4),
                IpAddr::V6(v6) => advertiser(frame, v6),
            };
            macs.extend(mac.filter(|mac| *mac != own));
        }
    }
    Ok(macs)
}

/// Who has `target`? The sender address is none (RFC 5227 section 2.1.1).
fn arp_probe(own: [u8; 6], target: Ipv4Addr) -> [u8; ARP_BYTES] {
    let mut frame = [0; ARP_BYTES];
    frame[0..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&own);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, address lengths 6 and 4, request.
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&own);
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// The MAC of whoever says that `address` is its own, in a request or in an answer.
fn arp_sender(frame: &[u8], address: Ipv4Addr) -> Option<[u8; 6]> {
    let arp = frame.get(14..ARP_BYTES)?;
    (arp[..6] == [0, 1, 0x08, 0, 6, 4] && arp[14..18] == address.octets())
        .then(|| arp[8..14].try_into().expect("six bytes"))
}

/// A neighbour solicitation from no address, to the group that every owner of `target` is in.
fn solicitation(own: [u8; 6], target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = [0; SOLICITATION_BYTES];
    message[0] = 135;
    message[8..].copy_from_slice(&target.octets());
    let mut pseudo = [0; IPV6_BYTES];
    pseudo[16..32].copy_from_slice(&group.octets());
    pseudo[35] = SOLICITATION_BYTES as u8;
    pseudo[39] = 58;
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(own);
    frame.extend(ETHERTYPE_IPV6.to_be_bytes());
    // Version 6, the length, ICMPv6, and a hop limit that no router lets by (RFC 4861 section 7.1.1).
    frame.extend([0x60, 0, 0, 0, 0, SOLICITATION_BYTES as u8, 58, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// Who advertises `address`: by the option where there is one, else by the frame.
fn advertiser(frame: &[u8], address: Ipv6Addr) -> Option<[u8; 6]> {
    const MESSAGE: usize = 14 + IPV6_BYTES;
    let message = frame.get(MESSAGE..MESSAGE + SOLICITATION_BYTES)?;
    if frame[20] != 58 || message[0] != 136 || message[8..] != address.octets() {
        return None;
    }
    let option = frame.get(MESSAGE + SOLICITATION_BYTES..MESSAGE + SOLICITATION_BYTES + 8);
    match option {
        Some([2, 1, mac @ ..]) => mac.try_into().ok(),
        Some(_) | None => frame[6..12].try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 9, 9, 9, 9, 9];
    const OTHER: [u8; 6] = [2, 7, 7, 7, 7, 7];
    const V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);

    #[test]
    fn a_probe_names_no_sender_and_an_answer_is_recognised() {
        let probe = arp_probe(OWN, V4);
        assert_eq!(probe[28..32], [0; 4], "nobody learns an address from a probe");
        assert_eq!(arp_sender(&probe, V4), None, "our own question is no answer");
        let mut answer = probe;
        answer[21] = 2;
        answer[22..28].copy_from_slice(&OTHER);
        answer[28..32].copy_from_slice(&V4.octets());
        assert_eq!(arp_sender(&answer, V4), Some(OTHER));
        assert_eq!(arp_sender(&answer, Ipv4Addr::new(10, 99, 0, 101)), None);
        assert_eq!(arp_sender(&answer[..41], V4), None);
    }

    #[test]
    fn a_solicitation_is_whole_and_an_advertisement_is_recognised() {
        let address: Ipv6Addr = "2001:db8::1:2:300".parse().expect("an address");
        let frame = solicitation(OWN, address);
        assert_eq!(frame.len(), 14 + IPV6_BYTES + SOLICITATION_BYTES);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 2, 3, 0]);
        let mut pseudo = [0; IPV6_BYTES];
        pseudo[..32].copy_from_slice(&frame[22..54]);
        pseudo[35] = SOLICITATION_BYTES as u8;
        pseudo[39] = 58;
        assert_eq!(checksum(&[&pseudo, &frame[54..]]), 0, "the sum over a whole message is none");
        assert_eq!(advertiser(&frame, address), None);
        let mut answer = frame;
        answer[54] = 136;
        answer[6..12].copy_from_slice(&OTHER);
        assert_eq!(advertiser(&answer, address), Some(OTHER), "without an option, by the frame");
        answer.extend([2, 1, 2, 0x36, 1, 2, 3, 4]);
        assert_eq!(advertiser(&answer, address), Some([2, 0x36, 1, 2, 3, 4]));
        assert_eq!(advertiser(&answer[..70], address), None);
    }
}
