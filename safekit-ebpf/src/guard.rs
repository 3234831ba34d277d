//! Virtual MACs are for destinations only: a switch that sees one as a source learns a port for it, and sends the farm's
//! frames there alone. So what leaves with one is dropped, and what arrives with one is counted: somebody leaks it.
//!
//! ```text
//! VIRTUAL_MACS  mac (see `key`) -> place of the virtual IP
//! LEAKS         that place      -> Leaks, per CPU
//! ```

/// At the end of an interface's way out.
pub const PROGRAM: &str = "safekit_guard";
pub const MAP_VIRTUAL_MACS: &str = "VIRTUAL_MACS";
pub const MAP_LEAKS: &str = "LEAKS";

/// Frames with a virtual MAC as their source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Leaks {
    /// Of this node: dropped.
    pub sent: u64,
    /// Of somebody else.
    pub heard: u64,
}

/// The first two bytes of every unicast virtual MAC: of an IPv4 address, of an IPv6 one.
pub const PREFIXES: [[u8; 2]; 2] = [[0x02, 0x53], [0x02, 0x36]];

/// A MAC as a key of the map; its first byte is the highest of six.
#[inline(always)]
pub const fn key(mac: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// What nearly every frame is not: it saves the look into the map.
#[inline(always)]
pub const fn may_be_virtual(mac: [u8; 6]) -> bool {
    mac[0] == 0x02 && (mac[1] == PREFIXES[0][1] || mac[1] == PREFIXES[1][1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_keys_read_in_the_order_of_the_wire() {
        for [a, b] in PREFIXES {
            assert!(may_be_virtual([a, b, 1, 2, 3, 4]));
        }
        assert!(!may_be_virtual([0x02, 0x54, 1, 2, 3, 4]) && !may_be_virtual([0x00, 0x53, 1, 2, 3, 4]));
        assert_eq!(key([0x02, 0x53, 0x0a, 0x63, 0, 0x64]), 0x0253_0a63_0064);
    }
}
