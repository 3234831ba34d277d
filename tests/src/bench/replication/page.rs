//! The figures as tables for people.

use std::fmt::Write as _;

use super::cases::{Case, CaseFigure};
use super::report::{Report, figure_of, mebibytes};
use super::resync::{Change, Comparing, Copying};
use super::subject::ALL;
use crate::bench::Spread;
use crate::bench::page::{goals, machine, shown};

/// Of its figures in the results page.
pub const MARK: &str = "bench replication";

pub fn markdown(report: &Report) -> String {
    let mut text = machine(&report.machine, report.rounds);
    _ = writeln!(text, "File system: {}.", report.file_system);
    if !report.goals.is_empty() {
        text.push('\n');
        text.push_str(&goals(&report.goals));
    }
    let sections =
        [ratios(report), rates(report), processor_time(report), transports(report), resync(report)];
    for section in sections.iter().filter(|section| !section.is_empty()) {
        text.push('\n');
        text.push_str(section);
    }
    text.push_str(&failures(report));
    text
}

/// A row a case, a column a subject.
fn table(report: &Report, title: &str, corner: &str, cell: impl Fn(&CaseFigure) -> String) -> String {
    let subjects: Vec<_> = ALL
        .into_iter()
        .filter(|subject| report.figures.iter().any(|figure| figure.subject == *subject))
        .collect();
    if subjects.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name()).collect();
    let mut text = format!("### {title}\n\n| {corner} | {} |\n|---|", names.join(" | "));
    text.push_str(&"---:|".repeat(subjects.len()));
    text.push('\n');
    for case in Case::ALL {
        let cells: Vec<String> = subjects
            .iter()
            .map(|subject| figure_of(&report.figures, *subject, case).map_or("-".to_owned(), &cell))
            .collect();
        _ = writeln!(text, "| {} | {} |", case.name(), cells.join(" | "));
    }
    text
}

fn ratios(report: &Report) -> String {
    let two = |ratio: Option<Spread>| ratio.map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median));
    table(report, "Speed, to the plain directory / to GlusterFS", "", |figure| {
        format!("{} / {}", two(figure.to_plain), two(figure.to_gluster))
    })
}

fn rates(report: &Report) -> String {
    table(report, "Speed", "a second", |figure| {
        let digits = if figure.per_second.median < 100.0 { 1 } else { 0 };
        format!("{} {}", shown(figure.per_second, 1.0, digits), figure.case.unit())
    })
}

fn processor_time(report: &Report) -> String {
    table(
        report,
        "Processor time of the whole machine, us",
        "for one MiB, write, read, file, transaction",
        |figure| shown(figure.cpu_us, 1.0, if figure.cpu_us.median < 10.0 { 1 } else { 0 }),
    )
}

fn transports(report: &Report) -> String {
    if report.figures.is_empty() {
        return String::new();
    }
    let mut text = "### How file requests arrive\n\n| | transport |\n|---|---|\n".to_owned();
    for figure in &report.figures {
        let transport = figure.transport.as_deref().unwrap_or("none: the kernel's file system");
        _ = writeln!(text, "| {} | {transport} |", figure.subject.name());
    }
    text
}

fn resync(report: &Report) -> String {
    let resync = &report.resync;
    if resync.copying.is_none() && resync.change.is_none() && resync.comparing.is_none() {
        return String::new();
    }
    let mut text = "### Resynchronisation\n\n| | safekit | rival |\n|---|---:|---:|\n".to_owned();
    text.push_str(&resync.copying.map(copying).unwrap_or_default());
    text.push_str(&resync.change.map(change).unwrap_or_default());
    text.push_str(&resync.comparing.map(comparing).unwrap_or_default());
    text
}

fn copying(it: Copying) -> String {
    let rate = |seconds: Spread| format!("{:.0} MiB/s", mebibytes(it.bytes) / seconds.median);
    let ours = it.seconds.map_or("-".to_owned(), rate);
    format!(
        "| {:.0} MiB in {} files, to an empty node | {ours} | {} (cp and sync) |\n",
        mebibytes(it.bytes),
        it.files,
        rate(it.plain_seconds)
    )
}

fn change(it: Change) -> String {
    format!(
        "| {:.0} MiB changed of {:.0} MiB: on the wire | {:.2} MiB, {:.2} of them sent by the daemon that serves | |\n\
         | … time, and from the start of the module on | {:.2} s, {:.1} s | |\n",
        mebibytes(it.changed_bytes),
        mebibytes(it.file_bytes),
        mebibytes(it.wire_bytes),
        mebibytes(it.sent_bytes),
        it.seconds,
        it.seconds_from_start
    )
}

fn comparing(it: Comparing) -> String {
    let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    format!(
        "| {} files of 4 KiB: all compared | {} | {} (rsync -c) |\n| … copied to an empty node | {} | {} (cp and sync) |\n",
        it.files,
        seconds(it.seconds),
        seconds(Some(it.rsync_seconds)),
        seconds(it.copy_seconds),
        seconds(Some(it.plain_copy_seconds))
    )
}

fn failures(report: &Report) -> String {
    let of_cases = report.failures.iter().map(|failure| {
        let case = failure.case.map_or(String::new(), |case| format!(": {}", case.name()));
        (format!("{}{case}", failure.subject.name()), failure.why.as_str())
    });
    let of_resync =
        report.resync.failures.iter().map(|failure| (failure.part.to_owned(), failure.why.as_str()));
    not_measured(of_cases.chain(of_resync))
}

/// What a reader would look for in vain, each reason once.
fn not_measured<'a>(failures: impl Iterator<Item = (String, &'a str)>) -> String {
    let mut reasons: Vec<(Vec<String>, &str)> = Vec::new();
    for (what, why) in failures {
        match reasons.iter_mut().find(|(_, known)| *known == why) {
            Some((whats, _)) => whats.push(what),
            None => reasons.push((vec![what], why)),
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    let one_line = |why: &str| why.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> =
        reasons.iter().map(|(whats, why)| format!("{}: {}", whats.join("; "), one_line(why))).collect();
    format!("\n### Not measured\n\n- {}\n", lines.join("\n- "))
}

#[cfg(test)]
mod tests {
    use super::not_measured;

    #[test]
    fn a_reason_is_said_once_and_on_one_line() {
        let failures = [("one", "no\n  mirror"), ("two", "late"), ("three", "no\n  mirror")];
        let said = not_measured(failures.into_iter().map(|(what, why)| (what.to_owned(), why)));
        assert_eq!(said, "\n### Not measured\n\n- one; three: no mirror\n- two: late\n");
        assert_eq!(not_measured(std::iter::empty()), "");
    }
}
