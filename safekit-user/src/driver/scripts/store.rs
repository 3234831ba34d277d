//! What a module must know after the daemon has ended: one file, replaced as a whole.
//!
//! ```text
//! safekit-state 1 <SHA-256 of what follows, in hex>\n
//! {"machineBoot":"…","value":…}
//! ```
//!
//! Written beside the old one, on disk before it takes its place: a power cut leaves the old state or the new one.
//! A file that is neither is put aside, reported, and counts as none.

use std::fs::{self, File};
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::module_dir;
use crate::driver::durable;

const MARK: &str = "safekit-state 1 ";
/// Larger than any state: a file of another size is none.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the module's state from {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the module's state to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("the module's state in {} is not of this version", path.display())]
    Foreign {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The state file of one module.
#[derive(Debug)]
pub struct Store<T> {
    dir: PathBuf,
    _value: PhantomData<fn(T) -> T>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'t, T> {
    machine_boot: String,
    value: &'t T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found<T> {
    machine_boot: String,
    value: T,
}

impl<T: Serialize + DeserializeOwned + Default> Store<T> {
    /// Touches nothing yet.
    pub fn open(state_dir: &Path, module: &str) -> Self {
        Self { dir: module_dir(state_dir, module), _value: PhantomData }
    }

    /// What was saved last, and whether the machine has not been booted since. Where nothing can be read, the
    /// default; a damaged file is reported and kept aside for a person to look at.
    pub fn load(&self) -> (T, bool) {
        match self.read() {
            Ok(Some(found)) => found,
            Ok(None) => (T::default(), false),
            Err(error) => {
                let aside = self.dir.join("state.damaged");
                let kept = fs::rename(self.path(), &aside).is_ok();
                tracing::error!(%error, kept_as = %aside.display(), kept, "the module's state is lost");
                (T::default(), false)
            }
        }
    }

    /// None where nothing was ever saved.
    pub fn read(&self) -> Result<Option<(T, bool)>, Error> {
        let path = self.path();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::Damaged { path, what: "it is not text" });
            }
            Err(source) => return Err(Error::Read { path, source }),
            Ok(_) => {}
        }
        let damaged = |what| Error::Damaged { path: path.clone(), what };
        let (head, body) = text.split_once('\n').ok_or_else(|| damaged("it ends early"))?;
        let sum = head.strip_prefix(MARK).ok_or_else(|| damaged("it does not begin as a state file"))?;
        if sum != checksum(body) {
            return Err(damaged("its checksum does not fit"));
        }
        let found: Found<T> =
            serde_json::from_str(body).map_err(|source| Error::Foreign { path: path.clone(), source })?;
        let same_boot = !found.machine_boot.is_empty() && found.machine_boot == machine_boot();
        Ok(Some((found.value, same_boot)))
    }

    /// On disk when it returns.
    pub fn save(&self, value: &T) -> Result<(), Error> {
        let path = self.path();
        let body = serde_json::to_string(&Written { machine_boot: machine_boot(), value })
            .map_err(|source| Error::Foreign { path: path.clone(), source })?;
        let text = format!("{MARK}{}\n{body}", checksum(&body));
        assert!(text.len() as u64 <= FILE_BYTES_MAX, "a module's state is bounded by who makes it");
        durable::replace(&path, text.as_bytes()).map_err(|source| Error::Write { path, source })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("state")
    }
}

/// Another after each boot of the machine; empty where the kernel does not say.
pub(super) fn machine_boot() -> String {
    fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn checksum(body: &str) -> String {
    digest(&SHA256, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::scripts::tests::TempDir;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Value {
        starts: u64,
        cause: String,
    }

    fn value() -> Value {
        Value { starts: 7, cause: "tcp.http: connection refused".into() }
    }

    #[test]
    fn what_was_saved_is_found_again_on_the_same_boot() {
        let dir = TempDir::new("store-same");
        let store = Store::<Value>::open(dir.path(), "www");
        assert_eq!(store.load(), (Value::default(), false), "nothing yet");
        store.save(&Value::default()).unwrap();
        store.save(&value()).unwrap();
        assert_eq!(Store::open(dir.path(), "www").load(), (value(), true));
        assert_eq!(
            Store::<Value>::open(dir.path(), "db").load(),
            (Value::default(), false),
            "of another module"
        );
    }

    #[test]
    fn after_another_boot_of_the_machine_it_says_so() {
        let dir = TempDir::new("store-boot");
        let store = Store::<Value>::open(dir.path(), "www");
        store.save(&value()).unwrap();
        let body =
            serde_json::to_string(&Written { machine_boot: "another".into(), value: &value() }).unwrap();
        fs::write(store.path(), format!("{MARK}{}\n{body}", checksum(&body))).unwrap();
        assert_eq!(store.load(), (value(), false));
    }

    #[test]
    fn every_torn_or_changed_file_is_noticed() {
        let dir = TempDir::new("store-torn");
        let store = Store::<Value>::open(dir.path(), "www");
        store.save(&value()).unwrap();
        let whole = fs::read(store.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(store.path(), &whole[..length]).unwrap();
            assert!(matches!(store.read(), Err(Error::Damaged { .. })), "cut at {length}");
        }
        for place in 0..whole.len() {
            let mut other = whole.clone();
            other[place] ^= 0x81;
            fs::write(store.path(), &other).unwrap();
            assert!(matches!(store.read(), Err(Error::Damaged { .. })), "changed at {place}");
        }
        assert_eq!(store.load(), (Value::default(), false), "damaged: as none");
        assert!(dir.path().join("modules/www/state.damaged").exists() && !store.path().exists());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let dir = TempDir::new("store-full");
        fs::write(dir.path().join("modules"), "a file, where a directory should be").unwrap();
        let store = Store::<Value>::open(dir.path(), "www");
        assert!(matches!(store.save(&value()), Err(Error::Write { .. })));
    }
}
