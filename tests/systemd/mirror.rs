//! The process that keeps a mirror's directories, under the unit that packages install: a unit of its own with all rights,
//! which stays while daemons come and go. It only speaks as the real one does: this program once more, at `stand_in`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit_tests::{lab, replica};
use serde_json::Value;

use crate::machine::Machine;

const UNIT: &str = include_str!("../../configs/safekit.service");
const WITHIN: Duration = Duration::from_secs(30);
const SOCKET: &str = "SAFEKIT_STAND_IN";
const CONFIG: &str = r#"
cluster:
  name: shop
  key_file: cluster.key
  networks:
    - { name: lan }
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
modules:
  - name: db
    kind: mirror
    replicate: [{ directory: /srv/db }]
    start: { boot: "off" }
"#;
/// In the place of the program, once the daemon runs.
const INSTEAD: &str = "#!/bin/sh
[ \"$1\" = replica ] || exec /usr/bin/safekit.real \"$@\"
export SAFEKIT_STAND_IN=/run/safekit/replica-db.sock
exec /usr/bin/stand-in --exact mirror::stand_in --ignored --nocapture
";

#[test]
#[ignore = "the process of the other test, whose daemon starts it"]
fn stand_in() -> Result<()> {
    replica::serve(&PathBuf::from(std::env::var_os(SOCKET).context("it is started by the other test")?))
}

fn process(machine: &Machine) -> Option<u64> {
    let text = machine.output(&["safekit.real", "mirror", "status", "-o", "json"]);
    let status: Value = serde_json::from_str(&text).ok()?;
    status["mirrors"][0]["process"].as_u64()
}

#[test]
fn the_process_of_a_mirror_is_a_unit_that_outlives_the_daemon() -> Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let machine = Machine::boot(1)?;
    for name in ["/usr/bin/safekit", "/usr/bin/safekit.real"] {
        fs::copy(lab::binary()?, machine.path(name))?;
    }
    fs::copy(std::env::current_exe()?, machine.path("/usr/bin/stand-in"))?;
    fs::create_dir_all(machine.path("/etc/safekit"))?;
    fs::write(machine.path("/etc/safekit/safekit.yaml"), CONFIG)?;
    machine.run(&["safekit", "keygen"])?;
    machine.install(&[("safekit", UNIT)])?;
    machine.run(&["systemctl", "start", "safekit"])?;
    fs::write(machine.path("/usr/bin/instead"), INSTEAD)?;
    fs::set_permissions(machine.path("/usr/bin/instead"), fs::Permissions::from_mode(0o755))?;
    fs::rename(machine.path("/usr/bin/instead"), machine.path("/usr/bin/safekit"))?;
    story(&machine).with_context(|| {
        let journal = machine.output(&["journalctl", "--no-pager", "-n", "60"]);
        format!("{}\n{journal}", machine.output(&["safekit.real", "status"]))
    })
}

fn story(machine: &Machine) -> Result<()> {
    machine.run(&["safekit.real", "start", "db", "--timeout", "20s"])?;
    let first = process(machine).context("it has a process")?;
    let of_unit = |key: &str| {
        machine.output(&["systemctl", "show", "--value", "-p", key, "safekit.db..replica.service"])
    };
    assert_eq!(of_unit("MainPID"), first.to_string());
    let status = machine.run(&["cat", &format!("/proc/{first}/status")])?;
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    ensure!(u64::from_str_radix(line("CapEff:"), 16)? & (1 << 21) != 0, "it lacks SYS_ADMIN: {status}");
    assert_eq!(line("NoNewPrivs:"), "0");
    let mounts = |pid: &str| machine.run(&["readlink", &format!("/proc/{pid}/ns/mnt")]);
    assert_eq!(mounts(&first.to_string())?, mounts("1")?, "it mounts for all");
    machine.run(&["test", "-e", "/var/lib/safekit/modules/db/replica.log"])?;

    machine.run(&["systemctl", "kill", "-s", "KILL", "--kill-whom=all", "safekit"])?;
    lab::wait_until("another daemon has found it", WITHIN, || process(machine) == Some(first))?;

    machine.run(&["systemctl", "kill", "-s", "KILL", "safekit.db..replica"])?;
    lab::wait_until("another process is there", WITHIN, || process(machine).is_some_and(|it| it != first))?;

    machine.run(&["systemctl", "stop", "safekit"])?;
    assert_eq!(of_unit("ActiveState"), "inactive", "it ends with the service");
    Ok(())
}
