//! What a card does to frames before anybody sees them, by the ethtool interface.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use super::super::datapath::interface_request;
use crate::engine::doctor::facts::Offloads;

/// linux/sockios.h, linux/ethtool.h
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// Linux 6.18 has 64; a kernel with more than this is told apart by its count.
const FEATURES_MAX: usize = 256;
const BLOCKS_MAX: usize = FEATURES_MAX / 32;

#[repr(C)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct Names {
    command: u32,
    set: u32,
    count: u32,
    text: [[u8; ETH_GSTRING_LEN]; FEATURES_MAX],
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Block {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

#[repr(C)]
struct Features {
    command: u32,
    size: u32,
    blocks: [Block; BLOCKS_MAX],
}

pub(super) fn offloads(interface: &str) -> io::Result<Offloads> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut info =
        SetInfo { command: ETHTOOL_GSSET_INFO, reserved: 0, mask: 1 << ETH_SS_FEATURES, count: 0, pad: 0 };
    call(&socket, interface, (&raw mut info).cast())?;
    let count = info.count as usize;
    if !(1..=FEATURES_MAX).contains(&count) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut names = Box::new(Names {
        command: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        count: info.count,
        text: [[0; ETH_GSTRING_LEN]; FEATURES_MAX],
    });
    call(&socket, interface, (&raw mut *names).cast())?;
    let mut features = Features {
        command: ETHTOOL_GFEATURES,
        size: count.div_ceil(32) as u32,
        blocks: [Block::default(); BLOCKS_MAX],
    };
    call(&socket, interface, (&raw mut features).cast())?;
    let active = |name: &str| is_active(&names.text[..count], &features.blocks, name);
    Ok(Offloads {
        large_receive: active("rx-lro"),
        gro_hardware: active("rx-gro-hw"),
        vlan_receive: active("rx-vlan-hw-parse"),
    })
}

fn is_active(names: &[[u8; ETH_GSTRING_LEN]], blocks: &[Block], name: &str) -> bool {
    let is = |text: &[u8; ETH_GSTRING_LEN]| {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        &text[..end] == name.as_bytes()
    };
    names.iter().position(is).is_some_and(|place| blocks[place / 32].active >> (place % 32) & 1 == 1)
}

/// `data` begins with a command of ethtool, and has room for all that the command writes.
fn call(socket: &OwnedFd, interface: &str, data: *mut libc::c_char) -> io::Result<()> {
    let mut request = interface_request(interface)?;
    request.ifr_ifru.ifru_data = data;
    // SAFETY: the kernel writes as much as the structure behind `data` says it holds (count and size are set from what
    // the kernel itself said, and bounded by the arrays); it lives until the call returns.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_found_by_its_whole_name_in_its_block() {
        let mut names = [[0; ETH_GSTRING_LEN]; 40];
        names[3][..6].copy_from_slice(b"rx-lro");
        names[35][..9].copy_from_slice(b"rx-gro-hw");
        names[36][..6].copy_from_slice(b"rx-gro");
        let mut blocks = [Block::default(); BLOCKS_MAX];
        blocks[1].active = 1 << 3;
        assert!(is_active(&names, &blocks, "rx-gro-hw"));
        assert!(!is_active(&names, &blocks, "rx-gro"));
        assert!(!is_active(&names, &blocks, "rx-lro"));
        assert!(!is_active(&names, &blocks, "no-such"));
    }

    /// The structures are the kernel's: a loopback has all of them.
    #[test]
    fn the_kernel_answers_for_the_loopback() {
        let offloads = offloads("lo").expect("every interface has features");
        assert!(!offloads.large_receive && !offloads.gro_hardware, "{offloads:?}");
        assert!(super::offloads("no-such-interface").is_err());
    }
}
