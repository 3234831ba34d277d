//! Session to bucket: a keyed hash, so that no client can aim at a node.

use crate::abi::Address;

/// What of the client decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Balance {
    /// Address and port.
    Connection = 0,
    /// Address.
    Client = 1,
    /// Network: /24 for IPv4, /64 for IPv6.
    ClientNetwork = 2,
}

impl Balance {
    /// The map's number; anything unknown balances by connection, which is right for every protocol.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Client,
            2 => Self::ClientNetwork,
            _ => Self::Connection,
        }
    }
}

/// The bucket of a client's session. `port` is in network byte order.
#[inline(always)]
pub fn bucket(key: [u64; 2], balance: Balance, client: &Address, port: u16) -> u16 {
    let port = match balance {
        Balance::Connection => u64::from(port),
        Balance::Client | Balance::ClientNetwork => 0,
    };
    // The port goes above, the balance below, so that no two kinds of session share an input.
    let tail = port << 16 | balance as u64;
    let whole = balance as u32 != Balance::ClientNetwork as u32;
    let mut hash = SipHash::new(key);
    if client.is_v4() {
        let host = if whole { client.0[3] } else { client.0[3] & V4_NETWORK };
        hash.word(u64::from(host) << 32 | tail);
    } else {
        hash.word(pair(client.0[0], client.0[1]));
        if whole {
            hash.word(pair(client.0[2], client.0[3]));
        }
        hash.word(tail | V6_MARK);
    }
    (hash.finish() >> 48) as u16
}

/// A /24, in the byte order of the packet.
const V4_NETWORK: u32 = u32::from_ne_bytes([255, 255, 255, 0]);
/// Above the port: an IPv6 session never looks like an IPv4 one.
const V6_MARK: u64 = 1 << 40;

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// SipHash-1-3 (Aumasson and Bernstein, 2012) over whole words.
struct SipHash {
    v: [u64; 4],
    words: u64,
}

impl SipHash {
    #[inline(always)]
    const fn new(key: [u64; 2]) -> Self {
        let v = [
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ];
        Self { v, words: 0 }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
        self.words += 1;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        // The last word of SipHash carries the length in bytes in its top byte.
        let words = self.words;
        self.word((words * 8) << 56);
        self.v[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::hash::Hasher;
    use std::vec::Vec;

    use super::*;

    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    fn client(last: u8) -> Address {
        Address::v4([192, 0, 2, last])
    }

    /// The standard library's hasher is SipHash-1-3 with an all-zero key: an independent implementation.
    #[test]
    fn the_hash_is_siphash_1_3() {
        for words in [Vec::new(), std::vec![1], std::vec![1, u64::MAX, 3]] {
            let mut ours = SipHash::new([0, 0]);
            let mut theirs = std::collections::hash_map::DefaultHasher::new();
            for word in &words {
                ours.word(*word);
                theirs.write_u64(*word);
            }
            assert_eq!(ours.finish(), theirs.finish(), "{words:?}");
        }
    }

    /// A change of these moves every session of every farm: raise the ABI version.
    #[test]
    fn buckets_are_pinned() {
        let port = 40312_u16.to_be();
        let v6 = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let buckets = [
            bucket(KEY, Balance::Connection, &client(7), port),
            bucket(KEY, Balance::Client, &client(7), port),
            bucket(KEY, Balance::ClientNetwork, &client(7), port),
            bucket(KEY, Balance::Connection, &v6, port),
            bucket(KEY, Balance::ClientNetwork, &v6, port),
        ];
        assert_eq!(buckets, [501, 30462, 39009, 24200, 55688]);
    }

    #[test]
    fn balance_says_what_counts() {
        let at = |balance, last, port| bucket(KEY, balance, &client(last), port);
        assert_ne!(at(Balance::Connection, 1, 1), at(Balance::Connection, 1, 2));
        assert_eq!(at(Balance::Client, 1, 1), at(Balance::Client, 1, 2));
        assert_ne!(at(Balance::Client, 1, 1), at(Balance::Client, 2, 1));
        assert_eq!(at(Balance::ClientNetwork, 1, 1), at(Balance::ClientNetwork, 2, 2));
    }

    #[test]
    fn sessions_spread_evenly() {
        let mut shares = [0_u32; 16];
        for port in 0..64_000_u16 {
            shares[usize::from(bucket(KEY, Balance::Connection, &client(1), port) >> 12)] += 1;
        }
        let (least, most) = (shares.iter().min(), shares.iter().max());
        assert!(least > Some(&3700) && most < Some(&4300), "64,000 sessions over 16 parts: {shares:?}");
    }
}
