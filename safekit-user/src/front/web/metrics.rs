//! Which figures of a snapshot are served, and what they are called. Pure.
//!
//! Names have the program's prefix and base units. Labels are names of the configuration and words of the program: their
//! number is bounded by the configuration, never by clients.

use super::exposition::{Form, Kind, Page};
use super::mirrors::mirrors;
use crate::types::Snapshot;
use crate::types::cluster::LinksInfo;
use crate::types::module::{ModuleInfo, ResourceState};
use crate::types::snapshot::{FarmInfo, GroupInfo, MemberState, NodeInfo, Verdict};
use Kind::{Counter, Gauge, Info};

const STATES: [&str; 4] = ["joining", "announce", "active", "leaving"];
const VERDICTS: [&str; 5] = ["converged", "converging", "degraded", "split", "down"];
const ROLES: [&str; 6] = ["STOP", "WAIT", "UP", "ALONE", "PRIM", "SECOND"];
const STATUSES: [&str; 3] = ["NotReady", "Transient", "Ready"];

pub(super) fn page(snapshot: &Snapshot, form: Form) -> String {
    let mut page = Page::new(form);
    program(&mut page, snapshot);
    cluster(&mut page, snapshot);
    heartbeat(&mut page, snapshot);
    nodes(&mut page, &snapshot.nodes);
    links(&mut page, &snapshot.links);
    farms(&mut page, snapshot);
    tables(&mut page, snapshot);
    modules(&mut page, snapshot);
    mirrors(&mut page, &snapshot.mirrors, snapshot.taken);
    checks(&mut page, snapshot);
    scripts(&mut page, &snapshot.modules);
    page.finish()
}

fn program(page: &mut Page, snapshot: &Snapshot) {
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    page.family(Info, "build", "The program that runs.").sample(&labels, 1);
    let labels = [("cluster", snapshot.cluster.as_str()), ("node", snapshot.node.as_str())];
    page.family(Info, "node", "The cluster and this node of it.").sample(&labels, 1);
    let config = &snapshot.links.config;
    let labels = [("hash", config.hash.as_str())];
    page.family(Info, "config_hash", "The text of the configuration that this node runs with.")
        .sample(&labels, 1);
    page.family(Gauge, "config_version", "Number of the applied configuration; 0: none was applied yet.")
        .sample(&[], config.version.number);
}

fn cluster(page: &mut Page, snapshot: &Snapshot) {
    let state = match snapshot.state {
        MemberState::Joining => "joining",
        MemberState::Announce => "announce",
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
    };
    page.family(Gauge, "node_state", "Membership of this node as it announces it.").one_of(
        &[],
        "state",
        &STATES,
        state,
    );
    let verdict = match snapshot.verdict {
        Verdict::Converged => "converged",
        Verdict::Converging => "converging",
        Verdict::Degraded => "degraded",
        Verdict::Split => "split",
        Verdict::Down => "down",
    };
    page.family(Gauge, "cluster_verdict", "First word of `safekit status`.").one_of(
        &[],
        "verdict",
        &VERDICTS,
        verdict,
    );
    page.family(Gauge, "cluster_converged", "Every node is a member and every bucket has its owner.")
        .sample(&[], u8::from(snapshot.verdict == Verdict::Converged));
    page.family(Gauge, "cluster_nodes", "Nodes of the configuration.").sample(&[], snapshot.nodes.len());
    let members = snapshot.nodes.iter().filter(|node| node.member).count();
    page.family(Gauge, "cluster_members", "Nodes in this node's view, itself included.").sample(&[], members);
    page.family(Gauge, "cluster_epoch", "Number of this node's view.").sample(&[], snapshot.view.0);
    let age = snapshot.taken.since(snapshot.view_since).as_secs_f64();
    page.family(Gauge, "cluster_view_age_seconds", "Time since the members last changed.").sample(&[], age);
    page.family(Gauge, "cluster_adjustments", "How often weights and drains have been changed.")
        .sample(&[], snapshot.generation);
    page.family(Gauge, "cluster_changing", "A change of weights or drains is under way.")
        .sample(&[], u8::from(snapshot.changing));
    page.family(Gauge, "warnings", "What somebody should look at: the WARNING lines of `safekit status`.")
        .sample(&[], snapshot.warnings.len());
}

fn heartbeat(page: &mut Page, snapshot: &Snapshot) {
    let heartbeat = &snapshot.heartbeat;
    page.family(Gauge, "heartbeat_interval_seconds", "Between two heartbeats.")
        .sample(&[], seconds(heartbeat.interval_ms));
    page.family(Gauge, "heartbeat_timeout_seconds", "Silence after which a node is taken for dead.")
        .sample(&[], seconds(heartbeat.timeout_ms));
    page.family(Gauge, "heartbeat_lease_seconds", "How long this node serves without its peers' answers.")
        .sample(&[], seconds(heartbeat.lease_ms));
    page.family(Gauge, "heartbeat_lateness_max_seconds", "Worst lateness of a heartbeat in the last minute.")
        .sample(&[], heartbeat.lateness_max_us as f64 / 1e6);
    page.family(Gauge, "heartbeat_realtime", "The heartbeat has real-time priority and locked memory.")
        .sample(&[], u8::from(heartbeat.realtime));
    page.family(
        Counter,
        "heartbeat_rejected",
        "Datagrams on the heartbeat port that were not of this cluster.",
    )
    .sample(&[], heartbeat.rejected);
    page.family(Counter, "heartbeat_unsent", "Heartbeats that could not be sent.")
        .sample(&[], heartbeat.unsent);
}

fn nodes(page: &mut Page, nodes: &[NodeInfo]) {
    let mut each = |name, help, value: &dyn Fn(&NodeInfo) -> Option<f64>| {
        let mut family = page.family(Gauge, name, help);
        for node in nodes {
            if let Some(value) = value(node) {
                family.sample(&[("node", &node.name)], value);
            }
        }
    };
    each("node_member", "The node is in this node's view.", &|it| Some(flag(it.member)));
    each("node_heard_age_seconds", "Time since the node was last heard.", &|it| it.heard_ms.map(seconds));
    each("node_same_config", "The node says that it goes by this node's configuration.", &|it| {
        it.same_config.map(flag)
    });
    each("node_drained", "The node takes no new sessions.", &|it| Some(flag(it.drained)));
    each("node_connections", "Live connections that the node counted last.", &|it| {
        it.connections.map(|count| count as f64)
    });
    each("node_drain_left_connections", "Live connections that a drain still waits for.", &|it| {
        it.drain.map(|drain| drain.left as f64)
    });
}

fn links(page: &mut Page, links: &LinksInfo) {
    let mut family = page.family(Gauge, "link_connected", "The encrypted connection to the node is up.");
    for link in &links.nodes {
        family.sample(&[("node", &link.node)], u8::from(link.connected));
    }
    let mut family = page.family(Gauge, "link_heard_age_seconds", "Time since the node said how it is.");
    for link in &links.nodes {
        if let Some(heard_ms) = link.heard_ms {
            family.sample(&[("node", &link.node)], seconds(heard_ms));
        }
    }
    let mut family = page.family(Gauge, "link_same_config_text", "The node runs with the same text.");
    for link in &links.nodes {
        if let Some(config) = &link.config {
            family.sample(&[("node", &link.node)], u8::from(config.hash == links.config.hash));
        }
    }
    let mut family =
        page.family(Counter, "link_refused", "Connections and frames of nodes that were refused.");
    for refused in &links.refused {
        family.sample(&[("reason", &refused.reason)], refused.count);
    }
}

fn farms(page: &mut Page, snapshot: &Snapshot) {
    let mut family = page.family(Counter, "farm_packets", "Packets to the farm, by what became of them.");
    for farm in &snapshot.farms {
        for counter in &farm.counters {
            family.sample(&[("module", &farm.module), ("reason", &counter.reason)], counter.packets);
        }
    }
    let mut family = page.family(Info, "farm_virtual_ip", "How packets to a virtual IP are looked at.");
    for farm in &snapshot.farms {
        for vip in &farm.virtual_ips {
            let address = vip.address.to_string();
            let labels = [
                ("module", farm.module.as_str()),
                ("virtual_ip", &address),
                ("interface", &vip.interface),
                ("xdp_mode", &vip.xdp_mode),
            ];
            family.sample(&labels, 1);
        }
    }
    let mut family =
        page.family(Gauge, "farm_undelivered", "Nodes whose frames to a virtual MAC do not arrive.");
    for missing in &snapshot.undelivered {
        let address = missing.virtual_ip.to_string();
        family.sample(&[("virtual_ip", &address), ("to", &missing.to)], missing.from.len());
    }
}

/// What there is for each rule group.
fn tables(page: &mut Page, snapshot: &Snapshot) {
    let names: Vec<&str> = snapshot.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut family = page.family(Gauge, "farm_buckets", "Buckets of the node, as this node's view has it.");
    each_group(&snapshot.farms, |module, number, group| {
        for (node, share) in names.iter().zip(&group.shares) {
            family.sample(&[("module", module), ("group", number), ("node", node)], share);
        }
    });
    let mut family = page.family(Gauge, "farm_weight", "Weight in force; in a cascade the place in line.");
    each_group(&snapshot.farms, |module, number, group| {
        for (node, weight) in names.iter().zip(&group.weights) {
            family.sample(&[("module", module), ("group", number), ("node", node)], weight);
        }
    });
    let mut family =
        page.family(Gauge, "farm_health_ratio", "What health leaves of the node's part, as agreed.");
    each_group(&snapshot.farms, |module, number, group| {
        for (node, health) in names.iter().zip(&group.health) {
            family.sample(&[("module", module), ("group", number), ("node", node)], percent(*health));
        }
    });
    let mut each = |name, help, value: &dyn Fn(&GroupInfo) -> f64| {
        let mut family = page.family(Gauge, name, help);
        each_group(&snapshot.farms, |module, number, group| {
            family.sample(&[("module", module), ("group", number)], value(group));
        });
    };
    each("farm_owned_buckets", "Buckets that this node accepts.", &|it| it.owned.into());
    each("farm_transitional_buckets", "Buckets that have just come to this node.", &|it| {
        it.transitional.into()
    });
    each("farm_held_connections", "Connections of this node in buckets of other nodes.", &|it| {
        it.held_connections as f64
    });
    each("farm_table_apply_seconds", "From the last decision to the table in the kernel.", &|it| {
        it.apply_us as f64 / 1e6
    });
    each("farm_table_age_seconds", "Time since the table in the kernel last changed.", &|it| {
        snapshot.taken.since(it.applied).as_secs_f64()
    });
}

fn each_group(farms: &[FarmInfo], mut work: impl FnMut(&str, &str, &GroupInfo)) {
    for farm in farms {
        for group in &farm.groups {
            work(&farm.module, &group.group.to_string(), group);
        }
    }
}

fn modules(page: &mut Page, snapshot: &Snapshot) {
    let all = &snapshot.modules;
    let mut family = page.family(Gauge, "module_role", "What the module does on this node.");
    for module in all {
        family.one_of(&[("module", &module.name)], "role", &ROLES, module.state.role.word());
    }
    let mut family = page.family(Gauge, "module_status", "How far it is with that.");
    for module in all {
        family.one_of(&[("module", &module.name)], "status", &STATUSES, module.state.status.word());
    }
    let mut each = |kind, name, help, value: &dyn Fn(&ModuleInfo) -> Option<f64>| {
        let mut family = page.family(kind, name, help);
        for module in all {
            if let Some(value) = value(module) {
                family.sample(&[("module", &module.name)], value);
            }
        }
    };
    each(Gauge, "module_state_age_seconds", "Time since its state last changed.", &|it| {
        Some(snapshot.taken.since(it.since).as_secs_f64())
    });
    each(Counter, "module_starts", "How often it was started.", &|it| Some(it.starts as f64));
    each(Gauge, "module_loops", "Automatic actions that count towards max_loop now.", &|it| {
        Some(it.loops.into())
    });
    each(
        Gauge,
        "module_loops_max",
        "As configured by max_loop; the next action after so many stops it.",
        &|it| Some(it.loops_max.into()),
    );
    each(Gauge, "module_share_ratio", "What its checks leave of this node's share.", &|it| {
        it.share.map(percent)
    });
    each(Gauge, "module_maintenance", "Its checks are switched off.", &|it| {
        Some(flag(it.maintenance.is_some()))
    });
}

fn checks(page: &mut Page, snapshot: &Snapshot) {
    let all = || snapshot.modules.iter().flat_map(|it| it.checks.iter().map(move |check| (&*it.name, check)));
    let mut family = page.family(Gauge, "check_up", "What the check found; left out while it is not known.");
    for (module, check) in all() {
        let labels = [("module", module), ("check", check.name.as_str()), ("kind", check.kind.as_str())];
        match check.state {
            ResourceState::Up => _ = family.sample(&labels, 1),
            ResourceState::Down => _ = family.sample(&labels, 0),
            ResourceState::Init | ResourceState::Unknown => {}
        }
    }
    let mut family = page.family(Gauge, "check_active", "It runs in the module's present state.");
    for (module, check) in all() {
        let labels = [("module", module), ("check", check.name.as_str()), ("kind", check.kind.as_str())];
        family.sample(&labels, u8::from(check.active));
    }
    let mut family = page.family(Gauge, "check_duration_seconds", "How long its last try took.");
    for (module, check) in all() {
        let labels = [("module", module), ("check", check.name.as_str()), ("kind", check.kind.as_str())];
        if let Some(took_ms) = check.took_ms {
            family.sample(&labels, seconds(took_ms));
        }
    }
}

fn scripts(page: &mut Page, modules: &[ModuleInfo]) {
    let all = || modules.iter().flat_map(|it| it.scripts.iter().map(move |script| (&*it.name, script)));
    let mut family = page.family(Counter, "script_runs", "Runs of the script that have ended.");
    for (module, script) in all() {
        family.sample(&[("module", module), ("script", &script.script)], script.runs);
    }
    let mut family = page.family(Counter, "script_failures", "Runs of the script that did not end well.");
    for (module, script) in all() {
        family.sample(&[("module", module), ("script", &script.script)], script.failed);
    }
    let mut family = page.family(Counter, "script_duration_seconds", "Time that its runs took together.");
    for (module, script) in all() {
        family.sample(&[("module", module), ("script", &script.script)], seconds(script.took_ms));
    }
    let mut family = page.family(Gauge, "script_last_duration_seconds", "Time that its last run took.");
    for (module, script) in all() {
        family.sample(&[("module", module), ("script", &script.script)], seconds(script.took_ms_last));
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn percent(value: u8) -> f64 {
    f64::from(value) / 100.0
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::sample::snapshot;
    use super::*;

    /// Scrapers and alerts know these names: what changes here changes for them.
    #[test]
    fn the_page_of_a_known_snapshot_is_pinned() {
        let page = page(&snapshot(), Form::OpenMetrics);
        let golden = include_str!("metrics.txt");
        for (number, (line, expected)) in page.lines().zip(golden.lines()).enumerate() {
            assert_eq!(line, expected, "line {} of\n{page}", number + 1);
        }
        assert_eq!(page.lines().count(), golden.lines().count(), "{page}");
    }

    /// OpenMetrics 1.0: families in one piece each, no sample twice, counters that end in `_total`.
    #[test]
    fn families_are_whole_and_no_sample_is_there_twice() {
        for form in [Form::OpenMetrics, Form::Text] {
            let page = page(&snapshot(), form);
            let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
            let mut present = "";
            for line in page.lines() {
                if let Some(declared) = line.strip_prefix("# TYPE ") {
                    present = declared.split(' ').next().expect("a type has a name");
                    assert!(families.insert(present), "{present} begins twice");
                } else if !line.starts_with('#') {
                    let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
                    assert!(sample.starts_with(present), "{line} is not of {present}");
                    assert!(samples.insert(sample), "{sample} is there twice");
                    assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                }
            }
            assert!(page.ends_with("\n# EOF\n"), "{page}");
        }
    }

    #[test]
    fn nothing_secret_is_served() {
        let mut snapshot = snapshot();
        snapshot.modules[0].causes = vec!["hunter2".to_owned()];
        snapshot.modules[0].checks[0].output = "hunter2".to_owned();
        snapshot.links.nodes[0].how = "hunter2".to_owned();
        assert!(!page(&snapshot, Form::OpenMetrics).contains("hunter2"));
    }
}
