//! What a module must not forget: one small file in the state directory, replaced as a whole.
//!
//! Written beside, synced, renamed, and the directory synced: a crash leaves the old one or the new one. A file that
//! cannot be read is said and left out: the module then begins as after a first installation.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const BYTES_MAX: u64 = 256 * 1024;

pub struct Store<T> {
    path: PathBuf,
    machine_boot: String,
    kind: PhantomData<T>,
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    version: u32,
    /// Which life of the machine it is of.
    machine_boot: String,
    value: T,
}

impl<T: Serialize + DeserializeOwned + Default> Store<T> {
    pub fn open(state_dir: &Path, module: &str) -> Self {
        let path = module_dir(state_dir, module).join("state.json");
        Self { path, machine_boot: machine_boot(), kind: PhantomData }
    }

    /// What was saved last, and whether the machine has run ever since.
    pub fn load(&self) -> (T, bool) {
        match self.read() {
            Ok(Some(stored)) => {
                let same = stored.machine_boot == self.machine_boot;
                (stored.value, same)
            }
            Ok(None) => (T::default(), false),
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "cannot read what the module was doing");
                (T::default(), false)
            }
        }
    }

    fn read(&self) -> io::Result<Option<Stored<T>>> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text)?;
        let stored: Stored<T> = serde_json::from_str(&text)?;
        if stored.version == VERSION {
            Ok(Some(stored))
        } else {
            Err(io::Error::new(ErrorKind::InvalidData, format!("of version {}", stored.version)))
        }
    }

    pub fn save(&self, value: &T) -> io::Result<()>
    where
        T: Clone,
    {
        let stored =
            Stored { version: VERSION, machine_boot: self.machine_boot.clone(), value: value.clone() };
        replace(&self.path, &serde_json::to_vec_pretty(&stored)?)
    }
}

/// The file is the old one or the new one, whatever happens.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(directory)?;
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(directory)?.sync_all()
}

pub fn module_dir(state_dir: &Path, module: &str) -> PathBuf {
    state_dir.join("modules").join(module)
}

fn machine_boot() -> String {
    // Without it nothing counts as the same life, and applications are started anew.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
