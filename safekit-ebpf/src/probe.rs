//! Probes: frames by which the nodes of a farm learn whether frames for a virtual MAC arrive everywhere.
//!
//! ```text
//! Ethernet   virtual MAC · the sender's own MAC · 0x88b5 (IEEE 802: for local experiments)
//! 14         "SKpr" · version u8 · sender u8 · virtual IP u16 · round u32 · cluster [u8; 8]      network order
//! 34         zeros up to the shortest frame that Ethernet has
//! ```
//!
//! A probe proves delivery and nothing else. The cluster's mark keeps clusters on one wire apart; whoever has seen one
//! probe can send more, and make a wire look whole that is not.

use crate::abi::{PROBE_SENDERS, PROBE_VIPS};
use crate::packet::{Ethernet, Frame, Plain};
use crate::verdict::{Decision, Reason, Verdict, World, outside};

pub const ETHERTYPE: u16 = 0x88b5;
/// Without the checksum that the card adds.
pub const FRAME_BYTES: usize = 60;
const MAGIC: [u8; 4] = *b"SKpr";
const VERSION: u8 = 1;
const HEADER: usize = size_of::<Ethernet>();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The sending node.
    pub sender: u8,
    /// Place of the virtual IP in the configuration.
    pub vip: u16,
    /// Another one with each probe.
    pub round: u32,
    /// The cluster's mark.
    pub cluster: u64,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Wire {
    magic: [u8; 4],
    version: u8,
    sender: u8,
    vip: u16,
    round: u32,
    cluster: u64,
}

// SAFETY: a packed struct of integers and an array of bytes has neither padding nor invalid bit patterns.
unsafe impl Plain for Wire {}

impl Probe {
    /// The frame from `source` to `destination`.
    pub fn frame(&self, destination: [u8; 6], source: [u8; 6]) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[14..18].copy_from_slice(&MAGIC);
        frame[18..20].copy_from_slice(&[VERSION, self.sender]);
        frame[20..22].copy_from_slice(&self.vip.to_be_bytes());
        frame[22..26].copy_from_slice(&self.round.to_be_bytes());
        frame[26..34].copy_from_slice(&self.cluster.to_be_bytes());
        frame
    }
}

/// A frame that is neither IP nor ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Probe(Probe),
    /// Begins as a probe does, and goes on as none.
    Broken,
    /// Somebody else's experiment, or another protocol.
    NoProbe,
}

#[inline(always)]
pub fn read(frame: &impl Frame) -> Read {
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return Read::NoProbe };
    if ethernet.ethertype != ETHERTYPE.to_be() || frame.read::<[u8; 4]>(HEADER) != Some(MAGIC) {
        return Read::NoProbe;
    }
    let Some(wire) = frame.read::<Wire>(HEADER) else { return Read::Broken };
    let probe = Probe {
        sender: wire.sender,
        vip: u16::from_be(wire.vip),
        round: u32::from_be(wire.round),
        cluster: u64::from_be(wire.cluster),
    };
    let fits = usize::from(probe.sender) < PROBE_SENDERS && usize::from(probe.vip) < PROBE_VIPS;
    if wire.version == VERSION && fits { Read::Probe(probe) } else { Read::Broken }
}

/// Probes end here: the stack never sees one.
#[inline(always)]
pub fn decide(frame: &impl Frame, world: &impl World) -> Decision {
    let (verdict, reason) = match read(frame) {
        Read::NoProbe => (Verdict::NotFarm, Reason::NotIp),
        Read::Broken => (Verdict::Drop, Reason::Malformed),
        Read::Probe(probe) if world.hear(&probe) => (Verdict::Drop, Reason::Probe),
        Read::Probe(_) => (Verdict::Drop, Reason::ProbeForeign),
    };
    outside(verdict, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Bytes;

    const PROBE: Probe = Probe { sender: 127, vip: 255, round: 0xdead_beef, cluster: 0x0123_4567_89ab_cdef };

    fn frame() -> [u8; FRAME_BYTES] {
        PROBE.frame([2, 0x53, 10, 99, 0, 100], [2, 9, 9, 9, 9, 9])
    }

    #[test]
    fn what_is_sent_is_read() {
        assert_eq!(read(&Bytes(&mut frame())), Read::Probe(PROBE));
    }

    #[test]
    fn what_is_no_probe_passes_and_what_is_half_of_one_does_not() {
        let with = |place: usize, byte: u8| {
            let mut changed = frame();
            changed[place] = byte;
            read(&Bytes(&mut changed))
        };
        assert_eq!(with(13, 0xb6), Read::NoProbe, "another EtherType");
        assert_eq!(with(14, b's'), Read::NoProbe, "somebody else's experiment");
        assert_eq!(with(18, 2), Read::Broken, "another version");
        assert_eq!(with(19, 128), Read::Broken, "no node has this number");
        assert_eq!(with(20, 1), Read::Broken, "no virtual IP has this place");
        for length in 0..34 {
            let mut whole = frame();
            let expected = if length < 18 { Read::NoProbe } else { Read::Broken };
            assert_eq!(read(&Bytes(&mut whole[..length])), expected, "{length} bytes");
        }
    }
}
