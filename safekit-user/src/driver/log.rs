//! Where the daemon's log goes: to standard error, or to journald as entries with fields where that is the same place.

use std::io::{self, IsTerminal as _};

use rustix::fs::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const FILTER: &str = "SAFEKIT_LOG";
/// Device and inode of what systemd made standard error: systemd.exec(5).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// Of the fields of an entry: `SAFEKIT_MODULE`, `SAFEKIT_KIND`, `SAFEKIT_CAUSE`.
const FIELD_PREFIX: &str = "SAFEKIT";
/// What events and commands say in their sentences too: a person need not read it twice.
const SAID: [&str; 7] = ["module", "kind", "cause", "who", "from", "command", "result"];
/// As syslog(3) names the levels; what is for developers alone is all debug.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// Once, before the first word.
pub fn install() {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = is_read_by_journald().then(tracing_journald::layer).and_then(Result::ok);
    let journal = journal.map(|layer| {
        let layer = layer.with_field_prefix(Some(FIELD_PREFIX.to_owned()));
        layer.with_priority_mappings(PRIORITIES).with_syslog_identifier("safekit".to_owned())
    });
    let text = journal.is_none().then(|| {
        let fields = debug_fn(|writer, field, value| match field.name() {
            "message" => write!(writer, "{value:?}"),
            name if SAID.contains(&name) => Ok(()),
            name => write!(writer, " {name}={value:?}"),
        });
        tracing_subscriber::fmt::layer()
            .fmt_fields(fields)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
    });
    tracing_subscriber::registry().with(filter).with(journal).with(text).init();
}

/// The variable alone proves nothing: whoever is started by a service has it too, wherever its own words go.
fn is_read_by_journald() -> bool {
    let Ok(stream) = std::env::var(JOURNAL_STREAM) else { return false };
    fstat(io::stderr()).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}
