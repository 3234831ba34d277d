//! The command line as users and scripts meet it: the real binary, its exit codes and its words.

mod bundle;
mod faulty;
mod manual;
mod mirror;
mod schema;
mod stage;
mod verbs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use faulty::faulty_files;

/// What the binary says about each faulty file. `SAFEKIT_BLESS=1` writes it anew, for reading in the diff.
const EXPECTED: &str = include_str!("config_errors.txt");
const FILE: &str = "farm.yaml";

#[test]
fn each_fault_is_named_with_its_place_and_the_way_out() {
    let mut answers = String::new();
    let mut wrong = Vec::new();
    for fault in faulty_files() {
        let folder = Folder::new();
        std::fs::write(folder.path(FILE), &fault.content).unwrap();
        let output = folder.safekit(&["config", "check", FILE]);
        let answer = text(&output.stderr);
        let section = format!("== {}\n{answer}\n", fault.name);
        if output.status.code() != Some(1) || !output.stdout.is_empty() {
            wrong.push(format!(
                "{section}exit {:?}, stdout {:?}",
                output.status.code(),
                text(&output.stdout)
            ));
        } else if let Err(lack) = is_complete(&answer, fault.has_place) {
            wrong.push(format!("{section}{lack}"));
        } else if !EXPECTED.contains(&section) {
            wrong.push(format!("{section}differs from config_errors.txt"));
        }
        answers.push_str(&section);
    }
    if std::env::var_os("SAFEKIT_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cli/config_errors.txt");
        std::fs::write(path, &answers).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(answers, EXPECTED, "config_errors.txt has other sections than the table has files");
}

/// `file:line:column: message`, the line, a caret below it, and a hint: for every error in the answer.
fn is_complete(answer: &str, has_place: bool) -> Result<(), &'static str> {
    let lines: Vec<&str> = answer.lines().collect();
    let (rest, height) = if has_place { (&lines[..], 4) } else { (&lines[..], 2) };
    if rest.is_empty() || !rest.len().is_multiple_of(height) {
        return Err("an error has another number of lines");
    }
    for error in rest.chunks(height) {
        let mut head = error[0].splitn(4, ':');
        let file_is_named = head.next() == Some(FILE);
        let numbers = head.by_ref().take(2).filter(|part| part.parse::<u32>().is_ok_and(|n| n > 0)).count();
        if !file_is_named || (has_place && numbers != 2) {
            return Err("file, line and column do not lead");
        }
        if has_place && !error[2].trim_start_matches([' ', '|']).starts_with('^') {
            return Err("no caret");
        }
        if !error[height - 1].trim_start().starts_with("hint: ") {
            return Err("no hint");
        }
    }
    Ok(())
}

#[test]
fn what_is_no_file_is_named() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("folder")).unwrap();
    for (argument, message) in [
        (
            "none.yaml",
            "none.yaml: cannot be read: No such file or directory (os error 2)\n   hint: name the file: `safekit config check FILE`; a sample is configs/farm.yaml\n",
        ),
        ("folder", "folder: is a directory\n   hint: name the configuration file itself\n"),
        ("/dev/zero", "/dev/zero: is no regular file\n   hint: name the configuration file itself\n"),
    ] {
        let output = folder.safekit(&["config", "check", argument]);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), message));
    }
}

#[test]
fn a_good_file_is_one_line_and_exit_0() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/farm.yaml");
    let output = Folder::new().safekit(&["config", "check", sample.to_str().unwrap()]);
    let line = "shop: 3 nodes (web1, web2, web3), 2 networks, 1 module: farm www at 10.99.0.100\n";
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), line));
}

#[test]
fn what_config_show_prints_takes_effect_as_the_same() {
    let folder = Folder::new();
    std::fs::write(folder.path(FILE), faulty::GOOD).unwrap();
    let first = folder.safekit(&["config", "show", FILE]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("delivery: flood"), "defaults are written out");
    std::fs::write(folder.path("shown.yaml"), &first.stdout).unwrap();
    let second = folder.safekit(&["config", "show", "shown.yaml"]);
    assert_eq!(text(&second.stdout), text(&first.stdout));
}

#[test]
fn keygen_makes_a_secret_once() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let made = folder.safekit(&["keygen", "cluster.key"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("next step: "), "{}", text(&made.stdout));
    let key = std::fs::read_to_string(folder.path("cluster.key")).unwrap();
    assert!(key.len() == 65 && key.ends_with('\n') && key.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(!text(&made.stdout).contains(key.trim_end()), "the key is not shown");
    let mode = std::fs::metadata(folder.path("cluster.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    let again = folder.safekit(&["keygen", "cluster.key"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("next step: to replace it"), "{}", text(&again.stderr));
    assert_eq!(std::fs::read_to_string(folder.path("cluster.key")).unwrap(), key);

    assert_eq!(folder.safekit(&["keygen", "--force", "cluster.key"]).status.code(), Some(0));
    assert_ne!(std::fs::read_to_string(folder.path("cluster.key")).unwrap(), key);
}

#[test]
fn keygen_says_what_directory_is_missing() {
    let output = Folder::new().safekit(&["keygen", "no/such/cluster.key"]);
    let message =
        "error: there is no directory for the cluster key no/such/cluster.key\nnext step: mkdir -p no/such\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), message));
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    for arguments in [&["config"][..], &["config", "chekc"], &["keygen", "--frce"], &["nothing"]] {
        assert_eq!(Folder::new().safekit(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the binary writes UTF-8")
}

/// The binary of the build that this test belongs to.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let binary = target.join("safekit");
    assert!(binary.is_file(), "{} is missing: run `cargo build -p safekit` first", binary.display());
    binary
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("safekit-cli-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs in this folder.
    fn safekit(&self, arguments: &[&str]) -> Output {
        Command::new(binary()).args(arguments).current_dir(&self.0).output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
