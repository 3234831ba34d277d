//! The seal of a heartbeat: an AEAD whose key is derived for each sender and each of its lives.
//!
//! Key = HKDF-SHA256(cluster key, sender, boot id), nonce = sequence number. A daemon draws a fresh random boot id and
//! only counts up, so key and nonce never meet twice, without anything stored. Replay is the engine's matter: it
//! takes strictly rising numbers of a boot, and a new boot only once that has acknowledged the receiver's own.

use std::collections::VecDeque;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use crate::config::key::ClusterKey;
use crate::types::{BootId, NodeId, Seq};

const MAGIC: [u8; 2] = *b"SK";
const VERSION: u8 = 1;
/// One key at a time in this version; the field is there for a change of keys without a stop.
const KEY_ID: u8 = 0;
const HEADER_BYTES: usize = 2 + 1 + 1 + 8 + 1 + 16 + 8;
/// Keys of lives lately heard, for all nodes together. Full: the oldest goes, and costs one derivation (some
/// microseconds) when it is heard again. Only a datagram that opened puts its key in, so a flood of forged boot ids
/// cannot push the real ones out.
const KEYS_MAX: usize = 256;

/// Who says something, authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub sender: NodeId,
    pub boot: BootId,
    pub seq: Seq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("shorter than a heartbeat")]
    TooShort,
    #[error("no heartbeat")]
    NotOurs,
    #[error("of another version")]
    OtherVersion,
    #[error("of another cluster")]
    OtherCluster,
    #[error("from a node that this cluster has not")]
    UnknownSender,
    #[error("not sealed with this cluster's key")]
    NotAuthentic,
}

/// Seals what one life of one node says.
pub struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
}

impl Sealer {
    pub fn new(cluster_key: &ClusterKey, cluster_name: &str, sender: NodeId, boot: BootId) -> Self {
        let key = heartbeat_key(&secret(cluster_key), sender, boot);
        Self { key, header: header_bytes(cluster_id(cluster_name), sender, boot) }
    }

    /// Puts the sealed datagram into `datagram`. Each `seq` may be used once in a life.
    pub fn seal(&self, seq: Seq, plaintext: &[u8], datagram: &mut Vec<u8>) {
        let mut header = self.header;
        header[HEADER_BYTES - 8..].copy_from_slice(&seq.0.to_be_bytes());
        datagram.clear();
        datagram.extend_from_slice(&header);
        datagram.extend_from_slice(plaintext);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(seq), Aad::from(header), &mut datagram[HEADER_BYTES..])
            .expect("a heartbeat is far shorter than the cipher's limit");
        datagram.extend_from_slice(tag.as_ref());
    }
}

/// Opens what any node of the cluster says.
pub struct Opener {
    secret: Prk,
    cluster: [u8; 8],
    nodes: usize,
    keys: VecDeque<(NodeId, BootId, LessSafeKey)>,
}

impl Opener {
    /// `nodes` is how many the cluster has.
    pub fn new(cluster_key: &ClusterKey, cluster_name: &str, nodes: usize) -> Self {
        Self { secret: secret(cluster_key), cluster: cluster_id(cluster_name), nodes, keys: VecDeque::new() }
    }

    /// Opens a datagram in place. Any bytes may come in.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(Header, &'a [u8]), Refused> {
        let (clear, sealed) = datagram.split_at_mut_checked(HEADER_BYTES).ok_or(Refused::TooShort)?;
        let header = self.parse(clear)?;
        let aad = Aad::from(&*clear);
        let known = self.keys.iter().find(|(node, boot, _)| (*node, *boot) == (header.sender, header.boot));
        if let Some((_, _, key)) = known {
            let plaintext =
                key.open_in_place(nonce(header.seq), aad, sealed).map_err(|_| Refused::NotAuthentic)?;
            return Ok((header, plaintext));
        }
        let key = heartbeat_key(&self.secret, header.sender, header.boot);
        let plaintext =
            key.open_in_place(nonce(header.seq), aad, sealed).map_err(|_| Refused::NotAuthentic)?;
        if self.keys.len() == KEYS_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back((header.sender, header.boot, key));
        Ok((header, plaintext))
    }

    fn parse(&self, clear: &[u8]) -> Result<Header, Refused> {
        let (magic, rest) = clear.split_at(2);
        if magic != MAGIC {
            return Err(Refused::NotOurs);
        }
        if rest[..2] != [VERSION, KEY_ID] {
            return Err(Refused::OtherVersion);
        }
        if rest[2..10] != self.cluster {
            return Err(Refused::OtherCluster);
        }
        let sender = NodeId(rest[10]);
        if usize::from(sender.0) >= self.nodes {
            return Err(Refused::UnknownSender);
        }
        let boot = BootId(rest[11..27].try_into().expect("sixteen bytes"));
        let seq = Seq(u64::from_be_bytes(rest[27..35].try_into().expect("eight bytes")));
        Ok(Header { sender, boot, seq })
    }
}

/// Keys the filter's hash, so that no client can aim at a node.
pub fn derive_hash_key(cluster_key: &ClusterKey) -> [u8; 16] {
    derive(&secret(cluster_key), &[b"safekit packet hash v1"])
}

fn secret(cluster_key: &ClusterKey) -> Prk {
    Salt::new(HKDF_SHA256, b"safekit").extract(cluster_key.bytes())
}

fn heartbeat_key(secret: &Prk, sender: NodeId, boot: BootId) -> LessSafeKey {
    let bytes: [u8; 32] = derive(secret, &[b"safekit heartbeat v1", &[sender.0], &boot.0]);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the cipher takes 32 bytes"))
}

/// Public: the name is in the clear in every datagram anyway.
fn cluster_id(name: &str) -> [u8; 8] {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    digest.as_ref()[..8].try_into().expect("a digest is longer than eight bytes")
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(secret: &Prk, info: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    secret
        .expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut bytes))
        .expect("HKDF gives up to 255 blocks, and this asks for one");
    bytes
}

fn header_bytes(cluster: [u8; 8], sender: NodeId, boot: BootId) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&MAGIC);
    header[2..4].copy_from_slice(&[VERSION, KEY_ID]);
    header[4..12].copy_from_slice(&cluster);
    header[12] = sender.0;
    header[13..29].copy_from_slice(&boot.0);
    header
}

fn nonce(seq: Seq) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&seq.0.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);
    const PLAINTEXT: &[u8] = b"I am alive";

    fn key() -> ClusterKey {
        ClusterKey::new([1; 32])
    }

    fn sealed(seq: u64) -> Vec<u8> {
        let mut datagram = Vec::new();
        Sealer::new(&key(), "shop", NodeId(1), BOOT).seal(Seq(seq), PLAINTEXT, &mut datagram);
        datagram
    }

    fn open(datagram: &[u8]) -> Result<(Header, Vec<u8>), Refused> {
        let mut opener = Opener::new(&key(), "shop", 3);
        opener.open(&mut datagram.to_vec()).map(|(header, plaintext)| (header, plaintext.to_vec()))
    }

    #[test]
    fn what_was_sealed_opens_to_its_header_and_text() {
        let expected = Header { sender: NodeId(1), boot: BOOT, seq: Seq(42) };
        assert_eq!(open(&sealed(42)), Ok((expected, PLAINTEXT.to_vec())));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let datagram = sealed(42);
        for bit in 0..datagram.len() * 8 {
            let mut flipped = datagram.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let datagram = sealed(42);
        for length in 0..datagram.len() {
            assert!(open(&datagram[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn each_reason_has_its_name() {
        let mut opener = Opener::new(&key(), "shop", 1);
        assert_eq!(opener.open(&mut sealed(1)).err(), Some(Refused::UnknownSender));
        let mut opener = Opener::new(&key(), "other", 3);
        assert_eq!(opener.open(&mut sealed(1)).err(), Some(Refused::OtherCluster));
        let mut opener = Opener::new(&ClusterKey::new([2; 32]), "shop", 3);
        assert_eq!(opener.open(&mut sealed(1)).err(), Some(Refused::NotAuthentic));
        assert_eq!(open(b"SK").err(), Some(Refused::TooShort));
        assert_eq!(open(&[0; 64]).err(), Some(Refused::NotOurs));
        let mut newer = sealed(1);
        newer[2] = 9;
        assert_eq!(open(&newer).err(), Some(Refused::OtherVersion));
    }

    #[test]
    fn the_cache_of_keys_is_bounded_and_forgetting_is_harmless() {
        let mut opener = Opener::new(&key(), "shop", 3);
        let mut datagram = Vec::new();
        for life in 0..1000_u128 {
            let boot = BootId(life.to_be_bytes());
            Sealer::new(&key(), "shop", NodeId(1), boot).seal(Seq(1), PLAINTEXT, &mut datagram);
            assert!(opener.open(&mut datagram.clone()).is_ok());
        }
        assert!(opener.keys.len() <= KEYS_MAX);
        assert!(opener.open(&mut sealed(5)).is_ok(), "a forgotten life is derived again");
    }

    /// A change of this vector is a change of the protocol: raise `VERSION`.
    #[test]
    fn the_format_is_pinned() {
        let digest = ring::digest::digest(&ring::digest::SHA256, &sealed(42));
        let text: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "aaf368bc7ebb2fc10f323a76508c47253d3251bb57670bbb32c2c9019227efc8");
    }
}
