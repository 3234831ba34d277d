//! What each scenario promises of the figures. A broken promise is a sentence.

use super::options::{Options, Scenario};
use super::report::Figures;

/// A share differs from its quota by chance too: four standard deviations, and three hundredths of the whole.
const SHARE_SLACK: f64 = 0.03;
/// Fewer connections say nothing about shares.
const SHARE_SAMPLES_MIN: u64 = 200;
/// Three seconds of transition after the detection, and then the client's next retransmission, which backs off up to
/// 3.2 seconds.
const RESET_AFTER_DEATH_MAX_MS: f64 = 7_500.0;
/// A silent client that asks after the transition is reset by return; this is a busy machine's worst.
const RESET_AFTER_PACKET_MAX_MS: f64 = 1_000.0;

pub(super) fn broken(options: &Options, figures: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    let mut promise = |kept: bool, sentence: String| {
        if !kept {
            found.push(sentence);
        }
    };
    let scenario = options.scenario;
    let counts = &figures.broken;
    promise(
        counts.other == 0,
        format!("{} connections broke for a cause other than their node", counts.other),
    );
    promise(
        counts.node_stopped == 0,
        format!("{} connections broke because their node's daemon left", counts.node_stopped),
    );
    promise(
        figures.served_by_two == 0,
        format!("{} segments came from a second node", figures.served_by_two),
    );
    let doubles = figures.double_accepts;
    promise(doubles == 0, format!("{doubles} SYNs were answered by two nodes"));
    let missing = figures.not_opened;
    promise(missing == 0, format!("{missing} attempts never became a connection"));
    promise(figures.held == figures.connections_wanted, format!("only {} are held at the end", figures.held));
    shares(figures).into_iter().for_each(|sentence| promise(false, sentence));
    if scenario == Scenario::Kill {
        kill(options, figures).into_iter().for_each(|sentence| promise(false, sentence));
    }
    if scenario == Scenario::Steady {
        let excluded = figures.false_exclusions;
        promise(excluded == 0, format!("{excluded} times a node was excluded to which nothing had happened"));
    }
    let client = &figures.client;
    promise(
        client.skipped == 0 && client.local_failures == 0,
        format!(
            "the client itself failed: {} skipped, {} local failures",
            client.skipped, client.local_failures
        ),
    );
    found
}

fn kill(options: &Options, figures: &Figures) -> Vec<String> {
    let Some(resets) = &figures.resets_of_the_dead else {
        return vec!["no connection died with its node: nothing was tested".to_owned()];
    };
    let mut found = Vec::new();
    let gap_max = options.profile.gap_max_ms();
    if figures.gap_worst_ms >= gap_max {
        found.push(format!("a gap of {:.0} ms, promised under {gap_max:.0} ms", figures.gap_worst_ms));
    }
    if resets.without_reset > 0 {
        found.push(format!("{} connections of the dead node ended without a reset", resets.without_reset));
    }
    if resets.since_death_max_ms > RESET_AFTER_DEATH_MAX_MS {
        found.push(format!("a reset came {:.0} ms after the death", resets.since_death_max_ms));
    }
    if resets.since_packet_max_ms > RESET_AFTER_PACKET_MAX_MS {
        found.push(format!("a reset came {:.0} ms after the client's packet", resets.since_packet_max_ms));
    }
    found
}

fn shares(figures: &Figures) -> Vec<String> {
    let samples =
        |when: &str| figures.shares.iter().filter(|it| it.when == when).map(|it| it.connections).sum::<u64>();
    let wrong = figures.shares.iter().filter(|share| {
        let count = samples(&share.when);
        let deviation = (share.quota * (1.0 - share.quota) / count.max(1) as f64).sqrt();
        count >= SHARE_SAMPLES_MIN && (share.share - share.quota).abs() > 4.0 * deviation + SHARE_SLACK
    });
    let sentence = |share: &super::report::Share| {
        format!(
            "{} had {:.1} % of the connections {}, and a quota of {:.1} %",
            share.node,
            share.share * 100.0,
            share.when,
            share.quota * 100.0
        )
    };
    wrong.map(sentence).collect()
}
