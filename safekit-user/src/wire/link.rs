//! Frames of a connection between two nodes: requests and news one way, answers the other.
//!
//! ```text
//! dialer:   Hello | Ask(id), News, Note ...          | length, 4 bytes, at most 1 MiB | JSON |
//! listener: Hello | Answer(id), Heard ...
//! ```
//!
//! Each node dials each other one, so of every pair of nodes there are two connections, and neither side has to decide
//! whose request comes first.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::module::ModuleReport;
use crate::types::{Command, ConfigIdentity, Reply};

/// Of everything after the hello.
pub const VERSION: u32 = 1;
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// A stranger with the right key says no more before it is known.
pub const HELLO_BYTES_MAX: usize = 4096;
const LENGTH_BYTES: usize = 4;

/// The first frame of each side. Fields may be added, never taken away: every version reads that of every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub cluster: String,
    pub node: String,
    /// For people: the version of the program.
    pub program: String,
}

/// From the node that dialed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Sent {
    Ask {
        id: u64,
        /// Who wants it: `root on web1`.
        by: String,
        command: Command,
    },
    /// At every change and every second: what this node's modules do. Answered by [`Answered::Heard`].
    News { reports: Vec<ModuleReport>, config: ConfigIdentity },
}

/// From the node that was dialed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Answered {
    Answer { id: u64, reply: Reply },
    Heard,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("a frame of {length} bytes is longer than {max}")]
    TooLong { length: usize, max: usize },
    #[error("a frame is not understood: {0}")]
    Malformed(String),
}

/// One message as it goes over the wire.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Refused> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(|error| Refused::Malformed(error.to_string()))?;
    let length = frame.len() - LENGTH_BYTES;
    if length > FRAME_BYTES_MAX {
        return Err(Refused::TooLong { length, max: FRAME_BYTES_MAX });
    }
    frame[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// Cuts what arrives into messages. After a refusal the connection is of no more use: nobody knows where the next
/// frame begins.
#[derive(Debug)]
pub struct Decoder {
    /// Never more than one frame and what was read along with it.
    arrived: Vec<u8>,
    bytes_max: usize,
}

impl Decoder {
    pub fn new(bytes_max: usize) -> Self {
        assert!(bytes_max <= FRAME_BYTES_MAX, "no frame is longer than the longest");
        Self { arrived: Vec::new(), bytes_max }
    }

    /// The other side is known now.
    pub fn allow(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// Where to read to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.arrived
    }

    /// What came after the last message, for whoever reads the connection from here on.
    pub fn into_rest(self) -> Vec<u8> {
        self.arrived
    }

    /// Bytes of a frame that is not complete.
    pub fn is_inside_a_frame(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// The next complete message; none until more has arrived.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Refused> {
        let Some(head) = self.arrived.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.bytes_max {
            return Err(Refused::TooLong { length, max: self.bytes_max });
        }
        let Some(body) = self.arrived.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(|error| Refused::Malformed(error.to_string()));
        self.arrived.drain(..LENGTH_BYTES + length);
        message.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(program: &str) -> Hello {
        Hello { version: VERSION, cluster: "shop".into(), node: "web1".into(), program: program.into() }
    }

    /// However the bytes are cut on their way, the same messages come out in their order.
    #[test]
    fn pieces_of_any_size_make_the_same_messages() {
        let sent = [hello("1"), hello("twenty"), hello(&"x".repeat(300))];
        let bytes: Vec<u8> = sent.iter().flat_map(|it| encode(it).expect("it is short")).collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new(HELLO_BYTES_MAX);
            let mut received = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(message) = decoder.take::<Hello>().expect("nothing is wrong with them") {
                    received.push(message);
                }
            }
            assert_eq!(received, sent, "in pieces of {size}");
            assert!(!decoder.is_inside_a_frame());
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_are_kept() {
        let mut decoder = Decoder::new(HELLO_BYTES_MAX);
        decoder.push(&(HELLO_BYTES_MAX as u32 + 1).to_be_bytes());
        assert!(matches!(decoder.take::<Hello>(), Err(Refused::TooLong { .. })));
        assert!(matches!(encode(&"x".repeat(FRAME_BYTES_MAX)), Err(Refused::TooLong { .. })));
    }

    #[test]
    fn a_hello_of_a_later_version_is_still_read() {
        let mut decoder = Decoder::new(HELLO_BYTES_MAX);
        let later = r#"{"version":9,"cluster":"shop","node":"web1","program":"3.0","speaks":["x"]}"#;
        decoder.push(&(later.len() as u32).to_be_bytes());
        decoder.push(later.as_bytes());
        assert_eq!(decoder.take::<Hello>().expect("it is a hello").map(|it| it.version), Some(9));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "{", "[]", "null", "{\"frame\":\"poem\"}", "\u{0}"] {
            let mut decoder = Decoder::new(FRAME_BYTES_MAX);
            decoder.push(&(text.len() as u32).to_be_bytes());
            decoder.push(text.as_bytes());
            assert!(matches!(decoder.take::<Sent>(), Err(Refused::Malformed(_))), "{text:?}");
        }
    }
}
