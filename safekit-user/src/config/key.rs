//! The cluster key file, readable by its owner alone: 64 hexadecimal digits and a newline.
//!
//! Once the key has been changed, and while it is, there are more lines: `next DIGITS` or `previous DIGITS` for the key
//! that is accepted as well, and `seed DIGITS` for the one that the cluster began with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use crate::types::ClusterKey;
use crate::types::KeyRing;
use crate::types::key::OtherKey;

/// Three lines at most.
const BYTES_MAX: usize = 256;

#[derive(Debug, Error)]
pub enum KeyError {
    #[error("cannot read the cluster key {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the cluster key {} is no regular file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("the cluster key {} can be read by others (mode {mode:04o})", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the cluster key {} is not 64 hexadecimal digits and a newline", .path.display())]
    Malformed { path: PathBuf },
    #[error("the cluster key {} exists", .path.display())]
    Exists { path: PathBuf },
    #[error("there is no directory for the cluster key {}", .path.display())]
    NoDirectory { path: PathBuf },
    #[error("cannot write the cluster key {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl KeyError {
    /// The command that mends it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("make one with `safekit keygen {}`, and copy it to every node", shell(path))
            }
            Self::Read { .. } => "run it as root, or as the owner of the file".to_owned(),
            Self::NotAFile { .. } => "let `key_file` name the file itself".to_owned(),
            Self::Exposed { path, .. } => format!("chmod 600 {}", shell(path)),
            Self::Malformed { path } => {
                format!(
                    "copy it again from another node, or make a new one with `safekit keygen --force {}`",
                    shell(path)
                )
            }
            Self::Exists { path } => {
                format!("to replace it, on every node: `safekit keygen --force {}`", shell(path))
            }
            Self::NoDirectory { path } => {
                format!("mkdir -p {}", shell(path.parent().unwrap_or(Path::new("/"))))
            }
            Self::Write { .. } => "run it as root, and check the file system".to_owned(),
        }
    }
}

/// A path as a shell takes it.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The key that this node sends with.
pub fn read_key(path: &Path) -> Result<ClusterKey, KeyError> {
    read_ring(path).map(|ring| ring.sending)
}

pub fn read_ring(path: &Path) -> Result<KeyRing, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    // NONBLOCK: a FIFO in its place must not hang the daemon.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    // One byte more than allowed shows a longer file.
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    decode(&text).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
}

/// Makes the file, or with `replace` puts it in the place of an old one, whole or not at all.
pub fn write_key(path: &Path, key: &ClusterKey, replace: bool) -> Result<(), KeyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(KeyError::NoDirectory { path: path.to_owned() });
    }
    if path.symlink_metadata().is_ok() && !replace {
        return Err(KeyError::Exists { path: path.to_owned() });
    }
    let ring = KeyRing::of(key.clone());
    let written = if replace { put_in_place(path, parent, &ring) } else { create(path, &ring) };
    written.map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            return KeyError::Exists { path: path.to_owned() };
        }
        KeyError::Write { path: path.to_owned(), source }
    })
}

/// In the place of the one that is there.
pub fn write_ring(path: &Path, ring: &KeyRing) -> Result<(), KeyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = put_in_place(path, parent, ring);
    written.map_err(|source| KeyError::Write { path: path.to_owned(), source })
}

fn create(path: &Path, ring: &KeyRing) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(encode(ring).as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none. That removing fails too changes nothing about the error to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn put_in_place(path: &Path, parent: &Path, ring: &KeyRing) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => create(&beside, ring)?,
    }
    std::fs::rename(&beside, path)?;
    File::open(parent)?.sync_all()
}

fn encode(ring: &KeyRing) -> String {
    let mut text = format!("{}\n", ring.sending.digits());
    match &ring.other {
        Some(OtherKey::Next(key)) => text += &format!("next {}\n", key.digits()),
        Some(OtherKey::Previous(key)) => text += &format!("previous {}\n", key.digits()),
        None => {}
    }
    if ring.seed != ring.sending {
        text += &format!("seed {}\n", ring.seed.digits());
    }
    text
}

fn decode(text: &[u8]) -> Option<KeyRing> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= BYTES_MAX)?;
    let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let mut ring = KeyRing::of(ClusterKey::from_digits(lines.next()?.as_bytes())?);
    let mut lines = lines.peekable();
    let key = |line: &str, word: &str| ClusterKey::from_digits(line.strip_prefix(word)?.as_bytes());
    if let Some(other) = lines.peek().and_then(|line| {
        let next = key(line, "next ").map(OtherKey::Next);
        next.or_else(|| key(line, "previous ").map(OtherKey::Previous))
    }) {
        ring.other = Some(other);
        lines.next();
    }
    if let Some(seed) = lines.peek().and_then(|line| key(line, "seed ")) {
        ring.seed = seed;
        lines.next();
    }
    lines.next().is_none().then_some(ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ClusterKey = ClusterKey::new([0xa5; 32]);

    #[test]
    fn what_is_written_is_read() {
        let folder = Folder::new("round-trip");
        let path = folder.0.join("cluster.key");
        write_key(&path, &KEY, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", "a5".repeat(32)));
        assert_eq!(read_key(&path).unwrap(), KEY);
    }

    #[test]
    fn a_ring_is_read_as_it_was_written() {
        let key = |byte| ClusterKey::new([byte; 32]);
        for other in [None, Some(OtherKey::Next(key(2))), Some(OtherKey::Previous(key(3)))] {
            for seed in [1, 4] {
                let ring = KeyRing { sending: key(1), other: other.clone(), seed: key(seed) };
                assert_eq!(decode(encode(&ring).as_bytes()), Some(ring));
            }
        }
        let digits = "a5".repeat(32);
        for bad in ["\nseed 12", "\nother 12", "\n\n", " "] {
            assert_eq!(decode(format!("{digits}{bad}").as_bytes()), None, "{bad:?}");
        }
        assert_eq!(
            decode(format!("{digits}\nseed {digits}\nnext {digits}").as_bytes()),
            None,
            "in their order"
        );
    }

    #[test]
    fn a_key_is_replaced_only_on_demand() {
        let folder = Folder::new("replace");
        let path = folder.0.join("cluster.key");
        write_key(&path, &KEY, false).unwrap();
        let other = ClusterKey::new([1; 32]);
        assert!(matches!(write_key(&path, &other, false), Err(KeyError::Exists { .. })));
        assert_eq!(read_key(&path).unwrap(), KEY);
        write_key(&path, &other, true).unwrap();
        assert_eq!(read_key(&path).unwrap(), other);
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = Folder::new("exposed");
        let path = folder.0.join("cluster.key");
        write_key(&path, &KEY, false).unwrap();
        for mode in [0o640, 0o604, 0o610, 0o602] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = read_key(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { mode: seen, .. } if seen == mode), "{error}");
            assert_eq!(error.next_step(), format!("chmod 600 {}", path.display()));
        }
    }

    #[test]
    fn anything_but_sixty_four_digits_is_refused() {
        let good = "0123456789abcdefABCDEF0123456789abcdefABCDEF0123456789abcdef0123";
        assert!(decode(good.as_bytes()).is_some());
        assert!(decode(format!("{good}\n").as_bytes()).is_some());
        for bad in
            ["", "\n", &good[1..], &format!("{good}0"), &format!("{good}\n\n"), &good.replace('e', "g")]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_key_file_is_named() {
        let folder = Folder::new("missing");
        let missing = read_key(&folder.0.join("none")).unwrap_err();
        assert!(missing.next_step().contains("safekit keygen"), "{}", missing.next_step());
        assert!(matches!(read_key(&folder.0), Err(KeyError::NotAFile { .. })));
        let nowhere = write_key(&folder.0.join("no folder/key"), &KEY, false).unwrap_err();
        assert_eq!(nowhere.next_step(), format!("mkdir -p '{}/no folder'", folder.0.display()));
    }

    #[test]
    fn a_key_never_shows_itself() {
        assert_eq!(format!("{KEY:?}"), "ClusterKey(…)");
    }

    /// Removed at the end, also of a failed test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("safekit-key-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
