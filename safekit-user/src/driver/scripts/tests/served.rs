//! Services, with a systemd made of a shell script: states are files, and what was asked is a list.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::driver::scripts::services::Systemctl;
use crate::engine::doctor::facts::ServiceTrouble;

/// `UNIT.state` holds `ActiveState`; `UNIT.becomes` what a start makes of it; `UNIT.slow` makes starts hang.
const FAKE: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 9
verb=$1
for unit; do :; done
case $verb in
show)
    if [ -f "$unit.state" ]; then load=loaded; else load=not-found; fi
    state=$(cat "$unit.state" 2>/dev/null || echo inactive)
    printf 'Result=exit-code\nLoadState=%s\nActiveState=%s\nSubState=sub\n' "$load" "$state"
    printf 'UnitFileState=%s\n' "$(cat "$unit.file" 2>/dev/null)"
    ;;
start | restart)
    echo "$verb $unit" >>calls
    [ -f "$unit.slow" ] && sleep 600
    cat "$unit.becomes" >"$unit.state" 2>/dev/null || echo active >"$unit.state"
    ;;
stop)
    echo "$verb $unit" >>calls
    if [ -f "$unit.stays" ]; then echo "it does not want to" >&2; exit 1; fi
    echo inactive >"$unit.state"
    ;;
*) echo "$verb $unit" >>calls ;;
esac
"#;

impl Bench {
    fn with_services(name: &str, services: &[&str], scripts: &[(Script, &str)]) -> Self {
        let mut bench = Self::new(name, scripts);
        let dir = bench.systemd();
        std::fs::create_dir_all(&dir).unwrap();
        let journal = "#!/bin/sh\necho first words\necho last words\n";
        for (file, text) in [("systemctl", FAKE), ("journalctl", journal)] {
            std::fs::write(dir.join(file), text).unwrap();
            std::fs::set_permissions(dir.join(file), PermissionsExt::from_mode(0o755)).unwrap();
        }
        for service in services {
            std::fs::write(dir.join(format!("{service}.state")), "inactive").unwrap();
        }
        bench.place.services = services.iter().map(|it| (*it).to_owned()).collect();
        let (ended, ends) = mpsc::channel(8);
        bench.runner = Runner::with_systemctl(bench.place.clone(), ended, bench.systemctl());
        bench.ends = ends;
        bench
    }

    fn systemctl(&self) -> Systemctl {
        let dir = self.systemd();
        Systemctl { program: dir.join("systemctl"), journal: dir.join("journalctl"), runs: dir }
    }

    fn systemd(&self) -> PathBuf {
        self.dir.path().join("systemd")
    }

    fn set(&self, file: &str, text: &str) {
        std::fs::write(self.systemd().join(file), text).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.systemd().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn services_start_in_order_before_the_script_and_stop_in_the_reverse_one_after_it() {
    let say = "echo \"$SAFEKIT_ACTION script\" >> ../systemd/calls";
    let scripts = [(Script::StartBoth, say), (Script::StopBoth, say)];
    let mut bench = Bench::with_services("order", &["db", "web"], &scripts);
    let up = bench.order(Script::StartBoth);
    assert_eq!(bench.run(up).await, ScriptEnd::Done);
    let down = bench.order(Script::StopBoth);
    assert_eq!(bench.run(Run { action: "stop".into(), ..down }).await, ScriptEnd::Done);
    assert_eq!(
        bench.calls(),
        ["start db", "start web", "start script", "stop script", "stop web", "stop db"]
    );
    assert!(bench.text(&bench.runs()[0]).contains("[safekit: db is active]"));
}

#[tokio::test]
async fn services_need_no_script() {
    let mut bench = Bench::with_services("alone", &["web"], &[]);
    let up = bench.order(Script::StartBoth);
    assert_eq!(bench.run(up).await, ScriptEnd::Done);
    let other = bench.order(Script::StartPrim);
    assert_eq!(bench.run(other).await, ScriptEnd::Done);
    assert_eq!(bench.calls(), ["start web"]);
}

#[tokio::test]
async fn a_service_that_fails_says_its_last_words() {
    let mut bench =
        Bench::with_services("fails", &["db", "web", "last"], &[(Script::StartBoth, "touch started")]);
    bench.set("web.becomes", "failed");
    let up = bench.order(Script::StartBoth);
    let expected = "web is failed (sub), result exit-code: last words".to_owned();
    assert_eq!(bench.run(up).await, ScriptEnd::Failed { code: None, last_line: expected });
    assert_eq!(bench.calls(), ["start db", "start web"], "neither what comes after it");
    assert!(!bench.place.directory.join("started").exists(), "nor the script");
    assert!(bench.text(&bench.runs()[0]).contains("first words\nlast words\n"));

    // What has failed is started again all the same: its limit of starts is taken back first.
    bench.set("web.becomes", "active");
    let up = bench.order(Script::StartBoth);
    assert_eq!(bench.run(up).await, ScriptEnd::Done);
    assert!(bench.calls().contains(&"reset-failed web".to_owned()));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let mut bench = Bench::with_services("absent", &["web"], &[]);
    bench.place.services.push("ngnix".to_owned());
    bench.runner.move_to(bench.place.clone());
    let up = bench.order(Script::StartBoth);
    let why = "systemd knows no unit ngnix".to_owned();
    assert_eq!(bench.run(up).await, ScriptEnd::NotStarted { why });
    let down = bench.order(Script::StopBoth);
    assert_eq!(bench.run(down).await, ScriptEnd::Done, "what is not there does not run");
}

#[tokio::test]
async fn a_stop_that_fails_still_stops_the_others() {
    let mut bench = Bench::with_services("stays", &["db", "web"], &[(Script::StopBoth, "exit 4")]);
    for service in ["db.state", "web.state"] {
        bench.set(service, "active");
    }
    bench.set("web.stays", "");
    let down = bench.order(Script::StopBoth);
    let end = bench.run(down).await;
    assert_eq!(end, ScriptEnd::Failed { code: Some(4), last_line: String::new() });
    assert_eq!(bench.calls(), ["stop web", "stop db"]);
    let text = bench.text(&bench.runs()[0]);
    assert!(text.contains("web is still active: it does not want to"), "{text}");

    let down = bench.order(Script::StopBoth);
    bench.run(Run { force: true, ..down }).await;
    assert_eq!(bench.calls()[2..], ["kill web", "stop web", "kill db", "stop db"]);
}

#[tokio::test]
async fn a_start_that_hangs_ends_at_its_deadline() {
    let mut bench = Bench::with_services("slow", &["web"], &[]);
    bench.set("web.slow", "");
    let up = bench.order(Script::StartBoth);
    let end = bench.run(Run { timeout: Duration::from_millis(400), ..up }).await;
    assert_eq!(end, ScriptEnd::TimedOut);
    bench.set("web.state", "activating");
    std::fs::remove_file(bench.systemd().join("web.slow")).unwrap();
    bench.set("web.becomes", "activating");
    let up = bench.order(Script::StartBoth);
    let end = bench.run(Run { timeout: Duration::from_millis(400), ..up }).await;
    assert_eq!(end, ScriptEnd::TimedOut, "nor does it wait for ever for a unit on its way");
}

#[tokio::test]
async fn only_the_named_services_are_restarted() {
    let mut bench = Bench::with_services("again", &["db", "web"], &[]);
    bench.next += 1;
    bench.runner.restart_services(RunId(1), &["web".to_owned()], Duration::from_secs(5));
    assert_eq!(bench.end().await, ScriptEnd::Done);
    bench.next += 1;
    bench.runner.restart_services(RunId(2), &[], Duration::from_secs(5));
    assert_eq!(bench.end().await, ScriptEnd::Done);
    assert_eq!(bench.calls(), ["restart web", "restart db", "restart web"]);
    assert_eq!(bench.runs()[0].script, "restart_services");
}

#[tokio::test]
async fn without_systemd_it_says_so() {
    let mut bench = Bench::with_services("none", &["web"], &[]);
    let systemctl = Systemctl { runs: bench.dir.path().join("absent"), ..bench.systemctl() };
    let (ended, ends) = mpsc::channel(8);
    bench.runner = Runner::with_systemctl(bench.place.clone(), ended, systemctl);
    bench.ends = ends;
    let up = bench.order(Script::StartBoth);
    let ScriptEnd::NotStarted { why } = bench.run(up).await else { panic!("there is no systemd") };
    assert_eq!(why, "systemd does not run here, and services need it; use scripts instead");
}

#[tokio::test]
async fn a_service_that_starts_at_boot_by_itself_is_a_warning() {
    let bench = Bench::with_services("boot", &["db", "web"], &[]);
    bench.set("web.file", "enabled");
    bench.set("db.file", "disabled");
    let systemctl = bench.systemctl();
    assert_eq!(systemctl.trouble("db").await, None);
    assert_eq!(systemctl.trouble("web").await, Some(ServiceTrouble::StartsByItself));
    let Some(ServiceTrouble::Unusable { why, remedy }) = systemctl.trouble("gone").await else {
        panic!("there is no such unit")
    };
    assert_eq!(
        (why.as_str(), remedy.as_str()),
        ("systemd knows no unit gone", "systemctl list-unit-files 'gone*'")
    );
}
