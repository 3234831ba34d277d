//! Who a node is on a connection: an Ed25519 key pair for each name, derived from the cluster key.
//!
//! Whoever has the cluster key knows which public key each node must show, so nothing has to be handed out or stored,
//! and a node cannot pass for another by its address alone.

use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::seal::{extract, fill};
use crate::types::ClusterKey;

/// What precedes the 32 bytes of the seed (RFC 8410, section 7: PKCS #8 version 1, no attributes).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What precedes the 32 bytes of the public key (RFC 8410, section 4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub struct Identity {
    seed: [u8; 32],
    /// SubjectPublicKeyInfo in DER: the "certificate" of a raw public key (RFC 7250).
    pub public: Vec<u8>,
}

impl Identity {
    pub fn of(key: &ClusterKey, cluster: &str, node: &str) -> Self {
        let mut seed = [0; 32];
        // The length keeps two names from running into each other.
        let length = (cluster.len() as u64).to_be_bytes();
        fill(
            &extract(key),
            &[b"safekit node key 1", &length, cluster.as_bytes(), node.as_bytes()],
            &mut seed,
        );
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        Self { seed, public: [&SPKI_HEAD[..], pair.public_key().as_ref()].concat() }
    }

    /// The private key in PKCS #8.
    pub fn private(&self) -> Vec<u8> {
        [&PKCS8_HEAD[..], &self.seed].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ClusterKey = ClusterKey::new([7; 32]);

    #[test]
    fn each_name_of_each_cluster_and_key_has_its_own() {
        let base = Identity::of(&KEY, "shop", "web1");
        assert_eq!(base.public, Identity::of(&KEY, "shop", "web1").public);
        let others = [
            Identity::of(&KEY, "shop", "web2"),
            Identity::of(&KEY, "shopw", "eb1"),
            Identity::of(&ClusterKey::new([8; 32]), "shop", "web1"),
        ];
        assert!(others.iter().all(|other| other.public != base.public));
    }

    /// Another reader of PKCS #8 gets the same pair out of it.
    #[test]
    fn the_encodings_are_those_of_the_standard() {
        let identity = Identity::of(&KEY, "shop", "web1");
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&identity.private()).expect("PKCS #8");
        assert_eq!(identity.public[12..], *pair.public_key().as_ref());
        assert_eq!(identity.public.len(), 44);
    }
}
