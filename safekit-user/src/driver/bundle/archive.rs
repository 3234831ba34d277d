//! One compressed file, readable by its owner alone, there as a whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::super::clock;
use crate::types::bundle::{Item, Written};

/// Before it is compressed; what no longer fits is named, and left out.
const TOTAL_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} exists", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the bundle {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "name another file with --out",
            Self::Write { .. } => "name a file with --out where you may write and there is space",
        }
    }
}

/// Under the folder `top`, with a list of contents first. A file that is there is not replaced.
pub fn write(path: &Path, top: &str, items: &[Item]) -> Result<Written, Error> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let written = fill(&fresh, top, items).and_then(|written| {
        // Unlike a rename, a link replaces nobody's file.
        std::fs::hard_link(&fresh, path)?;
        Ok(written)
    });
    let removed = std::fs::remove_file(&fresh);
    let written = written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
        _ => failed(source),
    })?;
    removed.map_err(failed)?;
    Ok(written)
}

fn fill(fresh: &Path, top: &str, items: &[Item]) -> io::Result<Written> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let seconds = clock::unix_seconds();
    let mut add = |path: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("{top}/{path}"), text.as_bytes())
    };
    let (kept, lacking) = bounded(items);
    add("CONTENTS.json", &contents(&kept, &lacking))?;
    for item in &kept {
        add(&item.path, &item.text)?;
    }
    let file: File = archive.into_inner()?.finish()?;
    (&file).flush()?;
    file.sync_all()?;
    Ok(Written { items: kept.len(), lacking, bytes: file.metadata()?.len() })
}

/// What is in it, and what is to be said about items that are not whole or not there.
fn bounded(items: &[Item]) -> (Vec<&Item>, Vec<(String, String)>) {
    let (mut kept, mut lacking, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        lacking.extend(item.note.as_ref().map(|note| (item.path.clone(), note.clone())));
        if item.text.is_empty() && item.note.is_some() {
            continue;
        }
        if bytes + item.text.len() > TOTAL_BYTES_MAX {
            lacking.push((item.path.clone(), "left out: the bundle is full".to_owned()));
            continue;
        }
        bytes += item.text.len();
        kept.push(item);
    }
    (kept, lacking)
}

fn contents(kept: &[&Item], lacking: &[(String, String)]) -> String {
    let files: Vec<_> =
        kept.iter().map(|item| json!({ "path": item.path, "bytes": item.text.len() })).collect();
    let lacking: Vec<_> = lacking.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect();
    let contents = json!({
        "apiVersion": crate::types::snapshot::API_VERSION,
        "safekit": env!("CARGO_PKG_VERSION"),
        "taken": clock::utc(),
        "files": files,
        "lacking": lacking,
    });
    format!("{contents:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_bounded_and_says_what_it_lacks() {
        let large = "x".repeat(TOTAL_BYTES_MAX / 2 + 1);
        let items = [
            Item::whole("a", large.clone()),
            Item::whole("b", large),
            Item::whole("c", "small"),
            Item::lacking("d", "it hung"),
        ];
        let (kept, lacking) = bounded(&items);
        assert_eq!(kept.iter().map(|item| item.path.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        let lacking: Vec<&str> = lacking.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(lacking, ["b", "d"]);
    }

    #[test]
    fn nobody_elses_file_is_replaced_and_nothing_is_left_behind() {
        let dir = std::env::temp_dir().join(format!("safekit-archive-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("b.tar.gz");
        let items = [Item::whole("a.txt", "text")];
        let written = write(&path, "top", &items).expect("written");
        assert!(written.bytes > 0 && written.items == 1, "{written:?}");
        assert!(matches!(write(&path, "top", &items), Err(Error::Exists { .. })));
        assert!(matches!(write(&dir.join("no/b.tar.gz"), "top", &items), Err(Error::Write { .. })));
        use std::os::unix::fs::PermissionsExt as _;
        let mode = path.metadata().expect("there").permissions().mode();
        let left = std::fs::read_dir(&dir).expect("a directory").count();
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!((mode & 0o7777, left), (0o600, 1));
    }
}
