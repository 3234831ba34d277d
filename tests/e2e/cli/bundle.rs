//! `safekit snapshot`: what is planted in every place must not come out, and what hangs must say so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Folder, binary, text};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Each in another place and clothes: none may come out.
const SECRETS: [&str; 12] = [
    KEY,
    "planted-variable",
    "planted-password",
    "planted-option",
    "planted-comment",
    "planted-environment",
    "planted-bearer",
    "planted-url",
    "planted-event",
    "planted-journal",
    "planted-quoted",
    "planted-not-listed",
];
/// Of this site: none may come out under --anonymize.
const NAMES: [&str; 10] = [
    "10.99.7.1",
    "10.99.7.2",
    "10.99.7.100",
    "fd00:99::7",
    "fe80::5054:ff:fe77:7777",
    "52:54:00:77:77:77",
    "52-54-00-77-77-77",
    "riverbank",
    "heron",
    "kingfisher",
];

#[test]
fn no_secret_comes_out_of_any_place() {
    let site = Site::new();
    let files = site.bundle(&[]);
    assert!(files.len() > 15, "{files:#?}");
    for (path, content) in &files {
        for secret in SECRETS {
            assert!(!content.contains(secret) && !path.contains(secret), "{secret} in {path}:\n{content}");
        }
    }
    let config = content(&files, "config/safekit.yaml");
    assert!(config.contains("DB_URL: (removed)") && config.contains("10.99.7.100"), "{config}");
    assert!(content(&files, "logs/www/7-start_both.log").contains("connected to db as shop"));
    assert!(content(&files, "journal/safekit.log").contains("heartbeat begins"), "what is harmless stays");
}

#[test]
fn no_name_of_the_site_comes_out_of_an_anonymous_bundle() {
    let site = Site::new();
    let files = site.bundle(&["--anonymize"]);
    for (path, content) in &files {
        for name in SECRETS.into_iter().chain(NAMES) {
            let there = [content, path].map(|text| text.to_lowercase().contains(name));
            assert_eq!(there, [false, false], "{name} in {path}:\n{content}");
        }
    }
    // The same node and address are the same everywhere.
    let log = content(&files, "logs/www/7-start_both.log");
    let vip = log.split("serving ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(content(&files, "config/safekit.yaml").contains(&format!("address: {vip}")), "{vip}");
    assert!(log.contains("on node1, not node2"), "{log}");
    assert!(content(&files, "config/safekit.yaml").contains("name: node1"));
}

#[test]
fn a_program_that_hangs_is_an_entry_that_says_so() {
    let site = Site::new();
    site.program("nft", "echo table inet begun; sleep 600");
    let output = site.snapshot(&["-o", "json"]);
    let said: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    let lacking = said["lacking"].as_array().unwrap();
    let nft = lacking.iter().find(|it| it["path"] == "system/nft.txt").unwrap();
    assert!(nft["why"].as_str().unwrap().contains("did not end within 5s"), "{nft}");
    assert_eq!(said["apiVersion"], "v1");
    assert_eq!(content(&site.unpack(), "system/nft.txt"), "table inet begun\n");
}

#[test]
fn the_bundle_is_its_owners_alone_and_replaces_nothing() {
    let site = Site::new();
    let output = site.snapshot(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(
        said.starts_with("b.tar.gz: ") && said.contains("next step: look into it before you send it"),
        "{said}"
    );
    assert!(said.contains("not whole: daemon: cannot reach the daemon at "), "{said}");
    let mode = std::fs::metadata(site.folder.path("b.tar.gz")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let again = site.snapshot(&[]);
    let message = "error: b.tar.gz exists\nnext step: name another file with --out\n";
    assert_eq!((again.status.code(), text(&again.stderr).as_str()), (Some(1), message));
}

/// A node with something to hide in every place that a bundle looks at.
struct Site {
    folder: Folder,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: Folder::new() };
        site.file(
            "safekit.yaml",
            "# planted-comment\ncluster:\n  name: riverbank\n  key_file: cluster.key\n  networks: [{ name: lan }]\n  \
             nodes:\n    - { name: heron, addresses: { lan: 10.99.7.1 } }\n    - { name: kingfisher, addresses: { lan: \
             10.99.7.2 } }\nmodules:\n  - name: www\n    kind: farm\n    virtual_ips: [{ address: 10.99.7.100, \
             interface: eth0 }]\n    rules: [{ protocol: tcp, port: 80 }]\n    variables: { DB_URL: planted-variable, \
             PORT: 8080 }\n    scripts:\n      start: DB_PASSWORD=planted-password ./start --api-token \
             planted-option\n",
        );
        site.file("cluster.key", &format!("{KEY}\n"));
        site.file(
            "state/modules/www/scripts/7-start_both.log",
            &format!(
                "PGPASSWORD=planted-environment\nAuthorization: Bearer planted-bearer\ngiven planted-variable\n\
                 connected to db as shop\nurl postgres://shop:planted-url@db/x\nkey {KEY}\nserving 10.99.7.100 on \
                 heron, not KINGFISHER of riverbank\nfrom [fd00:99::7]:80 and fe80::5054:ff:fe77:7777%eth0, \
                 52:54:00:77:77:77 52-54-00-77-77-77\n"
            ),
        );
        site.file(
            "state/events.jsonl",
            "{\"text\":\"asked by 10.99.7.2\",\"environment\":{\"X\":\"planted-event\"},\"token\":\"planted-quoted\"}\n",
        );
        site.file("state/private.txt", "planted-not-listed");
        site.program(
            "journalctl",
            "echo 'heartbeat begins on heron'; echo 'secret: planted-journal 10.99.7.1'",
        );
        site.program(
            "ip",
            "echo '[{\"address\":\"52:54:00:77:77:77\",\"local\":\"10.99.7.1\",\"v6\":\"fd00:99::7\"}]'",
        );
        site
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.folder.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Found before the machine's own.
    fn program(&self, name: &str, line: &str) {
        self.file(&format!("bin/{name}"), &format!("#!/bin/sh\n{line}\n"));
        let path = self.folder.path(&format!("bin/{name}"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn snapshot(&self, more: &[&str]) -> std::process::Output {
        let path = format!("{}:{}", self.folder.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(binary());
        command.args(["snapshot", "--config", "safekit.yaml", "--state-dir", "state", "--run-dir", "run"]);
        command.args(["--out", "b.tar.gz"]).args(more).env("PATH", path);
        command.current_dir(self.folder.path("")).output().unwrap()
    }

    fn bundle(&self, more: &[&str]) -> Vec<(String, String)> {
        let output = self.snapshot(more);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        self.unpack()
    }

    /// Path and content of every file, by another hand than the one that packed it.
    fn unpack(&self) -> Vec<(String, String)> {
        let unpacked = self.folder.path("unpacked");
        std::fs::create_dir_all(&unpacked).unwrap();
        let tar = Command::new("tar")
            .arg("-xzf")
            .arg(self.folder.path("b.tar.gz"))
            .arg("-C")
            .arg(&unpacked)
            .status();
        assert!(tar.unwrap().success(), "tar unpacks it");
        let mut files = Vec::new();
        walk(&unpacked, &unpacked, &mut files);
        files
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    let entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in entries {
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.push((name, String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()));
        }
    }
}

fn content<'f>(files: &'f [(String, String)], end: &str) -> &'f str {
    let found = files.iter().find(|(path, _)| path.ends_with(end));
    &found.unwrap_or_else(|| panic!("no {end} in {:?}", files.iter().map(|it| &it.0).collect::<Vec<_>>())).1
}
