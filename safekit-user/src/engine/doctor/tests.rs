//! A healthy node, and one thing wrong at a time.

use super::facts::*;
use super::{judge, worst};
use crate::types::doctor::CheckState::{self, Fault, Unknown, Warning};

fn healthy() -> Facts {
    Facts {
        machine: Machine {
            release: "6.12.8-amd64".into(),
            root: true,
            capabilities_missing: Ok(Vec::new()),
            filter: Ok(Filter { compiled: true, clock_ahead_ns: 40_000, by_ticks: true }),
            btf: true,
            bpffs: Some(true),
            clocksource: Some("tsc".into()),
            real_time: Ok(()),
            memory_lock: MemoryLock::Unlimited,
            syncookies: Some(1),
            fastopen: Fastopen::Off,
            bridge_netfilter: Some(0),
        },
        interfaces: vec![Interface {
            name: "eth0".into(),
            link: Some(Link { up: true, carrier: Some(true), mtu: 1500, promiscuity: 0, is_bridge: false }),
            driver: Some("ixgbe".into()),
            generic_because: None,
            xdp: Vec::new(),
            xdp_is_ours: false,
            tc: Ok(Vec::new()),
            offloads: Some(Offloads::default()),
            vlans: Vec::new(),
            default_route: Some(true),
            rp_filter: Some(2),
            arp_ignore: Some(0),
            arp_announce: Some(0),
            ipv6_disabled: Some(true),
        }],
        networks: vec![Network {
            name: "lan".into(),
            own: [10, 0, 0, 1].into(),
            port: 4800,
            interface: Some("eth0".into()),
            mtu: Some(1500),
            heartbeat_port: PortState::Free,
            peers: Some(vec![peer(true, true)]),
            doors: Some(vec![door(DoorState::Open)]),
        }],
        virtual_ips: vec![VirtualIp {
            address: [10, 0, 0, 9].into(),
            interface: "eth0".into(),
            configured_on: vec!["lo".into()],
            claim: Claim::Nobody,
        }],
        keeping: Keeping {
            key: Ok(()),
            clock_is_synchronised: Some(true),
            state_dir: "/var/lib/safekit".into(),
            state_bytes_free: Some(9 << 30),
        },
        applications: vec![Application {
            module: "www".into(),
            services: vec![Service { name: "nginx".into(), trouble: None }],
            scripts: vec![ScriptFile {
                of: "prestart".into(),
                path: "/srv/ready".into(),
                state: ScriptState::Executable,
            }],
        }],
        replicated: vec![Replicated {
            module: "db".into(),
            directory: "/srv/db".into(),
            state: ReplicatedState::Fit,
        }],
        daemon: None,
    }
}

fn door(state: DoorState) -> Door {
    Door { node: "web2".into(), address: [10, 0, 0, 2].into(), state }
}

fn peer(small: bool, large: bool) -> Peer {
    Peer { node: "web2".into(), address: [10, 0, 0, 2].into(), small, large }
}

/// With `change`, exactly this check is not ok, and `remedy` is part of what to do about it.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), about: &str, name: &str, state: CheckState, remedy: &str) {
    let mut facts = healthy();
    change(&mut facts);
    let checks = judge(&facts);
    let wrong: Vec<_> = checks
        .iter()
        .filter(|check| check.state != CheckState::Ok && check.about != "daemon")
        .map(|check| (check.about.as_str(), check.name.as_str(), check.state))
        .collect();
    assert_eq!(wrong, [(about, name, state)]);
    let found = checks.iter().find(|check| check.about == about && check.name == name).expect("found above");
    assert!(found.remedy.as_deref().unwrap_or_default().contains(remedy), "{found:?}");
    assert_eq!(found.remedy.is_some(), matches!(state, Warning | Fault), "{found:?}");
    assert_eq!(worst(&checks), if state == Unknown { CheckState::Ok } else { state });
}

#[test]
fn a_healthy_node_has_nothing_to_do() {
    let checks = judge(&healthy());
    assert_eq!(worst(&checks), CheckState::Ok);
    assert!(checks.iter().all(|check| check.remedy.is_none()), "{checks:#?}");
    let mut names: Vec<_> = checks.iter().map(|check| (&check.about, &check.name)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), checks.len(), "a name is unique for its thing");
}

#[test]
fn what_is_wrong_with_what_the_daemon_keeps() {
    let m = "machine";
    let exposed =
        |it: &mut Facts| it.keeping.key = Err(("it can be read by others".into(), "chmod 600 k".into()));
    check(exposed, m, "cluster key", Fault, "chmod 600 k");
    check(|it| it.keeping.clock_is_synchronised = Some(false), m, "time of day", Warning, "set-ntp");
    check(|it| it.keeping.clock_is_synchronised = None, m, "time of day", Unknown, "");
    let free = |bytes| move |it: &mut Facts| it.keeping.state_bytes_free = bytes;
    check(free(Some(100 << 20)), m, "state directory", Warning, "df -h /var/lib/safekit");
    check(free(Some(1 << 20)), m, "state directory", Fault, "df -h /var/lib/safekit");
    check(free(None), m, "state directory", Unknown, "");
}

#[test]
fn what_is_wrong_with_an_application() {
    let about = "module www";
    let service = |trouble| move |it: &mut Facts| it.applications[0].services[0].trouble = Some(trouble);
    check(
        service(ServiceTrouble::StartsByItself),
        about,
        "service nginx",
        Warning,
        "systemctl disable nginx",
    );
    let masked =
        ServiceTrouble::Unusable { why: "it is masked".into(), remedy: "systemctl unmask nginx".into() };
    check(service(masked), about, "service nginx", Fault, "systemctl unmask nginx");
    check(service(ServiceTrouble::Unknown("no systemd".into())), about, "service nginx", Unknown, "");
    let script = |state| move |it: &mut Facts| it.applications[0].scripts[0].state = state;
    check(script(ScriptState::Missing), about, "prestart", Fault, "ls -l /srv/ready");
    check(script(ScriptState::NotExecutable), about, "prestart", Fault, "chmod +x /srv/ready");
}

#[test]
fn what_is_wrong_with_a_replicated_directory() {
    let (about, name) = ("module db", "directory /srv/db");
    let state = |state| move |it: &mut Facts| it.replicated[0].state = state;
    check(state(ReplicatedState::Missing), about, name, Fault, "mkdir /srv/db");
    check(state(ReplicatedState::NoDirectory), about, name, Fault, "ls -ld /srv/db");
    check(state(ReplicatedState::NoGuard(".here".into())), about, name, Fault, "touch /srv/db/.here");
    check(state(ReplicatedState::NoFuse("no such device".into())), about, name, Fault, "modprobe fuse");
    check(state(ReplicatedState::Unfit), about, name, Fault, "ext4");
    check(state(ReplicatedState::DeadMount), about, name, Warning, "safekit start db");
    check(state(ReplicatedState::Unknown("denied".into())), about, name, Unknown, "");
}

#[test]
fn a_cluster_port_that_takes_no_connections_is_named() {
    let shut = |state| move |it: &mut Facts| it.networks[0].doors = Some(vec![door(state)]);
    check(shut(DoorState::Refused), "network lan", "cluster port", Warning, "sport = :4800");
    check(shut(DoorState::Silent), "network lan", "cluster port", Warning, "nc -vz 10.0.0.2 4800");
}

#[test]
fn what_is_wrong_with_the_machine() {
    let m = "machine";
    check(|it| it.machine.release = "4.19.0".into(), m, "kernel", Fault, "5.10");
    check(|it| it.machine.release = "5.9.16".into(), m, "kernel", Fault, "5.10");
    check(|it| it.machine.release = "odd".into(), m, "kernel", Unknown, "");
    check(|it| it.machine.root = false, m, "rights", Fault, "sudo safekit doctor");
    let missing = |it: &mut Facts| it.machine.capabilities_missing = Ok(vec!["CAP_BPF"]);
    check(missing, m, "rights", Fault, "--cap-add");
    check(|it| it.machine.filter = Err("EPERM".into()), m, "packet filter", Fault, "dmesg");
    let filter = |change: fn(&mut Filter)| {
        move |it: &mut Facts| change(it.machine.filter.as_mut().expect("it is healthy"))
    };
    let jit = "bpf_jit_enable=1";
    check(filter(|it| it.compiled = false), m, "compiler (BPF JIT)", Warning, jit);
    check(filter(|it| it.clock_ahead_ns = -3_000_000_000), m, "boot clock", Fault, "nsenter --time");
    check(|it| it.machine.bpffs = Some(false), m, "bpffs", Fault, "CONFIG_BPF_SYSCALL");
    let source = "available_clocksource";
    check(|it| it.machine.clocksource = Some("hpet".into()), m, "clock source", Warning, source);
    let refused = |it: &mut Facts| it.machine.real_time = Err("EPERM".into());
    check(refused, m, "real-time priority", Warning, "CAP_SYS_NICE");
    let small = |it: &mut Facts| it.machine.memory_lock = MemoryLock::Bytes(8 << 20);
    check(small, m, "locked memory", Warning, "LimitMEMLOCK");
    check(|it| it.machine.syncookies = Some(0), m, "SYN cookies", Warning, "tcp_syncookies=1");
    check(|it| it.machine.syncookies = None, m, "SYN cookies", Unknown, "");
    let fastopen = |key| move |it: &mut Facts| it.machine.fastopen = Fastopen::On { key };
    check(fastopen(Some(1)), m, "TCP fast open", Warning, "compare");
    check(fastopen(None), m, "TCP fast open", Warning, "tcp_fastopen_key");
    let bridged = |it: &mut Facts| {
        it.machine.bridge_netfilter = Some(1);
        it.interfaces[0].link.as_mut().expect("it is healthy").is_bridge = true;
    };
    check(bridged, m, "bridge filtering", Warning, "bridge-nf-call-iptables=0");
}

#[test]
fn what_is_wrong_with_an_interface() {
    let eth0 = "interface eth0";
    let of = |change: fn(&mut Interface)| move |it: &mut Facts| change(&mut it.interfaces[0]);
    fn link(it: &mut Interface) -> &mut Link {
        it.link.as_mut().expect("it is healthy")
    }
    check(of(|it| it.link = None), eth0, "link", Fault, "ip link");
    check(of(|it| link(it).up = false), eth0, "link", Fault, "ip link set eth0 up");
    check(of(|it| link(it).carrier = Some(false)), eth0, "link", Fault, "cable");
    check(of(|it| link(it).mtu = 576), eth0, "MTU", Warning, "mtu 1500");
    let other = || XdpProgram { mode: "native", id: 7, name: "xdp_dispatcher".into() };
    let foreign = move |it: &mut Facts| it.interfaces[0].xdp = vec![other()];
    check(foreign, eth0, "other XDP programs", Fault, "ip link set dev eth0 xdp off");
    check(
        of(|it| it.tc = Ok(vec!["ingress cil_from".into()])),
        eth0,
        "tc programs",
        Warning,
        "tc filter show",
    );
    let lro = of(|it| it.offloads = Some(Offloads { large_receive: true, ..Offloads::default() }));
    check(lro, eth0, "offloads", Warning, "ethtool -K eth0 lro off");
    let tags = of(|it| {
        it.offloads = Some(Offloads { vlan_receive: true, ..Offloads::default() });
        it.vlans = vec!["eth0.7".into()];
    });
    check(tags, eth0, "offloads", Warning, "rxvlan off");
    let strict = of(|it| (it.rp_filter, it.default_route) = (Some(1), Some(false)));
    check(strict, eth0, "rp_filter", Warning, "net.ipv4.conf.eth0.rp_filter=2");
    check(of(|it| it.arp_ignore = Some(8)), eth0, "ARP settings", Fault, "arp_ignore");
    let v6 = |it: &mut Facts| it.virtual_ips[0].address = [1_u16; 8].into();
    check(v6, eth0, "IPv6", Fault, "disable_ipv6=0");
}

#[test]
fn our_own_filter_is_nobody_elses() {
    let mut facts = healthy();
    facts.interfaces[0].xdp = vec![XdpProgram { mode: "generic", id: 7, name: "safekit_farm".into() }];
    facts.interfaces[0].xdp_is_ours = true;
    assert_eq!(worst(&judge(&facts)), CheckState::Ok);
}

#[test]
fn what_is_wrong_with_a_network() {
    let lan = "network lan";
    let of = |change: fn(&mut Network)| move |it: &mut Facts| change(&mut it.networks[0]);
    check(of(|it| it.interface = None), lan, "own address", Fault, "ip address");
    let taken = of(|it| it.heartbeat_port = PortState::Taken(Some("named (pid 42)".into())));
    check(taken, lan, "heartbeat port", Fault, "ss -ulpn 'sport = :4800'");
    check(of(|it| it.peers = None), lan, "path to the peers", Unknown, "");
    let cut = of(|it| it.peers = Some(vec![peer(true, false), peer(true, true)]));
    check(cut, lan, "MTU to the peers", Fault, "ping -M do -s 1472 10.0.0.2");
    let silent = of(|it| it.peers = Some(vec![peer(false, false), peer(true, true)]));
    check(silent, lan, "path to the peers", Warning, "ping 10.0.0.2");
}

#[test]
fn what_is_wrong_with_a_virtual_ip() {
    let vip = "virtual IP 10.0.0.9";
    let placed = |it: &mut Facts| it.virtual_ips[0].configured_on = vec!["eth0".into()];
    check(placed, vip, "place", Fault, "ip address del 10.0.0.9 dev eth0");
    let claimed = |it: &mut Facts| it.virtual_ips[0].claim = Claim::Stranger([2, 0, 0, 0, 0, 0x1f]);
    check(claimed, vip, "owner on the wire", Fault, "02:00:00:00:00:1f");
    check(|it| it.virtual_ips[0].claim = Claim::Failed("no".into()), vip, "owner on the wire", Unknown, "");
    let mut facts = healthy();
    facts.virtual_ips[0].claim = Claim::Farm;
    assert_eq!(worst(&judge(&facts)), CheckState::Ok);
}
