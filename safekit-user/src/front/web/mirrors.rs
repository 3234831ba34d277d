//! The figures of mirrors. Labels are names of modules and their directories, both of the configuration.

use super::exposition::Kind::{self, Counter, Gauge};
use super::exposition::Page;
use crate::engine::copies::role_word;
use crate::types::Instant;
use crate::types::mirror::{CopyInfo, LatencyInfo, MirrorInfo, SyncState};

const ROLES: [&str; 4] = ["WAIT", "ALONE", "PRIM", "SECOND"];
const SYNCS: [&str; 5] = ["in_sync", "out_of_date", "resynchronising", "being_overwritten", "unknown"];

pub(super) fn mirrors(page: &mut Page, mirrors: &[MirrorInfo], taken: Instant) {
    let mut family = page.family(Gauge, "mirror_mounted", "Its directories are mounted and kept.");
    for mirror in mirrors {
        family.sample(&[("module", &mirror.module)], u8::from(!mirror.copies.is_empty()));
    }
    words(page, mirrors);
    let mut each = |kind: Kind, name, help, value: &dyn Fn(&CopyInfo) -> Option<f64>| {
        let mut family = page.family(kind, name, help);
        for (module, copy) in all(mirrors) {
            if let Some(value) = value(copy) {
                family.sample(&[("module", module), ("directory", &copy.directory)], value);
            }
        }
    };
    each(Gauge, "mirror_connected", "The process of the other node is connected.", &|it| {
        Some(f64::from(u8::from(it.connected)))
    });
    each(Gauge, "mirror_cannot_lead", "An order to serve is not followed.", &|it| {
        Some(f64::from(u8::from(it.cannot_lead.is_some())))
    });
    each(Gauge, "mirror_replication_lag_bytes", "Bytes that have not left this node.", &|it| {
        Some(it.behind_bytes as f64)
    });
    each(
        Gauge,
        "mirror_replication_lag_operations",
        "Operations that the other node has not said to have.",
        &|it| Some(it.behind_operations as f64),
    );
    each(Gauge, "mirror_recorded_regions", "Regions that may be different on the other node.", &|it| {
        Some(it.recorded_regions as f64)
    });
    each(Counter, "mirror_stalls", "How often the other node was given up.", &|it| Some(it.stalls as f64));
    each(Counter, "mirror_refused", "Frames of the other node that were refused.", &|it| {
        Some(it.refused as f64)
    });
    each(Counter, "mirror_sent_bytes", "Bytes sent to the other node.", &|it| Some(it.sent_bytes as f64));
    each(Counter, "mirror_received_bytes", "Bytes received from the other node.", &|it| {
        Some(it.received_bytes as f64)
    });
    resyncs(&mut each);
    verifications(&mut each, taken);
    latencies(page, mirrors);
}

type Each<'e> = dyn FnMut(Kind, &'static str, &'static str, &dyn Fn(&CopyInfo) -> Option<f64>) + 'e;

fn resyncs(each: &mut Each<'_>) {
    each(Gauge, "mirror_resync_running", "A resynchronisation is under way.", &|it| {
        it.resync.as_ref().map(|it| f64::from(u8::from(it.ended.is_none())))
    });
    each(Gauge, "mirror_resync_remaining_regions", "Regions of its present pass.", &|it| {
        it.resync.as_ref().filter(|it| it.ended.is_none()).map(|it| it.regions as f64)
    });
    each(Gauge, "mirror_resync_remaining_seconds", "How long it may still take.", &|it| {
        let left = it.resync.as_ref().filter(|it| it.ended.is_none())?.left_ms?;
        Some(left as f64 / 1e3)
    });
}

fn verifications(each: &mut Each<'_>, taken: Instant) {
    each(Gauge, "mirror_verification_running", "A verification is under way.", &|it| {
        it.verification.as_ref().map(|it| f64::from(u8::from(it.ended.is_none())))
    });
    each(Gauge, "mirror_verification_differing", "Objects that the last one found different.", &|it| {
        it.verification.as_ref().map(|it| it.differing as f64)
    });
    each(
        Gauge,
        "mirror_verification_age_seconds",
        "Time since the last one ended, if it was whole.",
        &|it| {
            let ended = it.verification.as_ref().filter(|it| it.complete)?.ended?;
            Some(taken.since(ended).as_secs_f64())
        },
    );
}

fn words(page: &mut Page, mirrors: &[MirrorInfo]) {
    let mut family = page.family(Gauge, "mirror_role", "What this node does with its copy.");
    for (module, copy) in all(mirrors) {
        let labels = [("module", module), ("directory", copy.directory.as_str())];
        family.one_of(&labels, "role", &ROLES, role_word(copy.role));
    }
    let mut family = page.family(Gauge, "mirror_sync", "How the two copies are to each other.");
    for (module, copy) in all(mirrors) {
        let labels = [("module", module), ("directory", copy.directory.as_str())];
        let sync = match copy.sync {
            SyncState::InSync => "in_sync",
            SyncState::OutOfDate => "out_of_date",
            SyncState::Resynchronising => "resynchronising",
            SyncState::BeingOverwritten => "being_overwritten",
            SyncState::Unknown => "unknown",
        };
        family.one_of(&labels, "sync", &SYNCS, sync);
    }
}

/// Of the last few thousand; left out where there were none.
fn latencies(page: &mut Page, mirrors: &[MirrorInfo]) {
    type Of = fn(&CopyInfo) -> LatencyInfo;
    let families: [(&'static str, &'static str, Of); 2] = [
        ("mirror_write_latency_seconds", "How long applications wait for changes.", |it| it.write_latency),
        ("mirror_flush_latency_seconds", "How long applications wait for flushes.", |it| it.flush_latency),
    ];
    for (name, help, of) in families {
        let mut family = page.family(Gauge, name, help);
        for (module, copy) in all(mirrors) {
            let latency = of(copy);
            for (quantile, micros) in [("0.5", latency.p50_us), ("0.99", latency.p99_us)] {
                let labels = [("module", module), ("directory", &copy.directory), ("quantile", quantile)];
                if latency.count > 0 {
                    family.sample(&labels, micros as f64 / 1e6);
                }
            }
        }
    }
}

fn all(mirrors: &[MirrorInfo]) -> impl Iterator<Item = (&str, &CopyInfo)> {
    mirrors.iter().flat_map(|mirror| mirror.copies.iter().map(move |copy| (mirror.module.as_str(), copy)))
}
