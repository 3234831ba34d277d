//! The figures as tables for people: on a terminal, and in the results page between its marks.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::Spread;
use super::cases::{Contestant, Figure, Latency, Throughput};
use super::dropping::{self, KINDS, Kind};
use super::report::{Goal, Machine, Report, dropping_ratios, request_figure};

/// Of the farm's figures in the results page.
pub const MARK: &str = "bench farm";

/// `page` with `figures` between the marks of that name.
pub fn filled(page: &str, mark: &str, figures: &str) -> Result<String> {
    let [begin, end] = ["begin", "end"].map(|place| format!("<!-- {mark}: {place} -->\n"));
    let missing = |place| format!("the page has no mark where the figures of `{mark}` {place}");
    let (before, rest) = page.split_once(&begin).with_context(|| missing("begin"))?;
    let (_, after) = rest.split_once(&end).with_context(|| missing("end"))?;
    Ok(format!("{before}{begin}{figures}{end}{after}"))
}

pub fn markdown(report: &Report) -> String {
    let mut text = machine(&report.machine, report.amount.rounds);
    for section in [
        goals(&report.goals),
        frames(report),
        requests(report),
        latencies(report),
        parts(report),
        kills(report),
    ] {
        text.push('\n');
        text.push_str(&section);
    }
    text
}

pub(super) fn machine(machine: &Machine, rounds: usize) -> String {
    let rounds = if rounds == 1 { "one round".to_owned() } else { format!("{rounds} interleaved rounds") };
    format!(
        "Linux {}, {} x {}, build {}; {rounds}, medians, lowest and highest round in brackets; load average before the \
         end {}.\nPackages: {}.\n",
        machine.kernel,
        machine.processors,
        machine.processor,
        machine.build,
        machine.load_average,
        machine.packages.join(", ")
    )
}

pub(super) fn goals(goals: &[Goal]) -> String {
    let mut text = "### Goals\n\n| goal | bar | measured | |\n|---|---:|---:|---|\n".to_owned();
    for goal in goals {
        let met = if goal.met { "met" } else { "missed" };
        _ = writeln!(text, "| {} | {:.2} | {:.2} | {met} |", goal.goal, goal.bar, goal.measured);
    }
    text
}

fn frames(report: &Report) -> String {
    if report.frames.is_empty() {
        return String::new();
    }
    let mut text = "### Dropping another node's frames, one core\n".to_owned();
    for kind in KINDS {
        let of = match kind {
            Kind::Established => "of established connections (ACK)",
            Kind::Opening => "that open connections (SYN)",
        };
        if let Some([native, generic]) = dropping_ratios(&report.frames, kind) {
            _ = writeln!(
                text,
                "\nFrames {of}: {native:.1} x xt_cluster in the driver, {generic:.1} x in the stack.\n"
            );
        }
        text.push_str("| dropped by | million frames/s | CPU ns a frame |\n|---|---:|---:|\n");
        for figure in report.frames.iter().filter(|figure| figure.kind == kind) {
            text.push_str(&frame_line(figure));
        }
    }
    text
}

fn frame_line(figure: &dropping::Figure) -> String {
    let rate = shown(figure.packets_per_second, 1e-6, 1);
    format!("| {} | {rate} | {} |\n", figure.contestant.name(), shown(figure.cpu_ns_per_packet, 1.0, 0))
}

fn requests(report: &Report) -> String {
    let mut text = String::new();
    type Part = fn(&Figure) -> &Throughput;
    let kinds: [(&str, Part); 2] = [
        ("Requests on standing connections", |figure| &figure.keep_alive),
        ("A connection for each request", |figure| &figure.fresh),
    ];
    for (title, of) in kinds {
        _ = writeln!(
            text,
            "### {title}\n\n| | CPU to direct | CPU us a request | by /proc/stat | requests/s | client's CPU | failed |\n\
             |---|---:|---:|---:|---:|---:|---:|"
        );
        for figure in &report.requests {
            let it = of(figure);
            _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {:.0} % | {} |",
                figure.contestant.name(),
                shown(it.cpu_to_direct, 1.0, 2),
                shown(it.cpu_us_per_request, 1.0, 1),
                shown(it.machine_cpu_us_per_request, 1.0, 1),
                shown(it.requests_per_second, 1.0, 0),
                it.client_share.median * 100.0,
                it.failed
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn latencies(report: &Report) -> String {
    let mut text = "### Latency, one at a time, in microseconds\n\n| | added p50 | added p99 | p50 | p99 | fresh: added p50 \
                    | added p99 | p50 | p99 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let cells = |latency: &Latency| {
        let spreads = [latency.added_p50_us, latency.added_p99_us, latency.p50_us, latency.p99_us];
        spreads.map(|spread| shown(spread, 1.0, 0)).join(" | ")
    };
    for figure in &report.requests {
        let (standing, fresh) = (cells(&figure.latency), cells(&figure.latency_fresh));
        _ = writeln!(text, "| {} | {standing} | {fresh} |", figure.contestant.name());
    }
    text
}

fn parts(report: &Report) -> String {
    let mut text = String::new();
    if let Some(parts) = report.parts {
        let share = |part: f64| part / parts.direct * 100.0;
        _ = writeln!(
            text,
            "### Where the farm's processor time goes\n\n| a request on a standing connection | CPU us | of direct |\n\
             |---|---:|---:|\n\
             | direct access | {:.2} | 100 % |\n\
             | the software switch floods, two stacks drop | {:.2} | {:+.1} % |\n\
             | three daemons, as when idle | {:.2} | {:+.1} % |\n\
             | the filters, in the stack, instead of the stacks' own drop | {:.2} | {:+.1} % |",
            parts.direct,
            parts.flooding,
            share(parts.flooding),
            parts.daemons,
            share(parts.daemons),
            parts.filter,
            share(parts.filter)
        );
    }
    if let Some(ours) = request_figure(&report.requests, Contestant::Ours) {
        let idle = shown(ours.idle_processors, 100.0, 1);
        _ = writeln!(text, "\nThree daemons with nothing to do take {idle} % of one processor together.");
    }
    text.trim_start().to_owned()
}

fn kills(report: &Report) -> String {
    if report.kills.is_empty() {
        return String::new();
    }
    let mut text = "### Time without service after the active machine is switched off\n\n\
                    | | away, ms | attempts lost meanwhile |\n|---|---:|---:|\n"
        .to_owned();
    for figure in &report.kills {
        let (away, lost) = (shown(figure.away_ms, 1.0, 0), shown(figure.failed_share, 100.0, 0));
        _ = writeln!(text, "| {} | {away} | {lost} % |", figure.contestant.name());
    }
    text
}

/// The median, and the range in brackets.
pub(super) fn shown(spread: Spread, scale: f64, digits: usize) -> String {
    let Spread { median, min, max } = spread;
    if min == max {
        return format!("{:.digits$}", median * scale);
    }
    format!("{:.digits$} ({:.digits$}-{:.digits$})", median * scale, min * scale, max * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_replace_what_stood_between_the_marks() {
        let between = |text| format!("# Title\n<!-- it: begin -->\n{text}\n<!-- it: end -->\nafter\n");
        let new = filled(&between("old"), "it", "new\n").unwrap();
        assert_eq!(new, between("new"));
        assert_eq!(filled(&new, "it", "new\n").unwrap(), new);
        assert!(filled(&new, "another", "new\n").is_err());
    }

    #[test]
    fn a_spread_is_shown_with_its_range() {
        let spread = Spread { median: 1500.0, min: 1000.0, max: 2250.0 };
        assert_eq!(shown(spread, 1e-3, 2), "1.50 (1.00-2.25)");
        assert_eq!(shown(Spread { median: 1.0, min: 1.0, max: 1.0 }, 1.0, 0), "1");
    }
}
