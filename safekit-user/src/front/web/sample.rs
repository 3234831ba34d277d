//! A snapshot with something of everything, for tests.

use crate::types::cluster::{ConfigIdentity, ConfigVersion, LinkInfo, LinksInfo, RefusedInfo};
use crate::types::mirror::{CopyInfo, LatencyInfo, MirrorInfo, ResyncInfo, SyncState, VerificationInfo};
use crate::types::module::{
    Action, CheckInfo, ModuleInfo, ResourceInfo, ResourceState, Role, ScriptTally, Status,
};
use crate::types::replica::{DataGeneration, MirrorRole};
use crate::types::snapshot::{
    API_VERSION, CounterInfo, FarmInfo, GroupInfo, HeartbeatInfo, MemberState, NodeInfo, Undelivered,
    Verdict, VirtualIpInfo,
};
use crate::types::{Instant, ModuleState, Snapshot, ViewId};

fn at(seconds: u64) -> Instant {
    Instant(seconds * 1_000_000_000)
}

/// Of web1, which serves.
pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        api_version: API_VERSION.to_owned(),
        cluster: "shop".to_owned(),
        node: "web1".to_owned(),
        boot: "00".to_owned(),
        taken: at(100),
        verdict: Verdict::Converged,
        summary: "all is well".to_owned(),
        state: MemberState::Active,
        view: ViewId(3),
        view_since: at(40),
        heartbeat: HeartbeatInfo {
            interval_ms: 25,
            timeout_ms: 200,
            lease_ms: 100,
            realtime: true,
            lateness_max_us: 150,
            rejected: 2,
            unsent: 0,
        },
        nodes: vec![node("web1", true), node("web2", false)],
        farms: vec![farm()],
        modules: vec![module()],
        mirrors: vec![mirror()],
        links: links(),
        console: None,
        generation: 4,
        changing: false,
        warnings: Vec::new(),
        undelivered: vec![Undelivered {
            virtual_ip: [10, 99, 0, 100].into(),
            interface: "eth0".to_owned(),
            from: vec!["web2".to_owned()],
            to: "web1".to_owned(),
        }],
        events: Vec::new(),
    }
}

fn node(name: &str, this: bool) -> NodeInfo {
    NodeInfo {
        name: name.to_owned(),
        this,
        member: true,
        state: Some(MemberState::Active),
        heard_ms: (!this).then_some(12),
        departed: None,
        same_config: (!this).then_some(true),
        drained: false,
        connections: Some(7),
        drain: None,
    }
}

fn farm() -> FarmInfo {
    FarmInfo {
        module: "www".to_owned(),
        delivery: "flood".to_owned(),
        virtual_ips: vec![VirtualIpInfo {
            address: [10, 99, 0, 100].into(),
            interface: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            xdp_mode: "generic".to_owned(),
            xdp_reason: "veth".to_owned(),
        }],
        rules: Vec::new(),
        groups: vec![GroupInfo {
            group: 0,
            share: "weighted".to_owned(),
            weights: vec![1, 1],
            health: vec![100, 50],
            buckets: 65_536,
            owned: 43_690,
            transitional: 5,
            applied: at(90),
            apply_us: 250,
            shares: vec![43_690, 21_846],
            held_connections: 1,
        }],
        counters: vec![CounterInfo { reason: "owned".to_owned(), packets: 1_000 }],
    }
}

fn module() -> ModuleInfo {
    ModuleInfo {
        name: "www".to_owned(),
        kind: "farm".to_owned(),
        state: ModuleState::new(Role::Up, Status::Ready),
        since: at(50),
        causes: vec!["asked by somebody".to_owned()],
        next_step: None,
        loops: 1,
        loops_max: 3,
        starts: 2,
        scripts: vec![ScriptTally {
            script: "start_both".to_owned(),
            runs: 2,
            failed: 1,
            took_ms: 1_500,
            took_ms_last: 500,
        }],
        share: Some(100),
        maintenance: None,
        checks: vec![CheckInfo {
            name: "http".to_owned(),
            kind: "tcp".to_owned(),
            state: ResourceState::Down,
            active: true,
            action: Action::None,
            since: at(60),
            took_ms: Some(3),
            output: "refused".to_owned(),
        }],
        resources: vec![ResourceInfo {
            name: "tcp.http".to_owned(),
            state: ResourceState::Down,
            since: at(60),
            by: "check".to_owned(),
        }],
        remotes: Vec::new(),
    }
}

fn mirror() -> MirrorInfo {
    let copy = CopyInfo {
        directory: "/srv/db".to_owned(),
        role: MirrorRole::Alone,
        generation: Some(DataGeneration(7)),
        sync: SyncState::Resynchronising,
        why: "web2 came back".to_owned(),
        cannot_lead: None,
        connected: true,
        frozen: false,
        behind_operations: 3,
        behind_bytes: 4096,
        recorded_regions: 12,
        write_latency: LatencyInfo { count: 9, p50_us: 80, p99_us: 1_500 },
        flush_latency: LatencyInfo::default(),
        stalls: 1,
        refused: 0,
        sent_bytes: 1_048_576,
        received_bytes: 512,
        resync: Some(ResyncInfo {
            since: at(90),
            ended: None,
            everything: false,
            passes: 1,
            files: 4,
            bytes: 1_000,
            bytes_per_second: 100,
            regions: 8,
            left_ms: Some(2_500),
        }),
        verification: Some(VerificationInfo {
            since: at(60),
            ended: Some(at(70)),
            complete: true,
            objects: 4,
            bytes: 1_000,
            differing: 0,
        }),
    };
    MirrorInfo { module: "db".to_owned(), copies: vec![copy], process: Some(77) }
}

fn links() -> LinksInfo {
    let config =
        ConfigIdentity { version: ConfigVersion { number: 5, ..Default::default() }, hash: "abc".to_owned() };
    LinksInfo {
        nodes: vec![LinkInfo {
            node: "web2".to_owned(),
            connected: true,
            how: "lan".to_owned(),
            config: Some(config.clone()),
            heard_ms: Some(1_200),
        }],
        config,
        refused: vec![RefusedInfo { reason: "wrong_key".to_owned(), count: 3, last: "10.99.0.9".to_owned() }],
    }
}
