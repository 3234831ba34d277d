//! The cluster key: thirty-two random bytes that every node has and nobody else.

use std::io;
use std::path::{Path, PathBuf};

/// Seals heartbeats and keys the packet hash. Never printed, not even for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the cluster key {}: make it with `safekit keygen {}` and copy it to every node", .path.display(), .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the cluster key {} can be read by others (mode {mode:03o}): `chmod 600 {}`", .path.display(), .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} is no cluster key: it must hold 64 hexadecimal digits; `safekit keygen` makes one", .path.display())]
    Malformed { path: PathBuf },
}

impl ClusterKey {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key file: 64 hexadecimal digits and a newline, for nobody but its owner.
    pub fn read(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: path.to_owned(), mode });
        }
        let text = std::fs::read(path).map_err(failed)?;
        Self::parse(text.trim_ascii()).ok_or_else(|| Error::Malformed { path: path.to_owned() })
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Self(bytes))
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        digits + "\n"
    }

    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = ClusterKey::new(std::array::from_fn(|index| index as u8 * 7));
        assert_eq!(ClusterKey::parse(key.to_text().trim_ascii().as_bytes()), Some(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(ClusterKey::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
