//! What must hold of the filter for any bytes, read from them a second time and as plainly as can be.

use safekit_ebpf::verdict::{BucketState, Reason};

use crate::fixture::{Action, Circumstances, Outcome, VIP, VIP_ANY, VIP_ELSEWHERE, VIP6};

/// A frame about a virtual IP passes or is answered only in buckets of ours under a lease
/// (fragments and flows that follow what has passed aside), and a frame about none is never held back unless it cannot be read.
pub fn is_right(frame: &[u8], circumstances: Circumstances, outcome: &Outcome) -> bool {
    let may_accept =
        circumstances.lease && matches!(circumstances.state, BucketState::Mine | BucketState::Gained);
    match (about_a_virtual_ip(frame), outcome.action) {
        (Some(true), Action::Pass) => may_accept || follows_what_passed(outcome.reason),
        (Some(true), Action::Transmit) => {
            may_accept && matches!(outcome.reason, Reason::ArpAnswered | Reason::NdpAnswered)
        }
        (Some(true), Action::Drop) => outcome.bytes == frame,
        (Some(false), Action::Pass) => outcome.bytes == frame,
        (Some(false), Action::Drop) => {
            matches!(outcome.reason, Reason::Malformed | Reason::Probe | Reason::ProbeForeign)
        }
        (Some(false), Action::Transmit) => false,
        (None, action) => action == Action::Drop && outcome.reason == Reason::Malformed,
    }
}

/// What needs no bucket of ours now, because something has passed before.
fn follows_what_passed(reason: Reason) -> bool {
    matches!(reason, Reason::FragmentFollows | Reason::KeptFlow)
}

/// Neighbour discovery about the virtual IP, to whomever.
fn asks_or_tells(body: &[u8]) -> bool {
    let length = u16::from_be_bytes([body[4], body[5]]);
    let message = body.get(40..64).filter(|_| length >= 24 && body[6] == 58 && body[7] == 255);
    message.is_some_and(|message| matches!(message[..2], [135 | 136, 0]) && message[8..24] == VIP6.octets())
}

/// Read a second time, as plainly as can be; none where the frame ends before it says.
pub fn about_a_virtual_ip(frame: &[u8]) -> Option<bool> {
    let mut at = 12;
    let mut kind = frame.get(at..at + 2)?;
    for _ in 0..2 {
        if kind == [0x81, 0x00] || kind == [0x88, 0xa8] {
            at += 4;
            kind = frame.get(at..at + 2)?;
        }
    }
    let body = frame.get(at + 2..)?;
    let ours4 = |address: &[u8]| [VIP, VIP_ELSEWHERE, VIP_ANY].iter().any(|vip| address == vip.octets());
    match kind {
        [0x08, 0x00] => body.get(..20).map(|header| ours4(&header[16..20])),
        [0x86, 0xdd] => body.get(..40).map(|header| header[24..40] == VIP6.octets() || asks_or_tells(body)),
        [0x08, 0x06] => body.get(..28).map(|arp| {
            let ethernet_ipv4 = arp[..6] == [0, 1, 8, 0, 6, 4];
            ethernet_ipv4 && (ours4(&arp[14..18]) || ours4(&arp[24..28]))
        }),
        _ => Some(false),
    }
}
