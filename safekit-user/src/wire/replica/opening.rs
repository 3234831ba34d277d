//! What the two nodes of a mirror say first on a connection for one of its directories, so that neither takes the other
//! for what it is not. Framed as the hello of `wire/link`: length, JSON.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VERSION;
use crate::wire::link::{self, Decoder, Refused};

/// Names of a cluster, a module and a node, with room for what a later version adds.
pub const OPENING_BYTES_MAX: usize = 4096;

/// The first frame of each side. Fields may be added, never taken away: every version reads that of every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub version: u32,
    pub cluster: String,
    pub module: String,
    /// Who says it.
    pub node: String,
    /// How many directories its configuration has.
    pub directories: usize,
    /// Which of them this connection is for: its place in the configuration, from 0. Whoever was dialed repeats it.
    pub directory: usize,
}

/// Why two nodes do not work together. Names of the other side are shown in quotes, whatever is in them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    #[error(
        "it speaks version {theirs} of the replication and this node {own}: install the same release on both"
    )]
    Version { theirs: u32, own: u32 },
    #[error("it belongs to the cluster {theirs:?} and this node to {own:?}")]
    Cluster { theirs: String, own: String },
    #[error("it replicates the module {theirs:?} and this node {own:?} at this address")]
    Module { theirs: String, own: String },
    #[error("it says that it is {theirs:?}, and the other node of this mirror is {expected:?}")]
    Node { theirs: String, expected: String },
    #[error("its configuration has {theirs} directories and this node's {own}: apply the same one to both")]
    Directories { theirs: usize, own: usize },
    #[error("it asks for the directory number {theirs}, which this module does not have")]
    Directory { theirs: usize },
}

impl Opening {
    pub fn encode(&self) -> Result<Vec<u8>, Refused> {
        let bytes = link::encode(self)?;
        if bytes.len() > OPENING_BYTES_MAX {
            return Err(Refused::TooLong { length: bytes.len(), max: OPENING_BYTES_MAX });
        }
        Ok(bytes)
    }

    /// For the opening alone: what follows it is of another kind.
    pub fn decoder() -> Decoder {
        Decoder::new(OPENING_BYTES_MAX)
    }

    /// Is `theirs` what the node `peer` says for the same directory? For whoever is dialed, `self.directory` counts for
    /// nothing, because the other side has the choice.
    pub fn check(&self, theirs: &Self, peer: &str, dialed: bool) -> Result<(), Mismatch> {
        let two = |theirs: &String, own: &String| (theirs.clone(), own.clone());
        if theirs.version != self.version {
            return Err(Mismatch::Version { theirs: theirs.version, own: self.version });
        }
        if theirs.cluster != self.cluster {
            let (theirs, own) = two(&theirs.cluster, &self.cluster);
            return Err(Mismatch::Cluster { theirs, own });
        }
        if theirs.module != self.module {
            let (theirs, own) = two(&theirs.module, &self.module);
            return Err(Mismatch::Module { theirs, own });
        }
        if theirs.node != peer {
            return Err(Mismatch::Node { theirs: theirs.node.clone(), expected: peer.to_owned() });
        }
        if theirs.directories != self.directories {
            return Err(Mismatch::Directories { theirs: theirs.directories, own: self.directories });
        }
        let fits =
            if dialed { theirs.directory < self.directories } else { theirs.directory == self.directory };
        if fits { Ok(()) } else { Err(Mismatch::Directory { theirs: theirs.directory }) }
    }

    /// Of this program.
    pub fn new(cluster: &str, module: &str, node: &str, directories: usize, directory: usize) -> Self {
        let [cluster, module, node] = [cluster, module, node].map(str::to_owned);
        Self { version: VERSION, cluster, module, node, directories, directory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(node: &str) -> Opening {
        Opening::new("shop", "db", node, 2, 1)
    }

    #[test]
    fn the_other_side_of_the_same_directory_fits() {
        let (one, two) = (opening("web1"), opening("web2"));
        assert_eq!(one.check(&two, "web2", false), Ok(()));
        assert_eq!(two.check(&one, "web1", true), Ok(()));
        let any = Opening { directory: 0, ..one };
        assert_eq!(two.check(&any, "web1", true), Ok(()), "whoever dials has the choice");
    }

    #[test]
    fn each_difference_is_named() {
        let own = opening("web1");
        let cases: [(&str, Opening, &str); 7] = [
            ("version", Opening { version: 9, ..opening("web2") }, "version 9"),
            ("cluster", Opening { cluster: "bar".into(), ..opening("web2") }, "cluster \"bar\""),
            ("module", Opening { module: "mail".into(), ..opening("web2") }, "module \"mail\""),
            ("node", opening("web3"), "\"web3\""),
            ("directories", Opening { directories: 3, ..opening("web2") }, "3 directories"),
            ("directory", Opening { directory: 0, ..opening("web2") }, "number 0"),
            ("an escape", Opening { module: "\u{1b}[2J".into(), ..opening("web2") }, "\\u{1b}[2J"),
        ];
        for (name, theirs, expected) in cases {
            let said = own.check(&theirs, "web2", false).expect_err(name).to_string();
            assert!(said.contains(expected), "{name}: {said}");
        }
        let beyond = Opening { directory: 2, ..opening("web2") };
        assert_eq!(own.check(&beyond, "web2", true), Err(Mismatch::Directory { theirs: 2 }));
    }

    /// However it is cut; and what comes after it is not lost.
    #[test]
    fn pieces_of_any_size_make_the_same_opening() {
        let mut bytes = opening("web1").encode().expect("it is short");
        bytes.extend_from_slice(b"more");
        for size in 1..=bytes.len() {
            let mut decoder = Opening::decoder();
            let mut found = None;
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                found = found.or_else(|| decoder.take().expect("nothing is wrong with it"));
            }
            assert_eq!(found, Some(opening("web1")), "in pieces of {size}");
            assert_eq!(decoder.into_rest(), b"more");
        }
    }

    #[test]
    fn one_of_a_later_version_is_still_read() {
        let later =
            r#"{"version":9,"cluster":"a","module":"b","node":"c","directories":1,"directory":0,"x":1}"#;
        let mut decoder = Opening::decoder();
        decoder.push(&(later.len() as u32).to_be_bytes());
        decoder.push(later.as_bytes());
        assert_eq!(decoder.take::<Opening>().expect("it is one").map(|it| it.version), Some(9));
    }

    #[test]
    fn what_is_too_long_or_nonsense_is_refused() {
        let long = Opening { module: "x".repeat(OPENING_BYTES_MAX), ..opening("web1") };
        assert!(matches!(long.encode(), Err(Refused::TooLong { .. })));
        let mut decoder = Opening::decoder();
        decoder.push(&(OPENING_BYTES_MAX as u32 + 1).to_be_bytes());
        assert!(matches!(decoder.take::<Opening>(), Err(Refused::TooLong { .. })));
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            let body: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
            let mut decoder = Opening::decoder();
            decoder.push(&(body.len() as u32).to_be_bytes());
            decoder.push(&body);
            assert!(matches!(decoder.take::<Opening>(), Err(Refused::Malformed(_))), "{body:?}");
        }
    }
}
