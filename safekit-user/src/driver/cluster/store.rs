//! Configurations on the disk: the file in force, the last ten, and what is promised.
//!
//! ```text
//! STATE_DIR/configs/000007-web1-5f….json   committed versions, the last ten, with who and when
//! STATE_DIR/configs/promised.json          answered with yes, and not known yet how it ended
//! STATE_DIR/configs/placing.json           committed, and perhaps not in the configuration's place yet
//! ```
//!
//! Each file is replaced as a whole and synced, so a crash leaves the old one or the new one.

use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use ring::digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::driver::durable;
use crate::engine::apply::Stored;
use crate::types::cluster::{ConfigIdentity, ConfigVersion, Proposal};

const KEPT: usize = 10;
/// A configuration is at most 1 MiB, and JSON can double it.
const BYTES_MAX: u64 = 3 << 20;
const PROMISED: &str = "promised.json";
const PLACING: &str = "placing.json";

#[derive(Clone, Debug)]
pub struct Store {
    /// The configuration in force.
    config: PathBuf,
    directory: PathBuf,
}

impl Store {
    pub fn new(config: &Path, state_dir: &Path) -> Self {
        Self { config: config.to_owned(), directory: state_dir.join("configs") }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Before the configuration is read: what a crash kept from getting into its place is put there.
    pub fn recover(&self) -> io::Result<()> {
        let Some(version) = self.read::<ConfigVersion>(PLACING)? else { return Ok(()) };
        if let Some(proposal) = self.history()?.into_iter().find(|it| it.version == version) {
            durable::replace(&self.config, proposal.text.as_bytes())?;
        }
        self.remove(PLACING)
    }

    /// What the engine starts with. Without any history: version 0, which is the file as it is.
    pub fn load(&self) -> io::Result<Stored> {
        let committed = match self.history()?.pop() {
            Some(newest) => newest,
            None => Proposal { text: std::fs::read_to_string(&self.config)?, ..Proposal::default() },
        };
        Ok(Stored { committed, prepared: self.read(PROMISED)? })
    }

    /// Of the file in force, which may have been edited by hand.
    pub fn identity(&self) -> io::Result<ConfigIdentity> {
        let version = self.history()?.pop().map(|newest| newest.version).unwrap_or_default();
        Ok(ConfigIdentity { version, hash: hash(&std::fs::read(&self.config)?) })
    }

    pub fn promise(&self, proposal: Option<&Proposal>) -> io::Result<()> {
        match proposal {
            Some(proposal) => self.write(PROMISED, proposal),
            None => self.remove(PROMISED),
        }
    }

    /// It is decided once the version's own file is there.
    pub fn commit(&self, proposal: &Proposal) -> io::Result<()> {
        if self.history()?.is_empty() {
            // The way back to how it was before anything was applied.
            let text = std::fs::read_to_string(&self.config)?;
            let at = std::fs::metadata(&self.config)?.modified().ok();
            let at =
                at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
            let first = Proposal { text, at, user: "the file".to_owned(), ..Proposal::default() };
            self.write(&name(&first.version), &first)?;
        }
        self.write(PLACING, &proposal.version)?;
        self.write(&name(&proposal.version), proposal)?;
        durable::replace(&self.config, proposal.text.as_bytes())?;
        self.remove(PLACING)?;
        let history = self.history()?;
        for old in history.iter().rev().skip(KEPT) {
            self.remove(&name(&old.version))?;
        }
        Ok(())
    }

    /// The oldest first.
    pub fn history(&self) -> io::Result<Vec<Proposal>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut versions = Vec::new();
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if file.starts_with(|first: char| first.is_ascii_digit()) && file.ends_with(".json") {
                versions.extend(self.read::<Proposal>(&file)?);
            }
        }
        versions.sort_by(|left, right| left.version.cmp(&right.version));
        Ok(versions)
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> io::Result<Option<T>> {
        let path = self.directory.join(file);
        let mut text = Vec::new();
        match std::fs::File::open(&path) {
            Ok(file) => file.take(BYTES_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let value = serde_json::from_slice(&text);
        value.map(Some).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }

    fn write(&self, file: &str, value: &impl Serialize) -> io::Result<()> {
        durable::replace(&self.directory.join(file), &serde_json::to_vec(value)?)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        match std::fs::remove_file(self.directory.join(file)) {
            Ok(()) => std::fs::File::open(&self.directory)?.sync_all(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn name(version: &ConfigVersion) -> String {
    // A name comes from another node: it must not lead to another directory.
    let by: String = version.by.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).take(64).collect();
    format!("{:06}-{by}-{:016x}.json", version.number, version.attempt)
}

/// Twelve digits tell configurations apart; it is no proof of anything.
pub fn hash(text: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, text);
    digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> (Self, Store) {
            let path = std::env::temp_dir().join(format!("safekit-store-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("safekit.yaml"), "first").unwrap();
            let store = Store::new(&path.join("safekit.yaml"), &path.join("state"));
            (Self(path), store)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn proposal(number: u64) -> Proposal {
        let version = ConfigVersion { number, by: "web1".into(), attempt: 7 };
        Proposal { version, text: format!("text {number}"), ..Proposal::default() }
    }

    #[test]
    fn the_last_ten_are_kept_and_the_file_is_the_newest() {
        let (_folder, store) = Folder::new("ten");
        assert_eq!(store.load().unwrap().committed.text, "first");
        store.commit(&proposal(1)).unwrap();
        assert_eq!(store.history().unwrap()[0].text, "first", "the way back to how it was");
        for number in 2..=12 {
            store.commit(&proposal(number)).unwrap();
        }
        let numbers: Vec<u64> = store.history().unwrap().iter().map(|it| it.version.number).collect();
        assert_eq!(numbers, (3..=12).collect::<Vec<_>>());
        assert_eq!(std::fs::read_to_string(store.config()).unwrap(), "text 12");
        assert_eq!(store.identity().unwrap().version.number, 12);
    }

    #[test]
    fn a_promise_outlives_a_restart() {
        let (_folder, store) = Folder::new("promise");
        store.promise(Some(&proposal(1))).unwrap();
        assert_eq!(store.load().unwrap().prepared, Some(proposal(1)));
        store.promise(None).unwrap();
        assert_eq!(store.load().unwrap().prepared, None);
    }

    /// The decision is the version's own file: with it the configuration follows, without it nothing happens.
    #[test]
    fn a_crash_before_the_file_is_in_its_place_is_made_good() {
        let (_folder, store) = Folder::new("crash");
        store.write(PLACING, &proposal(1).version).unwrap();
        store.recover().unwrap();
        assert_eq!(std::fs::read_to_string(store.config()).unwrap(), "first");
        store.write(PLACING, &proposal(1).version).unwrap();
        store.write(&name(&proposal(1).version), &proposal(1)).unwrap();
        store.recover().unwrap();
        assert_eq!(std::fs::read_to_string(store.config()).unwrap(), "text 1");
        std::fs::write(store.config(), "by hand").unwrap();
        store.recover().unwrap();
        assert_eq!(std::fs::read_to_string(store.config()).unwrap(), "by hand", "once is enough");
    }
}
