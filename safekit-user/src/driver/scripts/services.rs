//! `services:` systemd units, started in order, stopped in the reverse one, and looked at afterwards.
//!
//! systemd's word counts, not the exit code of `systemctl`: a unit is up when it is `active` and still is a moment
//! later, and down when it is neither active nor on its way.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::output::{Output, last_line};
use super::shell::{Limits, Reached};
use crate::driver::clock;
use crate::engine::doctor::facts::ServiceTrouble;
use crate::types::module::ScriptEnd;

/// How to reach systemd.
#[derive(Clone, Debug)]
pub struct Systemctl {
    pub program: PathBuf,
    pub journal: PathBuf,
    /// There where systemd runs: `sd_booted(3)`.
    pub runs: PathBuf,
}

impl Default for Systemctl {
    fn default() -> Self {
        Self { program: "systemctl".into(), journal: "journalctl".into(), runs: "/run/systemd/system".into() }
    }
}

const POLL: Duration = Duration::from_millis(50);
/// A unit that comes up and dies at once is not up.
const SETTLE: Duration = Duration::from_millis(200);
/// Of a question that changes nothing.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of a failed unit's log that are kept.
const JOURNAL_LINES: &str = "10";

/// What systemd says of a unit: systemctl(1), "show".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unit {
    load: String,
    active: String,
    sub: String,
    result: String,
    file: String,
    /// Its full name: `nginx.service` for `nginx`.
    id: String,
}

/// What became of a change.
enum Verified {
    Yes,
    Down(Unit),
    Still(String),
}

/// Why it did not come that far.
enum Stopped {
    Reached(Reached),
    Failed(String),
    NotStarted(String),
}

impl From<Stopped> for ScriptEnd {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Reached(reached) => reached.into(),
            Stopped::Failed(last_line) => Self::Failed { code: None, last_line },
            Stopped::NotStarted(why) => Self::NotStarted { why },
        }
    }
}

impl Systemctl {
    pub(super) async fn start(
        &self,
        services: &[String],
        output: &mut Output,
        limits: &mut Limits,
    ) -> ScriptEnd {
        self.each(services.iter(), Change::Start, output, limits).await
    }

    pub(super) async fn stop(
        &self,
        services: &[String],
        force: bool,
        output: &mut Output,
        limits: &mut Limits,
    ) -> ScriptEnd {
        let change = if force { Change::ForceStop } else { Change::Stop };
        self.each(services.iter().rev(), change, output, limits).await
    }

    pub(super) async fn restart(
        &self,
        services: &[String],
        output: &mut Output,
        limits: &mut Limits,
    ) -> ScriptEnd {
        self.each(services.iter(), Change::Restart, output, limits).await
    }

    /// What an operator should know before safekit takes this service over.
    pub async fn trouble(&self, service: &str) -> Option<ServiceTrouble> {
        match timeout(QUESTION_TIMEOUT, self.look(service)).await {
            Ok(Ok(unit)) => trouble(service, &unit),
            Ok(Err(error)) => Some(ServiceTrouble::Unknown(error)),
            Err(_) => Some(ServiceTrouble::Unknown(format!("systemd does not answer about {service}"))),
        }
    }

    async fn each<'s>(
        &self,
        services: impl Iterator<Item = &'s String>,
        change: Change,
        output: &mut Output,
        limits: &mut Limits,
    ) -> ScriptEnd {
        let mut end = ScriptEnd::Done;
        for service in services {
            match self.one(service, change, output, limits).await {
                Ok(()) => output.say(&format!("[safekit: {service} is {}]", change.wanted())),
                Err(stopped) => {
                    let failed = ScriptEnd::from(stopped);
                    output.say(&format!("[safekit: {service}: {}]", crate::types::logs::sentence(&failed)));
                    if end == ScriptEnd::Done {
                        end = failed;
                    }
                    // On the way down, the others are still stopped.
                    if change.is_up() || matches!(end, ScriptEnd::TimedOut | ScriptEnd::Killed) {
                        return end;
                    }
                }
            }
        }
        end
    }

    async fn one(
        &self,
        service: &str,
        change: Change,
        output: &mut Output,
        limits: &mut Limits,
    ) -> Result<(), Stopped> {
        let work = self.bring(service, change, output);
        tokio::select! {
            done = work => done,
            reached = limits.reached() => Err(Stopped::Reached(reached)),
        }
    }

    async fn bring(&self, service: &str, change: Change, output: &Output) -> Result<(), Stopped> {
        let begun = clock::now();
        let before = self.look(service).await.map_err(Stopped::NotStarted)?;
        if before.load != "loaded" {
            return match change.is_up() {
                true => Err(Stopped::NotStarted(unusable(service, &before))),
                // What is not there does not run.
                false => Ok(()),
            };
        }
        if before.active == "failed" && change.is_up() {
            // Otherwise systemd's own limit of starts would refuse.
            let _start_says_more = self.call(&["reset-failed", "--", service]).await;
        }
        if change == Change::ForceStop {
            // A unit without processes has nobody to kill.
            let _nobody = self.call(&["kill", "-s", "KILL", "--", service]).await;
        }
        let called = self.call(&[change.verb(), "--", service]).await;
        match self.verify(service, change).await? {
            Verified::Yes => Ok(()),
            Verified::Still(state) => {
                let more = called.err().map(|text| format!(": {text}")).unwrap_or_default();
                Err(Stopped::Failed(format!("{service} is still {state}{more}")))
            }
            Verified::Down(unit) => {
                let since = clock::now().since(begun);
                Err(Stopped::Failed(self.why(service, &unit, called.err(), since, output).await))
            }
        }
    }

    async fn verify(&self, service: &str, change: Change) -> Result<Verified, Stopped> {
        loop {
            let unit = self.look(service).await.map_err(Stopped::Failed)?;
            match (change.is_up(), unit.active.as_str()) {
                (true, "active") => {
                    sleep(SETTLE).await;
                    if self.look(service).await.map_err(Stopped::Failed)?.active == "active" {
                        return Ok(Verified::Yes);
                    }
                }
                (false, "inactive" | "failed") => return Ok(Verified::Yes),
                // On their way; the deadline of the run ends a journey without an end.
                (_, "activating" | "deactivating" | "reloading" | "refreshing") => sleep(POLL).await,
                (true, _) => return Ok(Verified::Down(unit)),
                (false, _) => return Ok(Verified::Still(unit.active)),
            }
        }
    }

    /// The unit's last words, all of them into the log of the run.
    async fn why(
        &self,
        service: &str,
        unit: &Unit,
        complaint: Option<String>,
        since: Duration,
        output: &Output,
    ) -> String {
        let said = self.log(&["-n", JOURNAL_LINES, "-u", service]).await;
        for line in complaint.iter().flat_map(|text| text.lines()).chain(said.lines()) {
            output.say(line);
        }
        let mut text = format!("{service} is {} ({})", unit.active, unit.sub);
        if !unit.result.is_empty() && unit.result != "success" {
            let _infallible = write!(text, ", result {}", unit.result);
        }
        // What its own processes said since; else what systemd said about it. Not by the invocation's id: the journal
        // does not find that of a process which is already gone.
        let since = format!("-{}ms", since.as_millis());
        let own = self.log(&["-n", "1", "--since", &since, &format!("_SYSTEMD_UNIT={}", unit.id)]).await;
        let last = last_line(if own.is_empty() { said.as_bytes() } else { own.as_bytes() });
        if !last.is_empty() {
            let _infallible = write!(text, ": {last}");
        }
        text
    }

    /// Empty where there is no journal.
    async fn log(&self, words: &[&str]) -> String {
        let mut journal = Command::new(&self.journal);
        journal.args(["-o", "cat", "--no-pager", "-q"]).args(words);
        match timeout(QUESTION_TIMEOUT, run(journal)).await {
            Ok(Ok(text)) => text,
            Ok(Err(_)) | Err(_) => String::new(),
        }
    }

    async fn look(&self, service: &str) -> Result<Unit, String> {
        let wanted = "LoadState,ActiveState,SubState,Result,UnitFileState,Id";
        self.call(&["show", "-p", wanted, "--", service]).await.map(|text| parse(&text))
    }

    async fn call(&self, words: &[&str]) -> Result<String, String> {
        if !self.runs.exists() {
            return Err("systemd does not run here, and services need it; use scripts instead".to_owned());
        }
        let mut command = Command::new(&self.program);
        command.args(words).env("SYSTEMD_COLORS", "0");
        run(command).await.map_err(|error| match error.is_empty() {
            true => format!("systemctl {} failed without a word", words.join(" ")),
            false => error,
        })
    }
}

async fn run(mut command: Command) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        format!("cannot run {program}: {error}")
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Start,
    Restart,
    Stop,
    ForceStop,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Stop | Self::ForceStop => "stop",
        }
    }

    fn is_up(self) -> bool {
        matches!(self, Self::Start | Self::Restart)
    }

    fn wanted(self) -> &'static str {
        if self.is_up() { "active" } else { "inactive" }
    }
}

fn unusable(service: &str, unit: &Unit) -> String {
    match unit.load.as_str() {
        "not-found" => format!("systemd knows no unit {service}"),
        "masked" => format!("{service} is masked: systemctl unmask {service}"),
        other => format!("systemd cannot load {service} ({other}): systemctl status {service}"),
    }
}

fn trouble(service: &str, unit: &Unit) -> Option<ServiceTrouble> {
    if unit.load == "loaded" {
        let at_boot = matches!(unit.file.as_str(), "enabled" | "enabled-runtime");
        return at_boot.then_some(ServiceTrouble::StartsByItself);
    }
    let (why, remedy) = match unit.load.as_str() {
        "not-found" => {
            (format!("systemd knows no unit {service}"), format!("systemctl list-unit-files '{service}*'"))
        }
        "masked" => (format!("{service} is masked"), format!("systemctl unmask {service}")),
        other => (format!("systemd cannot load {service} ({other})"), format!("systemctl status {service}")),
    };
    Some(ServiceTrouble::Unusable { why, remedy })
}

/// `KEY=VALUE` lines, in an order of systemd's own.
fn parse(text: &str) -> Unit {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    Unit {
        load: value("LoadState"),
        active: value("ActiveState"),
        sub: value("SubState"),
        result: value("Result"),
        file: value("UnitFileState"),
        id: value("Id"),
    }
}
