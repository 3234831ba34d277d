//! Sealing of heartbeats: who sent it is proven, what it says is hidden, and nothing else gets in.
//!
//! ```text
//! 0       2         3        4              12       13            29       37
//! | "SK"  | version | key id | cluster id   | sender | boot        | seq    | sealed body ... | tag 16 |
//! '------------------ clear, authenticated -------------------------------'
//! ```
//!
//! ChaCha20-Poly1305. The key is derived from the cluster key for each sender and boot, the nonce is `seq`: a boot id is
//! random and `seq` only rises, so key and nonce never meet twice and nothing needs to be stored. Whether a datagram
//! is a replay is the engine's question; here it is only whether it is genuine.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use thiserror::Error;

use super::heartbeat::OBITUARY_SEQ;
use crate::types::{BootId, ClusterKey, NodeId, Seq};

const MAGIC: [u8; 2] = *b"SK";
pub const VERSION: u8 = 1;
pub const HEADER_BYTES: usize = 37;
const TAG_BYTES: usize = 16;
/// What sealing adds to a body.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Boots of one sender whose keys are kept: the present one, and the one before while its datagrams are under way.
const BOOTS_KEPT: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub sender: NodeId,
    pub boot: BootId,
    pub seq: Seq,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("the datagram is too short")]
    TooShort,
    #[error("the datagram is none of safekit")]
    NotOurs,
    #[error("the datagram has another version of the format")]
    OtherVersion,
    #[error("the datagram is of another cluster")]
    OtherCluster,
    #[error("the sender is not in the configuration")]
    UnknownSender,
    /// Another key, or changed on its way.
    #[error("the datagram cannot be authenticated")]
    NotAuthentic,
}

impl Refused {
    pub const ALL: [Self; 6] = [
        Self::TooShort,
        Self::NotOurs,
        Self::OtherVersion,
        Self::OtherCluster,
        Self::UnknownSender,
        Self::NotAuthentic,
    ];
}

/// Seals the heartbeats of one boot of one node.
pub struct Sealer {
    header: [u8; HEADER_BYTES],
    key: LessSafeKey,
    /// The last one sealed.
    seq: Option<Seq>,
}

impl Sealer {
    pub fn new(key: &ClusterKey, cluster: &str, sender: NodeId, boot: BootId) -> Self {
        let keys = Keys::new(key);
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&MAGIC);
        header[2] = VERSION;
        header[3] = keys.id;
        header[4..12].copy_from_slice(&cluster_id(cluster));
        header[12] = sender.0;
        header[13..29].copy_from_slice(&boot.0);
        Self { header, key: keys.for_boot(sender, boot), seq: None }
    }

    /// Another key from now on, under the same boot: numbers still only rise.
    pub fn switch(&mut self, key: &ClusterKey) {
        let keys = Keys::new(key);
        let boot = BootId(field(&self.header, 13));
        self.header[3] = keys.id;
        self.key = keys.for_boot(NodeId(self.header[12]), boot);
    }

    /// The datagram takes the place of what was in `out`; the buffer can be used again and again. Send the same
    /// datagram on every network: a second body under the same `seq` would give both away.
    pub fn seal(&mut self, seq: Seq, body: &[u8], out: &mut Vec<u8>) {
        let rises = self.seq.is_none_or(|last| seq > last);
        assert!(rises || seq == OBITUARY_SEQ, "a nonce is used once, and {seq:?} comes after {:?}", self.seq);
        self.seq = Some(seq).filter(|seq| *seq != OBITUARY_SEQ).or(self.seq);
        self.header[29..].copy_from_slice(&seq.0.to_be_bytes());
        out.clear();
        out.extend_from_slice(&self.header);
        out.extend_from_slice(body);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(seq), Aad::from(&self.header), &mut out[HEADER_BYTES..])
            .expect("a body is far below the 256 GiB that one nonce can seal");
        out.extend_from_slice(tag.as_ref());
    }
}

/// Opens the heartbeats of all nodes of a cluster.
pub struct Opener {
    /// One, or two while the cluster key changes.
    keys: Vec<Keys>,
    cluster_id: [u8; 8],
    /// For each node, newest first. Only authentic datagrams put a key here, so a flood of invented boot ids costs a
    /// derivation each and displaces nothing.
    boots: Vec<[Option<Opening>; BOOTS_KEPT]>,
    refused: [u64; Refused::ALL.len()],
}

/// The key of one boot of one sender.
struct Opening {
    boot: BootId,
    key_id: u8,
    key: LessSafeKey,
}

impl Opener {
    /// `nodes` is the number of nodes in the configuration.
    pub fn new(key: &ClusterKey, cluster: &str, nodes: usize) -> Self {
        Self {
            keys: vec![Keys::new(key)],
            cluster_id: cluster_id(cluster),
            boots: std::iter::repeat_with(Default::default).take(nodes).collect(),
            refused: [0; Refused::ALL.len()],
        }
    }

    /// Opens what was sealed with any of these keys from now on. Their ids differ: see [`key_id`].
    pub fn accept(&mut self, keys: &[ClusterKey]) {
        self.keys = keys.iter().map(Keys::new).collect();
        let ids: Vec<u8> = self.keys.iter().map(|keys| keys.id).collect();
        for slot in self.boots.iter_mut().flatten() {
            slot.take_if(|opening| !ids.contains(&opening.key_id));
        }
    }

    /// The body is decrypted where it lies. After a refusal the buffer's content means nothing.
    pub fn open<'d>(&mut self, datagram: &'d mut [u8]) -> Result<(Header, &'d [u8]), Refused> {
        let opened = self.try_open(datagram);
        if let Err(refused) = opened {
            self.refused[refused as usize] += 1;
        }
        opened
    }

    /// How many datagrams were refused for this reason.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize]
    }

    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }

    fn try_open<'d>(&mut self, datagram: &'d mut [u8]) -> Result<(Header, &'d [u8]), Refused> {
        let header = self.header(datagram)?;
        let (clear, sealed) = datagram.split_at_mut(HEADER_BYTES);
        let slots = &mut self.boots[usize::from(header.sender.0)];
        let key_id = clear[3];
        let kept = slots.iter().flatten().find(|it| it.boot == header.boot && it.key_id == key_id);
        if let Some(opening) = kept {
            return Ok((header, open_body(&opening.key, header.seq, clear, sealed)?));
        }
        let keys = self.keys.iter().find(|keys| keys.id == key_id).ok_or(Refused::NotAuthentic)?;
        let key = keys.for_boot(header.sender, header.boot);
        let body = open_body(&key, header.seq, clear, sealed)?;
        slots.rotate_right(1);
        slots[0] = Some(Opening { boot: header.boot, key_id, key });
        Ok((header, body))
    }

    /// Cheapest questions first; nothing of it is proven yet.
    fn header(&self, datagram: &[u8]) -> Result<Header, Refused> {
        if datagram.len() < MAGIC.len() {
            return Err(Refused::TooShort);
        }
        if !datagram.starts_with(&MAGIC) {
            return Err(Refused::NotOurs);
        }
        if datagram.len() < OVERHEAD_BYTES {
            return Err(Refused::TooShort);
        }
        if datagram[2] != VERSION {
            return Err(Refused::OtherVersion);
        }
        if datagram[4..12] != self.cluster_id {
            return Err(Refused::OtherCluster);
        }
        if self.keys.iter().all(|keys| keys.id != datagram[3]) {
            return Err(Refused::NotAuthentic);
        }
        let sender = NodeId(datagram[12]);
        if usize::from(sender.0) >= self.boots.len() {
            return Err(Refused::UnknownSender);
        }
        Ok(Header {
            sender,
            boot: BootId(field(datagram, 13)),
            seq: Seq(u64::from_be_bytes(field(datagram, 29))),
        })
    }
}

fn field<const N: usize>(datagram: &[u8], at: usize) -> [u8; N] {
    *datagram[at..].first_chunk().expect("the length of the header has been checked")
}

fn open_body<'d>(
    key: &LessSafeKey,
    seq: Seq,
    clear: &[u8],
    sealed: &'d mut [u8],
) -> Result<&'d [u8], Refused> {
    match key.open_in_place(nonce(seq), Aad::from(clear), sealed) {
        Ok(body) => Ok(body),
        Err(_) => Err(Refused::NotAuthentic),
    }
}

fn nonce(seq: Seq) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&seq.0.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// What a datagram says of its key: two that are accepted at once must differ in it.
pub fn key_id(key: &ClusterKey) -> u8 {
    Keys::new(key).id
}

/// Key of the packet hash: from outside nobody can tell which node a client will meet.
pub fn derive_hash_key(key: &ClusterKey) -> [u8; 16] {
    let mut hash_key = [0; 16];
    fill(&extract(key), &[b"safekit packet hash 1"], &mut hash_key);
    hash_key
}

/// Says which cluster it is, to neighbours on the same wire; it hides nothing, and it is no proof.
fn cluster_id(name: &str) -> [u8; 8] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"safekit cluster id 1");
    context.update(name.as_bytes());
    *context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// What is derived from the cluster key.
struct Keys {
    /// Tells two cluster keys apart during a change of the key.
    id: u8,
    prk: Prk,
}

impl Keys {
    fn new(key: &ClusterKey) -> Self {
        let prk = extract(key);
        let mut id = [0];
        fill(&prk, &[b"safekit key id 1"], &mut id);
        Self { id: id[0], prk }
    }

    fn for_boot(&self, sender: NodeId, boot: BootId) -> LessSafeKey {
        let info: [&[u8]; 3] = [b"safekit heartbeat 1", &[sender.0], &boot.0];
        let okm = self.prk.expand(&info, &CHACHA20_POLY1305).expect("32 bytes are within what HKDF can give");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

pub(super) fn extract(key: &ClusterKey) -> Prk {
    Salt::new(HKDF_SHA256, b"safekit").extract(key.bytes())
}

pub(super) fn fill(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    prk.expand(info, Bytes(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("a few bytes are within what HKDF can give");
}

#[cfg(test)]
mod tests;
