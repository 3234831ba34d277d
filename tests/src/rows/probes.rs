//! Probes of delivery: frames to a virtual MAC that are neither IP nor ARP. None reaches the stack.

use safekit_ebpf::probe::{ETHERTYPE, Probe};

use super::*;
use crate::fixture::plan;
use crate::packets::CLIENT_MAC;

const HEARD: Expect = Expect::Always(Action::Drop, Reason::Probe);
const FOREIGN: Expect = Expect::Always(Action::Drop, Reason::ProbeForeign);
const NO_PROBE: Expect = Expect::Always(Action::Pass, Reason::NotIp);
/// Where the fields lie, and where the last of them ends.
const MAGIC_AT: usize = 14;
const VERSION_AT: usize = 18;
const SENDER_AT: usize = 19;
const VIP_AT: usize = 20;
const END: usize = 34;

pub(super) fn all() -> Vec<Row> {
    let cluster = plan().mark;
    let probe = |sender, vip, cluster| {
        Probe { sender, vip, round: 7, cluster }.frame(VIRTUAL_MAC, CLIENT_MAC).to_vec()
    };
    let ours = || probe(1, 1, cluster);
    let cut = |length: usize| ours()[..length].to_vec();
    let with = |at: usize, byte: u8| {
        let mut frame = ours();
        frame[at] = byte;
        frame
    };
    let to = |mac: [u8; 6]| [&mac[..], &ours()[6..]].concat();
    vec![
        row("probe of this node", probe(0, 1, cluster), HEARD),
        row("probe of a peer", ours(), HEARD),
        row("probe of the last node for the last virtual ip", probe(127, 255, cluster), HEARD),
        row("probe that a switch has cut to its last field", cut(END), HEARD),
        row("probe with more behind it", [ours(), vec![0xff; 400]].concat(), HEARD),
        row("probe to a multicast mac", to([0x03, 0x53, 10, 99, 0, 100]), HEARD),
        row("probe to the node's own mac", to(OWN_MAC), HEARD),
        row("probe of another cluster", probe(1, 1, !cluster), FOREIGN),
        row("probe of a cluster whose mark differs in one bit", probe(1, 1, cluster ^ 1), FOREIGN),
        row("probe of a cluster without a mark", probe(1, 1, 0), FOREIGN),
        row("probe of another version", with(VERSION_AT, 2), MALFORMED),
        row("probe of a node beyond the last", with(SENDER_AT, 128), MALFORMED),
        row("probe for a virtual ip beyond the last", with(VIP_AT, 1), MALFORMED),
        row("probe that lacks its last byte", cut(END - 1), MALFORMED),
        row("probe that ends behind its magic word", cut(VERSION_AT), MALFORMED),
        row("frame that ends in the magic word", cut(VERSION_AT - 1), NO_PROBE),
        row("frame of the ethertype alone", cut(MAGIC_AT), NO_PROBE),
        row("somebody else's experiment", with(MAGIC_AT, b's'), NO_PROBE),
        row("ethertype of experiments, with nothing known in it", experiment(), NO_PROBE),
        row("magic word under the ethertype of heartbeats", with(13, 0xb6), NO_PROBE),
        row("probe behind a tag, as no node sends it", tagged(&ours()), NO_PROBE),
    ]
}

fn experiment() -> Vec<u8> {
    ethernet(VIRTUAL_MAC).other_ethertype(ETHERTYPE).build()
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0, 5], &frame[12..]].concat()
}
