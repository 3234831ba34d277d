//! The daemon as the unit that packages install: told ready, watched, with few rights, and stopped with its applications.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use safekit::driver::clock;
use safekit_tests::lab;
use serde_json::Value;

use crate::machine::Machine;

const UNIT: &str = include_str!("../../configs/safekit.service");
const WITHIN: Duration = Duration::from_secs(20);

/// A farm with nginx as a service of systemd, and an application that its own scripts start.
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
  - name: www
    kind: farm
    virtual_ips:
      - { address: 10.99.0.100, interface: eth0 }
    rules:
      - { protocol: tcp, port: 80 }
    services: [nginx]
    checks:
      - { name: nginx, process: { name: nginx, at_least: 1 } }
  - name: batch
    kind: light
    scripts: { directory: /run/lab, start: ./start, stop: ./stop }
    checks:
      - { name: worker, process: { name: sleep, arguments: "86400", at_least: 1 } }
"#;
/// The application outlives the script that starts it, and tells which rights it was born with.
const START: &str = "#!/bin/sh\nsetsid sleep 86400 </dev/null >/dev/null 2>&1 &\n\
                     echo $! >worker.pid\ngrep -E 'CapEff|NoNewPrivs' /proc/self/status >rights\ntouch /etc/is-writable\n";
const STOP: &str = "#!/bin/sh\n[ -s worker.pid ] && kill $(cat worker.pid)\nsleep 1\nrm -f worker.pid\necho $SAFEKIT_CAUSE >stopped\nexit 0\n";

struct Site {
    machine: Machine,
}

impl Site {
    fn build() -> anyhow::Result<Self> {
        let machine = Machine::boot(1)?;
        for (name, text) in [("start", START), ("stop", STOP)] {
            let path = machine.dir().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        fs::copy(lab::binary()?, machine.path("/usr/bin/safekit"))?;
        fs::create_dir_all(machine.path("/etc/safekit"))?;
        fs::write(machine.path("/etc/safekit/safekit.yaml"), CONFIG)?;
        machine.run(&["safekit", "keygen"])?;
        machine.install(&[("safekit", UNIT)])?;
        Ok(Self { machine })
    }

    fn fact(&self, name: &str) -> String {
        self.machine.output(&["systemctl", "show", "--value", "-p", name, "safekit"])
    }

    /// The daemon: the child of the unit's main process.
    fn daemon(&self) -> anyhow::Result<u32> {
        let text = self.machine.run(&["cat", "/run/safekit/daemon.pid"])?;
        text.trim().parse().with_context(|| format!("{text:?} is no process"))
    }

    fn module(&self, name: &str) -> Option<Value> {
        let text = self.machine.output(&["safekit", "status", "-o", "json"]);
        let status: Value = serde_json::from_str(&text).ok()?;
        status["modules"].as_array()?.iter().find(|module| module["name"] == name).cloned()
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        lab::wait_until("both modules are UP and Ready", WITHIN, || {
            ["www", "batch"].iter().all(|name| {
                self.module(name)
                    .is_some_and(|it| it["state"]["role"] == "UP" && it["state"]["status"] == "Ready")
            })
        })
        .with_context(|| self.words())
    }

    fn words(&self) -> String {
        let journal = self.machine.output(&["journalctl", "--no-pager", "-n", "60"]);
        format!("{}\n{journal}", self.machine.output(&["safekit", "status"]))
    }
}

/// One machine for all stories: it takes seconds to boot.
#[test]
fn the_unit_is_ready_watched_and_stopped_with_its_applications() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut site = Site::build()?;
    it_is_ready_when_it_answers(&site).with_context(|| site.words())?;
    site.machine.run(&["safekit", "start", "www"])?;
    site.machine.run(&["safekit", "start", "batch"])?;
    site.wait_ready()?;
    the_daemon_has_few_rights_and_its_scripts_have_all(&site)?;
    the_journal_has_fields(&site)?;
    who_may_do_what_is_decided_by_groups_and_written_down(&site).with_context(|| site.words())?;
    events_are_followed_through_a_death(&site).with_context(|| site.words())?;
    a_reload_keeps_the_application(&site).with_context(|| site.words())?;
    a_daemon_that_dies_is_back_and_the_application_never_left(&site).with_context(|| site.words())?;
    a_daemon_that_hangs_is_ended_by_the_watchdog(&site).with_context(|| site.words())?;
    a_stop_runs_the_stop_scripts(&site).with_context(|| site.words())?;
    a_machine_that_goes_down_stops_its_applications_first(&mut site)
}

fn it_is_ready_when_it_answers(site: &Site) -> anyhow::Result<()> {
    let begun = clock::now();
    site.machine.run(&["systemctl", "start", "safekit"])?;
    eprintln!("systemctl start took {:?}", clock::now().since(begun));
    assert_eq!(site.fact("ActiveState"), "active");
    // The next command: nobody has to wait for a socket.
    site.machine.run(&["safekit", "status"])?;
    // Its only peer does not exist.
    lab::wait_until("its status is told", WITHIN, || site.fact("StatusText") == "DEGRADED")
        .with_context(|| site.fact("StatusText"))
}

fn the_daemon_has_few_rights_and_its_scripts_have_all(site: &Site) -> anyhow::Result<()> {
    let status = site.machine.run(&["cat", &format!("/proc/{}/status", site.daemon()?)])?;
    let of = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().to_owned()
    };
    // NET_ADMIN, NET_RAW, NET_BIND_SERVICE, IPC_LOCK, KILL, SYS_NICE, PERFMON, BPF: capability.h.
    let few = [12, 13, 10, 14, 5, 23, 38, 39].iter().fold(0_u64, |all, number| all | 1 << number);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&of(&status, set), 16)?, few, "{set} {}", of(&status, set));
    }
    assert_eq!(of(&status, "NoNewPrivs:"), "1");
    let script = fs::read_to_string(site.machine.dir().join("rights"))?;
    assert_eq!(of(&script, "NoNewPrivs:"), "0");
    assert_ne!(u64::from_str_radix(&of(&script, "CapEff:"), 16)? & (1 << 21), 0, "SYS_ADMIN: {script}");
    ensure!(site.machine.path("/etc/is-writable").exists(), "a script is under the daemon's ProtectSystem");
    Ok(())
}

fn the_journal_has_fields(site: &Site) -> anyhow::Result<()> {
    let fields = "SAFEKIT_KIND,SAFEKIT_MODULE,SAFEKIT_CAUSE,MESSAGE,PRIORITY";
    lab::wait_until("the journal has the start of a module", WITHIN, || {
        let words = ["journalctl", "SAFEKIT_MODULE=batch", "-o", "json", "--output-fields", fields];
        let lines = site.machine.output(&words);
        let mut entries = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.any(|it| {
            it["SAFEKIT_KIND"] == "script"
                && it["MESSAGE"].as_str().is_some_and(|text| text.starts_with("batch: start_both starts"))
                && it["PRIORITY"] == "6"
        })
    })
    .with_context(|| site.machine.output(&["journalctl", "-o", "verbose", "-u", "safekit", "-n", "20"]))
}

/// Each with the groups of one role; eve has none.
const PERSONS: [(&str, &str); 4] =
    [("mona", "safekit"), ("carl", "safekit-control"), ("anna", "safekit-admin"), ("eve", "users")];

fn who_may_do_what_is_decided_by_groups_and_written_down(site: &Site) -> anyhow::Result<()> {
    for (person, group) in PERSONS {
        site.machine.run(&["groupadd", "--force", group])?;
        site.machine.run(&["useradd", "--no-create-home", "--groups", group, person])?;
    }
    let asks: [(&str, &[&str], Option<&str>); 9] = [
        ("eve", &["status"], Some("monitor")),
        ("mona", &["status"], None),
        ("mona", &["events"], None),
        ("mona", &["check", "off", "batch"], Some("control")),
        ("carl", &["check", "off", "batch"], None),
        ("carl", &["check", "on", "batch"], None),
        ("carl", &["keygen", "--rotate"], Some("admin")),
        ("carl", &["reload"], Some("admin")),
        ("anna", &["reload"], None),
    ];
    for (person, words, needs) in asks {
        let output =
            site.machine.command(&[&["runuser", "-u", person, "--", "safekit"], words].concat()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        // 3: done, and the cluster is degraded.
        let expected: &[i32] = if needs.is_some() { &[1] } else { &[0, 3] };
        ensure!(
            output.status.code().is_some_and(|code| expected.contains(&code)),
            "{person} {words:?}: {output:?}"
        );
        if let Some(role) = needs {
            ensure!(said.contains(role) && said.contains("\nnext: "), "{person} {words:?}: {said}");
        }
    }
    site.wait_ready()?;
    let audit = site.machine.run(&["safekit", "audit"])?;
    let has = |person: &str, command: &str, result: &str| {
        audit.lines().any(|line| [person, command, result].iter().all(|part| line.contains(part)))
    };
    ensure!(has("mona", "check off batch", "denied: it needs the role control"), "{audit}");
    ensure!(has("carl", "check off batch", "done"), "{audit}");
    ensure!(has("carl", "reload", "denied: it needs the role admin"), "{audit}");
    ensure!(has("anna", "reload", "done"), "{audit}");
    ensure!(!audit.contains(" status "), "looking is not written down: {audit}");
    Ok(())
}

fn events_are_followed_through_a_death(site: &Site) -> anyhow::Result<()> {
    let heard = site.machine.dir().join("heard");
    let words = ["safekit", "events", "batch", "--follow", "--count", "1", "-o", "json"];
    let mut follower = site.machine.command(&words).stdout(fs::File::create(&heard)?).spawn()?;
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(&heard).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let waited =
        lab::wait_until("the follower shows what was", WITHIN, || !events().is_empty()).and_then(|()| {
            site.machine.run(&["kill", "-9", worker(site)?.trim()])?;
            lab::wait_until("it shows the death, its cause and its end", WITHIN, || {
                let events = events();
                let place = |text: &str| {
                    events.iter().position(|it| it["text"].as_str().is_some_and(|it| it.contains(text)))
                };
                let down = place("process.worker is down");
                let up = events
                    .iter()
                    .rposition(|it| it["text"].as_str().is_some_and(|it| it.ends_with("UP (Ready)")));
                down.is_some()
                    && down < up
                    && events.iter().any(|it| {
                        it["cause"].as_str().is_some_and(|it| it.contains("process.worker is down"))
                    })
            })
        });
    let waited = waited.and_then(|()| {
        let before = events().len();
        site.machine.run(&["systemctl", "reload", "safekit"])?;
        lab::wait_until("it goes on over a restart of the daemon", WITHIN, || events().len() > before)
    });
    let _gone = follower.kill();
    let _gone = follower.wait();
    waited.with_context(|| fs::read_to_string(&heard).unwrap_or_default())?;
    site.wait_ready()
}

/// Who works for the application, before and after.
fn worker(site: &Site) -> anyhow::Result<String> {
    Ok(fs::read_to_string(site.machine.dir().join("worker.pid"))?)
}

fn a_reload_keeps_the_application(site: &Site) -> anyhow::Result<()> {
    let (before, daemon) = (worker(site)?, site.daemon()?);
    site.machine.run(&["systemctl", "reload", "safekit"])?;
    lab::wait_until("another daemon is there", WITHIN, || site.daemon().is_ok_and(|now| now != daemon))?;
    site.wait_ready()?;
    assert_eq!((worker(site)?, site.fact("NRestarts").as_str()), (before, "0"));
    assert_eq!(site.fact("ActiveState"), "active");
    Ok(())
}

fn a_daemon_that_dies_is_back_and_the_application_never_left(site: &Site) -> anyhow::Result<()> {
    let (before, daemon) = (worker(site)?, site.daemon()?);
    site.machine.run(&["kill", "-9", &daemon.to_string()])?;
    lab::wait_until("another daemon is there", WITHIN, || site.daemon().is_ok_and(|now| now != daemon))?;
    site.wait_ready()?;
    assert_eq!(
        (worker(site)?, site.fact("NRestarts").as_str()),
        (before, "0"),
        "its parent is the unit's process"
    );
    Ok(())
}

fn a_daemon_that_hangs_is_ended_by_the_watchdog(site: &Site) -> anyhow::Result<()> {
    let (before, daemon) = (worker(site)?, site.daemon()?);
    let begun = clock::now();
    site.machine.run(&["kill", "-STOP", &daemon.to_string()])?;
    // The unit's own ten seconds, and its pause.
    lab::wait_until("systemd has started it again", WITHIN, || site.fact("NRestarts") == "1")?;
    eprintln!("a stopped daemon was replaced after {:?}", clock::now().since(begun));
    site.wait_ready()?;
    assert_eq!(worker(site)?, before, "a watchdog is no reason to restart the application");
    Ok(())
}

fn a_stop_runs_the_stop_scripts(site: &Site) -> anyhow::Result<()> {
    let begun = clock::now();
    site.machine.run(&["systemctl", "stop", "safekit"])?;
    eprintln!("systemctl stop took {:?} with a stop script of 1 s", clock::now().since(begun));
    assert_eq!((site.fact("ActiveState").as_str(), site.fact("Result").as_str()), ("inactive", "success"));
    ensure!(!site.machine.dir().join("worker.pid").exists(), "the application is still there");
    assert_eq!(site.machine.output(&["systemctl", "is-active", "nginx"]), "inactive");
    assert_eq!(site.machine.output(&["ip", "-4", "addr", "show", "to", "10.99.0.100"]), "");
    fs::remove_file(site.machine.dir().join("stopped"))?;
    Ok(())
}

fn a_machine_that_goes_down_stops_its_applications_first(site: &mut Site) -> anyhow::Result<()> {
    site.machine.run(&["systemctl", "start", "safekit"])?;
    for module in ["www", "batch"] {
        site.machine.run(&["safekit", "start", module])?;
    }
    site.wait_ready()?;
    let begun = clock::now();
    let _under_way = site.machine.output(&["systemctl", "poweroff"]);
    lab::wait_until("the machine is down", WITHIN * 2, || !site.machine.is_up())?;
    eprintln!("the machine went down in {:?}", clock::now().since(begun));
    let dir = site.machine.dir();
    ensure!(dir.join("stopped").exists() && !dir.join("worker.pid").exists(), "its stop script did not run");
    Ok(())
}

/// What systemd says of it, on a machine where nothing is set up; 3.0 is the most that this project allows.
#[test]
fn systemd_calls_the_unit_secure() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let dir = std::env::temp_dir().join(format!("safekit-lab-security-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let path = dir.join("safekit.service");
    fs::write(&path, UNIT)?;
    let analyze =
        |words: &[&str]| std::process::Command::new("systemd-analyze").args(words).arg(&path).output();
    let score = analyze(&["security", "--offline=yes", "--threshold=30", "--no-pager"])?;
    let said = String::from_utf8_lossy(&score.stdout).into_owned();
    eprintln!("{}", said.lines().last().unwrap_or_default());
    ensure!(score.status.success(), "{said}");
    fs::remove_dir_all(&dir)?;
    Ok(())
}
