//! Faulty configuration files: one good file, and what went wrong with it.

pub(crate) const GOOD: &str = "\
cluster:
  name: shop
  key_file: cluster.key
  networks:
    - { name: lan, port: 4800 }
    - { name: backup, port: 4801 }
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1, backup: 10.98.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2, backup: 10.98.0.2 } }
    - { name: web3, addresses: { lan: 10.99.0.3 } }
  heartbeat: { profile: default }
modules:
  - name: www
    kind: farm
    nodes: [web1, web2]
    virtual_ips:
      - { address: 10.99.0.100, interface: eth0 }
    delivery: flood
    rules:
      - { protocol: tcp, port: 80, balance: client }
      - { protocol: tcp, port: 443 }
";

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) content: Vec<u8>,
    /// Whether it stands somewhere in the file.
    pub(crate) has_place: bool,
}

pub(crate) fn faulty_files() -> Vec<Fault> {
    let changed = [YAML, KEYS, VALUES, RULES, NAMES, RELATIONS, LATER].concat();
    let changed = changed.into_iter().map(|(name, from, to)| {
        assert_eq!(GOOD.matches(from).count(), 1, "{name}: {from:?} is in the good file once");
        Fault { name, content: GOOD.replace(from, to).into_bytes(), has_place: true }
    });
    let mirrors = MIRROR_FAULTS.iter().map(|(name, from, to)| {
        assert_eq!(MIRROR.matches(from).count(), 1, "{name}: {from:?} is in the mirror once");
        Fault { name, content: (GOOD.to_owned() + &MIRROR.replace(from, to)).into_bytes(), has_place: true }
    });
    changed.chain(mirrors).chain(whole_files()).collect()
}

/// Below the good file.
pub(crate) const MIRROR: &str = "\
  - name: db
    kind: mirror
    nodes: [web1, web2]
    replicate:
      - { directory: /var/lib/db, acknowledge: disk }
      - { directory: /srv/files, require: .is-mounted }
    replication: { network: backup, port: 4900, max_stall: 2s }
    start: { boot: auto }
";

const MIRROR_FAULTS: &[Change] = &[
    ("mirror of one node", "nodes: [web1, web2]", "nodes: [web1]"),
    ("mirror of three nodes", "nodes: [web1, web2]", "nodes: [web1, web2, web3]"),
    ("mirror of all three nodes", "    nodes: [web1, web2]\n", ""),
    ("mirror of nothing", "    replicate:\n", "    replcate:\n"),
    ("directory that is not absolute", "directory: /srv/files", "directory: srv/files"),
    ("directory over its parent", "directory: /srv/files", "directory: /srv/../etc"),
    ("directory of everything", "directory: /srv/files", "directory: /"),
    ("directory twice", "directory: /srv/files", "directory: /var/lib/db/"),
    ("directory within another", "directory: /srv/files", "directory: /var/lib/db/files"),
    ("unknown acknowledge", "acknowledge: disk", "acknowledge: dsik"),
    ("guard that is a path", "require: .is-mounted", "require: a/b"),
    ("mirror over an unknown network", "network: backup", "network: backpu"),
    ("mirror over a network of one node", "nodes: [web1, web2]", "nodes: [web1, web3]"),
    ("mirror on the heartbeats' port", "port: 4900", "port: 4801"),
    ("stall too short", "max_stall: 2s", "max_stall: 1ms"),
    (
        "port of two mirrors",
        "  - name: db\n",
        "  - name: logs\n    kind: mirror\n    nodes: [web1, web2]\n    replicate: [{ directory: /srv/logs }]\n    replication: { network: backup }\n  - name: db\n",
    ),
    ("bandwidth of a later version", "port: 4900,", "port: 4900, bandwidth: 50MB/s,"),
    ("exclude of a later version", "acknowledge: disk", "exclude: ['*.tmp']"),
    ("witness of a later version", "    start: { boot: auto }\n", "    witness: { node: web3 }\n"),
    ("scripts of a later version", "    start: { boot: auto }\n", "    scripts: { start_prim: ./start }\n"),
    ("key of a farm in a mirror", "    start: { boot: auto }\n", "    delivery: flood\n"),
];

type Change = (&'static str, &'static str, &'static str);

const YAML: &[Change] = &[
    ("tab in the indentation", "\n  name: shop", "\n\tname: shop"),
    ("indentation that does not fit", "\n  key_file", "\n    key_file"),
    ("unclosed bracket", "nodes: [web1, web2]", "nodes: [web1, web2"),
    ("unclosed quote", "name: shop", "name: 'shop"),
    ("colon in plain text", "key_file: cluster.key", "key_file: a: b"),
    ("alias without an anchor", "interface: eth0", "interface: *eth"),
    ("tag", "interface: eth0", "interface: !nic eth0"),
    ("merge key", "  heartbeat: {", "  heartbeat: { <<: { profile: fast },"),
    ("second document", "modules:", "---\nmodules:"),
    ("control character", "name: shop", "name: sh\u{1b}op"),
    ("key that is a list", "    delivery: flood", "    [a, b]: flood"),
];

const KEYS: &[Change] = &[
    ("typo in a key", "port: 4801", "prot: 4801"),
    ("key with a capital", "key_file:", "Key_file:"),
    ("key that is nothing like one", "delivery: flood", "colour: red"),
    ("key twice in a mapping of fixed keys", "  name: shop", "  name: shop\n  name: shop2"),
    ("key twice in a mapping of names", "lan: 10.99.0.2, backup:", "lan: 10.99.0.2, lan:"),
    ("key without a value", "interface: eth0", "interface:"),
    ("missing key", "name: backup, port: 4801", "port: 4801"),
    ("missing section", "modules:\n", "moduls:\n"),
    ("text instead of a mapping", "heartbeat: { profile: default }", "heartbeat: default"),
    ("mapping instead of a list", "nodes: [web1, web2]", "nodes: { web1: 1 }"),
    ("text instead of a list", "nodes: [web1, web2]", "nodes: web1"),
    ("empty list", "nodes: [web1, web2]", "nodes: []"),
    ("list instead of text", "name: shop", "name: [shop]"),
];

const VALUES: &[Change] = &[
    ("number that does not fit", "port: 4801", "port: 70000"),
    ("port 0", "port: 80,", "port: 0,"),
    ("negative port", "port: 80,", "port: -1,"),
    ("port in words", "port: 80,", "port: http,"),
    ("port with a fraction", "port: 80,", "port: 80.5,"),
    ("bad IP address", "lan: 10.99.0.2,", "lan: 10.99.0.256,"),
    ("IP address with a prefix", "address: 10.99.0.100", "address: 10.99.0.100/24"),
    ("multicast address", "lan: 10.99.0.2,", "lan: 239.0.0.1,"),
    ("link-local address", "lan: 10.99.0.2,", "lan: 'fe80::1',"),
    ("loopback as virtual IP", "address: 10.99.0.100", "address: 127.0.0.1"),
    ("number as a name", "name: www", "name: 17"),
    ("no where a port belongs", "port: 80,", "port: no,"),
    ("010 where a port belongs", "port: 80,", "port: 010,"),
    ("22:30 where an address belongs", "address: 10.99.0.100", "address: 22:30"),
    ("no where an address belongs", "address: 10.99.0.100", "address: no"),
    ("name with a blank", "name: www", "name: w w"),
    ("typo in a word", "balance: client", "balance: cleint"),
    ("word that is nothing like one", "protocol: tcp, port: 443", "protocol: sctp, port: 443"),
    ("long interface", "interface: eth0", "interface: a23456789b123456"),
    ("interface with a slash", "interface: eth0", "interface: eth/0"),
    ("unknown profile", "profile: default", "profile: slow"),
    ("profile and times", "profile: default", "profile: default, lease: 40ms"),
    ("time without a unit", "profile: default", "interval: 25, timeout: 200ms, lease: 100ms"),
    ("time in quotes without a unit", "profile: default", "interval: '25', timeout: 200ms, lease: 100ms"),
    ("time with an unknown unit", "profile: default", "interval: 25ms, timeout: 200msec, lease: 100ms"),
    ("missing time", "profile: default", "interval: 25ms, timeout: 200ms"),
    ("lease too short", "profile: default", "interval: 25ms, timeout: 200ms, lease: 74ms"),
    ("lease too long", "profile: default", "interval: 25ms, timeout: 200ms, lease: 150ms"),
    ("timeout too short", "profile: default", "interval: 25ms, timeout: 199ms, lease: 100ms"),
];

const RULES: &[Change] = &[
    ("range backwards", "port: 443", "port: 8099-8000"),
    ("range in words", "port: 443", "port: http-https"),
    ("ranges that overlap", "port: 443", "port: 8000-8099 }\n      - { protocol: tcp, port: 8050-8150"),
    ("weights of a stranger", "port: 443", "port: 443, weights: { wbe1: 2 }"),
    ("weight below zero", "port: 443", "port: 443, weights: { web1: -1 }"),
    ("weight too large", "port: 443", "port: 443, weights: { web1: 1001 }"),
    ("only weights of 0", "port: 443", "port: 443, weights: { web1: 0, web2: 0 }"),
    ("rule's node outside of the module", "port: 443", "port: 443, nodes: [web3]"),
    ("cascade and weights", "port: 443", "port: 443, cascade: [web1], weights: { web1: 2 }"),
    ("prefix without a network", "port: 443", "port: 443, prefix: { ipv4: 20 }"),
    ("prefix too long", "port: 443", "port: 443, balance: client_network, prefix: { ipv4: 33 }"),
    ("unknown evidence", "port: 443", "port: 443, evidence: conntrack"),
    ("unknown delivery", "delivery: flood", "delivery: unicast"),
];

const NAMES: &[Change] = &[
    ("network twice", "name: backup,", "name: lan,"),
    ("node twice", "name: web3", "name: web1"),
    (
        "module twice",
        "modules:\n",
        "modules:\n  - name: www\n    kind: farm\n    virtual_ips: [{ address: 10.99.0.99, interface: eth0 }]\n    rules: [{ protocol: tcp, port: 80 }]\n",
    ),
    (
        "virtual IP twice",
        "interface: eth0 }\n",
        "interface: eth0 }\n      - { address: 10.99.0.100, interface: eth1 }\n",
    ),
    ("rule twice", "port: 443", "port: 80"),
    ("member twice", "nodes: [web1, web2]", "nodes: [web1, web1]"),
];

const RELATIONS: &[Change] = &[
    ("unknown network", "addresses: { lan: 10.99.0.3 }", "addresses: { lna: 10.99.0.3 }"),
    ("unknown member", "nodes: [web1, web2]", "nodes: [web1, wbe2]"),
    ("node without an address", "addresses: { lan: 10.99.0.3 }", "addresses: {}"),
    ("address twice", "lan: 10.99.0.3", "lan: 10.99.0.1"),
    ("address families mixed", "lan: 10.99.0.3", "lan: 'fd00::3'"),
    ("virtual IP of a node", "address: 10.99.0.100", "address: 10.99.0.2"),
];

const LATER: &[Change] = &[
    ("kind mirror", "kind: farm", "kind: mirror"),
    ("kind light", "kind: farm", "kind: light"),
    ("scripts", "    kind: farm", "    kind: farm\n    scripts: { strat: systemctl start nginx }"),
    ("replicate", "    kind: farm", "    kind: farm\n    replicate: [{ directory: /srv }]"),
    (
        "failover",
        "    kind: farm",
        "    kind: farm\n    failover: { rules: [{ name: a, when: tcp.http = down, do: wait }] }",
    ),
    ("max_loop", "    kind: farm", "    kind: farm\n    max_loop: thrice"),
    ("checks", "    kind: farm", "    kind: farm\n    checks: [{ name: http }]"),
    ("console", "modules:\n", "console: { listen: 9010 }\nmodules:\n"),
];

fn whole_files() -> Vec<Fault> {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let many_at_once = GOOD.replace("name: lan", "nmae: lan").replace("443", "0").replace("flood", "fload");
    let not_utf8 = [GOOD.as_bytes()[..20].to_vec(), b"\xff\n".to_vec()].concat();
    let place = |name, content: Vec<u8>| Fault { name, content, has_place: true };
    let whole = |name, content: Vec<u8>| Fault { name, content, has_place: false };
    vec![
        place("alias bomb", bomb.into_bytes()),
        place("100,000 brackets", "[".repeat(100_000).into_bytes()),
        place("a list instead of a file", b"- cluster\n- modules\n".to_vec()),
        place("only a document marker", b"---\n".to_vec()),
        place("not UTF-8", not_utf8),
        place("several at once", many_at_once.into_bytes()),
        whole("empty file", Vec::new()),
        whole("only comments", b"# nothing\n\n   # here\n".to_vec()),
        whole("too large", b"#\n".repeat(1 << 20)),
    ]
}
