//! `safekit mirror status`, and what `safekit status` says of copies.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::json;

use super::StatusArgs;
use crate::engine::copies::{role_word, sync_word};
use crate::front::cli::Format;
use crate::front::cli::place::{Told, refused, tell_each};
use crate::front::cli::status::{grouped, plain_table, span, trimmed};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::mirror::{CopyInfo, LatencyInfo, MirrorInfo, ResyncInfo, VerificationInfo};
use crate::types::module::{ModuleInfo, Role, Status};
use crate::types::snapshot::API_VERSION;
use crate::types::{Command, Instant, Reply, Snapshot};

/// While watching, a daemon that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(5);

pub(super) fn status(args: &StatusArgs) -> Exit {
    let result = if args.watch { watch(args) } else { once(args) };
    result.unwrap_or_else(|error| error.report())
}

fn once(args: &StatusArgs) -> Result<Exit, Error> {
    tell_each(&args.asking, &args.place, args.output, &Command::Status, |reply| match reply {
        Reply::Status { snapshot } => Ok(told(args, &snapshot)),
        _ => Err(Error::Unexpected),
    })
}

fn watch(args: &StatusArgs) -> Result<Exit, Error> {
    let mut client = Client::connect(&args.asking.socket())?;
    client.send(&Command::Watch)?;
    loop {
        let Reply::Status { snapshot } = client.receive(SILENCE_MAX)? else { return Err(Error::Unexpected) };
        let told = told(args, &snapshot);
        if told.exit == Exit::Failed {
            return Ok(told.exit);
        }
        let mut screen = std::io::stdout().lock();
        let text = match args.output {
            Format::Table if screen.is_terminal() => format!("\x1b[H\x1b[2J{}\n", told.text),
            Format::Table => told.text + "\n",
            Format::Json => {
                format!("{:#}\n", json!({ "apiVersion": API_VERSION, "mirrors": told.value["mirrors"] }))
            }
        };
        screen.write_all(text.as_bytes()).map_err(Error::Print)?;
    }
}

fn told(args: &StatusArgs, snapshot: &Snapshot) -> Told {
    let wanted = |mirror: &&MirrorInfo| args.module.as_ref().is_none_or(|name| *name == mirror.module);
    let mirrors: Vec<&MirrorInfo> = snapshot.mirrors.iter().filter(wanted).collect();
    if let Some(name) = args.module.as_ref().filter(|_| mirrors.is_empty()) {
        let error = format!("there is no mirror {name} on this node");
        let known: Vec<&str> = snapshot.mirrors.iter().map(|mirror| mirror.module.as_str()).collect();
        let next_step = match known.is_empty() {
            true => "ask a node that has one: `safekit mirror status --all`".to_owned(),
            false => format!("name one of: {}", known.join(", ")),
        };
        let value = json!({ "error": error, "nextStep": next_step });
        // Not every mirror is on every node.
        let (text, exit) = match args.place.all {
            true => (error, Exit::Done),
            false => (String::new(), refused(&error, &next_step)),
        };
        return Told { text, value, exit };
    }
    let pairs = mirrors.iter().filter_map(|mirror| Some((*mirror, module_of(mirror, snapshot)?)));
    let pairs: Vec<(&MirrorInfo, &ModuleInfo)> = pairs.collect();
    let parts: Vec<String> =
        pairs.iter().map(|(mirror, module)| part(mirror, module, snapshot.taken)).collect();
    let text =
        if parts.is_empty() { "there is no mirror on this node".to_owned() } else { parts.join("\n\n") };
    let is_well = |(_, module): &(&MirrorInfo, &ModuleInfo)| module.state.status != Status::NotReady;
    let is_asleep = |(_, module): &(&MirrorInfo, &ModuleInfo)| module.state.role == Role::Stop;
    let exit = match pairs.iter().all(|pair| is_well(pair) || is_asleep(pair)) {
        true => Exit::Done,
        false => Exit::Degraded,
    };
    Told { text, value: json!({ "mirrors": mirrors }), exit }
}

fn module_of<'s>(mirror: &MirrorInfo, snapshot: &'s Snapshot) -> Option<&'s ModuleInfo> {
    snapshot.modules.iter().find(|module| module.name == mirror.module)
}

/// One mirror, without a newline at its end.
fn part(mirror: &MirrorInfo, module: &ModuleInfo, taken: Instant) -> String {
    let mut lines = vec![format!(
        "MIRROR {}: {} since {}{}",
        mirror.module,
        module.state,
        span(taken.since(module.since)),
        mirror.process.map(|pid| format!(", process {pid}")).unwrap_or_default()
    )];
    lines.extend(module.causes.iter().map(|cause| format!("  because {cause}")));
    lines.extend(module.next_step.iter().map(|step| format!("  next: {step}")));
    let elsewhere = module.remotes.iter().map(crate::front::cli::module::remote);
    lines.extend(elsewhere.map(|text| format!("  elsewhere: {text}")));
    if mirror.copies.is_empty() {
        return lines.join("\n");
    }
    let mut table =
        plain_table(&["  DIRECTORY", "ROLE", "SYNC", "BEHIND", "WRITE P50/P99", "FLUSH P50/P99", "STALLS"]);
    for copy in &mirror.copies {
        table.add_row([
            format!("  {}", copy.directory),
            role_word(copy.role).to_owned(),
            sync_text(copy),
            behind(copy),
            latency(copy.write_latency),
            latency(copy.flush_latency),
            grouped(copy.stalls),
        ]);
    }
    lines.push(trimmed(&table));
    for copy in &mirror.copies {
        lines.extend(details(copy, taken));
    }
    lines.join("\n")
}

/// The part of `safekit status` about the copies of a module; empty where it has none.
pub fn brief(snapshot: &Snapshot, module: &str) -> String {
    let mirror = snapshot.mirrors.iter().find(|mirror| mirror.module == module);
    let Some(mirror) = mirror.filter(|mirror| !mirror.copies.is_empty()) else { return String::new() };
    let mut table = plain_table(&["  DIRECTORY", "ROLE", "SYNC", "BEHIND"]);
    for copy in &mirror.copies {
        let directory = format!("  {}", copy.directory);
        table.add_row([directory, role_word(copy.role).to_owned(), sync_text(copy), behind(copy)]);
    }
    format!("{}\n", trimmed(&table))
}

fn sync_text(copy: &CopyInfo) -> String {
    let word = sync_word(copy.sync);
    let left = copy.resync.as_ref().filter(|it| it.ended.is_none()).and_then(|it| it.left_ms);
    match left {
        Some(ms) => format!("{word}, about {} left", span(Duration::from_millis(ms))),
        None if copy.frozen => format!("{word}, frozen"),
        None => word.to_owned(),
    }
}

fn behind(copy: &CopyInfo) -> String {
    match (copy.behind_operations, copy.behind_bytes) {
        (0, 0) => "nothing".to_owned(),
        (operations, size) => format!("{} operations, {}", grouped(operations), bytes(size)),
    }
}

fn latency(of: LatencyInfo) -> String {
    match of.count {
        0 => "-".to_owned(),
        _ => format!("{} / {}", micros(of.p50_us), micros(of.p99_us)),
    }
}

fn details(copy: &CopyInfo, taken: Instant) -> Vec<String> {
    let generation =
        copy.generation.map_or_else(|| "none yet".to_owned(), |generation| format!("{:016x}", generation.0));
    let connected = if copy.connected { "connected" } else { "not connected" };
    let mut lines = vec![format!(
        "  {}: generation {generation}, {connected}, {} regions recorded, {} sent, {} received, {} frames refused",
        copy.directory,
        grouped(copy.recorded_regions),
        bytes(copy.sent_bytes),
        bytes(copy.received_bytes),
        grouped(copy.refused),
    )];
    lines.extend(copy.cannot_lead.iter().map(|why| format!("    cannot serve: {why}")));
    lines.extend(copy.resync.as_ref().map(|it| format!("    {}", resync(it, taken))));
    lines.extend(copy.verification.as_ref().map(|it| format!("    {}", verification(it, taken))));
    lines
}

fn resync(it: &ResyncInfo, taken: Instant) -> String {
    let what = if it.everything { "all of it" } else { "what was recorded" };
    let done = format!("{} objects, {}", grouped(it.files), bytes(it.bytes));
    match it.ended {
        Some(ended) => format!(
            "last resynchronisation {} ago, of {what}: {done} in {}",
            span(taken.since(ended)),
            span(ended.since(it.since))
        ),
        None => format!(
            "resynchronisation of {what} for {}: pass {}, {done}, {}/s, {} regions left{}",
            span(taken.since(it.since)),
            it.passes,
            bytes(it.bytes_per_second),
            grouped(it.regions),
            it.left_ms.map(|ms| format!(", about {}", span(Duration::from_millis(ms)))).unwrap_or_default()
        ),
    }
}

pub(super) fn verification(it: &VerificationInfo, taken: Instant) -> String {
    let done = format!("{} objects, {}", grouped(it.objects), bytes(it.bytes));
    let differing = match it.differing {
        0 => "all equal".to_owned(),
        1 => "1 differed".to_owned(),
        count => format!("{} differed", grouped(count)),
    };
    match (it.ended, it.complete) {
        (Some(ended), true) => {
            format!("last verification {} ago: {done}, {differing}", span(taken.since(ended)))
        }
        (Some(ended), false) => {
            format!(
                "last verification {} ago, broken off: {done}, {differing} so far",
                span(taken.since(ended))
            )
        }
        (None, _) => {
            format!("verification for {}: {done}, {differing} so far", span(taken.since(it.since)))
        }
    }
}

/// `34.0 KiB`
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "bytes" { format!("{count} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn micros(count: u64) -> String {
    match count {
        0..1000 => format!("{count} µs"),
        1000..1_000_000 => format!("{:.1} ms", count as f64 / 1e3),
        _ => format!("{:.1} s", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        for (count, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (34 * 1024, "34.0 KiB"),
            (5 << 30, "5.0 GiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (count, expected) in [(80, "80 µs"), (1234, "1.2 ms"), (2_500_000, "2.5 s")] {
            assert_eq!(micros(count), expected);
        }
    }

    #[test]
    fn a_verification_that_was_broken_off_says_so() {
        let it = VerificationInfo {
            since: Instant(0),
            ended: Some(Instant(1_000_000_000)),
            complete: false,
            objects: 1234,
            bytes: 1 << 20,
            differing: 1,
        };
        let text = verification(&it, Instant(3_000_000_000));
        assert_eq!(
            text,
            "last verification 2.0 s ago, broken off: 1,234 objects, 1.0 MiB, 1 differed so far"
        );
        assert_eq!(
            verification(&VerificationInfo { complete: true, differing: 0, ..it }, Instant(3_000_000_000)),
            "last verification 2.0 s ago: 1,234 objects, 1.0 MiB, all equal"
        );
    }
}
