//! What modules start, what the daemon keeps, and whether the other nodes can be reached over TCP.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::config::key::read_ring;
use crate::config::upkeep::{CheckKind, Upkeep};
use crate::config::{Config, Module};
use crate::driver::scripts::services::Systemctl;
use crate::engine::doctor::facts::{
    Application, Door, DoorState, Keeping, ScriptFile, ScriptState, Service, ServiceTrouble,
};
use crate::types::NodeId;

const CONNECT_WAIT: Duration = Duration::from_millis(800);
/// Of all units together: systemd answers in milliseconds, or is stuck.
const UNITS_WAIT: Duration = Duration::from_secs(2);

pub(super) fn keeping(config: &Config, state_dir: &Path) -> Keeping {
    let key = read_ring(&config.cluster.key_file).map(drop);
    Keeping {
        key: key.map_err(|error| (error.to_string(), error.next_step())),
        clock_is_synchronised: clock_is_synchronised(),
        state_dir: state_dir.display().to_string(),
        state_bytes_free: bytes_free(state_dir),
    }
}

/// As the kernel's time discipline has it: adjtimex(2), which changes nothing here.
fn clock_is_synchronised() -> Option<bool> {
    // SAFETY: the structure is plain numbers, for which zeros are valid; no bit of `modes` is set, so it is only read.
    let state = unsafe {
        let mut discipline: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut discipline)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// On the file system of the directory, or of the one that it will be made in.
fn bytes_free(dir: &Path) -> Option<u64> {
    let facts = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

pub(super) async fn applications(config: &Config, me: NodeId) -> Vec<Application> {
    let systemctl = Systemctl::default();
    let mut applications = Vec::new();
    for module in config.modules.iter().filter(|module| module.nodes.contains(&me)) {
        let asked = tokio::time::timeout(UNITS_WAIT, services(&systemctl, module)).await;
        let stuck = || {
            let trouble = || Some(ServiceTrouble::Unknown("systemd does not answer".to_owned()));
            let names = module.upkeep.services.iter().cloned();
            names.map(|name| Service { name, trouble: trouble() }).collect()
        };
        let services: Vec<Service> = asked.unwrap_or_else(|_| stuck());
        let scripts = programs(&module.upkeep);
        if !services.is_empty() || !scripts.is_empty() {
            applications.push(Application { module: module.name.clone(), services, scripts });
        }
    }
    applications
}

async fn services(systemctl: &Systemctl, module: &Module) -> Vec<Service> {
    let mut services = Vec::new();
    for name in &module.upkeep.services {
        services.push(Service { name: name.clone(), trouble: systemctl.trouble(name).await });
    }
    services
}

/// The programs that are named by a path; what the shell finds by itself is its own affair.
fn programs(upkeep: &Upkeep) -> Vec<ScriptFile> {
    let scripts = upkeep.scripts.iter().map(|spec| (spec.script.word().to_owned(), spec.run.as_str()));
    let checks = upkeep.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Custom { run, .. } => Some((format!("check {}", check.name), run.as_str())),
        _ => None,
    });
    let program = |(of, run): (String, &str)| {
        let path = upkeep.directory.join(program_of(run)?);
        Some(ScriptFile { of, state: state_of(&path), path: path.display().to_string() })
    };
    scripts.chain(checks).filter_map(program).collect()
}

/// The first word behind assignments, where it is a path that the shell does not have to make up first.
fn program_of(run: &str) -> Option<&str> {
    let word = run.split_whitespace().find(|word| !word.contains('='))?;
    let is_plain = word.chars().all(|c| c.is_alphanumeric() || "/._-+@:,".contains(c));
    (word.contains('/') && is_plain).then_some(word)
}

fn state_of(path: &Path) -> ScriptState {
    match std::fs::metadata(path) {
        Err(_) => ScriptState::Missing,
        Ok(facts) if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 => {
            ScriptState::NotExecutable
        }
        Ok(_) => ScriptState::Executable,
    }
}

/// All nodes at once: the wait is that for the slowest.
pub(super) fn doors(peers: &[(String, IpAddr)], port: u16) -> Vec<Door> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            peers.iter().map(|(_, address)| scope.spawn(move || knock(*address, port))).collect();
        let states = asked.into_iter().map(|thread| thread.join().unwrap_or(DoorState::Silent));
        let door = |((node, address), state): (&(String, IpAddr), DoorState)| Door {
            node: node.clone(),
            address: *address,
            state,
        };
        peers.iter().zip(states).map(door).collect()
    })
}

fn knock(address: IpAddr, port: u16) -> DoorState {
    match TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_WAIT) {
        Ok(_open) => DoorState::Open,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => DoorState::Refused,
        Err(_) => DoorState::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_with_a_path_is_looked_for() {
        for (run, expected) in [
            ("./start --fast", Some("./start")),
            ("A=b C=d /opt/x/run y", Some("/opt/x/run")),
            ("systemctl start nginx", None),
            ("test -d /srv", None),
            ("\"$HOME/run\"", None),
            ("$(which x)/y", None),
            ("", None),
        ] {
            assert_eq!(program_of(run), expected, "{run}");
        }
    }

    #[test]
    fn a_program_is_there_or_not_or_not_executable() {
        assert_eq!(state_of(Path::new("/bin/sh")), ScriptState::Executable);
        assert_eq!(state_of(Path::new("/no/such/program")), ScriptState::Missing);
        assert_eq!(state_of(Path::new("/etc/passwd")), ScriptState::NotExecutable);
        assert_eq!(state_of(Path::new("/etc")), ScriptState::NotExecutable);
    }

    #[test]
    fn an_open_door_is_told_from_a_shut_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let here: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(knock(here, port), DoorState::Open);
        drop(listener);
        assert_eq!(knock(here, port), DoorState::Refused);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_the_space_of_its_parent() {
        assert!(bytes_free(Path::new("/tmp/safekit-no/such/dir")).is_some_and(|free| free > 0));
    }
}
