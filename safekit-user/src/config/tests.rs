//! Whole files: what is read, and everything that is refused.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::*;

/// With everything a file can say.
pub(super) const FARM: &str = "\
cluster:
  name: shop
  key_file: cluster.key
  networks:
    - { name: lan }
    - { name: backup, port: 4801 }
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1, backup: 10.98.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
  heartbeat: { profile: fast }
modules:
  - name: www
    kind: farm
    virtual_ips:
      - { address: 10.99.0.100, interface: eth0 }
    rules:
      - { protocol: tcp, port: 80, balance: client }
      - { protocol: udp, port: 53 }
";

pub(super) fn parsed(text: &str) -> Config {
    parse(text, "/etc/safekit/farm.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn rule(protocol: Protocol, port: u16, balance: Balance) -> Rule {
    Rule { protocol, ports: Ports::one(port), balance, evidence: Evidence::Sockets, group: GroupId(0) }
}

fn group(id: u16, share: Share) -> Group {
    Group { id: GroupId(id), module: "www".into(), share }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_file_becomes_the_model() {
    let expected = Config {
        cluster: Cluster {
            name: "shop".into(),
            key_file: "/etc/safekit/cluster.key".into(),
            networks: vec![
                Network { name: "lan".into(), port: 4800 },
                Network { name: "backup".into(), port: 4801 },
            ],
            nodes: vec![
                Node { name: "web1".into(), addresses: vec![Some(ip("10.99.0.1")), Some(ip("10.98.0.1"))] },
                Node { name: "web2".into(), addresses: vec![Some(ip("10.99.0.2")), None] },
            ],
            timing: Timing {
                interval: Duration::from_millis(10),
                timeout: Duration::from_millis(80),
                lease: Duration::from_millis(40),
            },
        },
        modules: vec![Module::farm(Farm {
            name: "www".into(),
            nodes: vec![NodeId(0), NodeId(1)],
            virtual_ips: vec![VirtualIp { address: ip("10.99.0.100"), interface: "eth0".into() }],
            delivery: Delivery::Flood,
            rules: vec![
                rule(Protocol::Tcp, 80, Balance::Client),
                rule(Protocol::Udp, 53, Balance::Connection),
            ],
            group: GroupId(0),
            drain_timeout: Duration::from_secs(10),
        })],
        groups: vec![group(0, Share::Weighted(vec![1, 1]))],
        console: None,
    };
    let mut expected = expected;
    expected.modules[0].upkeep.directory = "/etc/safekit".into();
    assert_eq!(parsed(FARM), expected);
}

/// Everything that rules can say.
const RULES: &str = "      - { protocol: tcp, port: 80 }
      - { protocol: tcp, port: 8000-8099, balance: client_network, prefix: { ipv4: 20, ipv6: 48 } }
      - { protocol: tcp, port: 8080, weights: { web2: 3 } }
      - { protocol: udp, port: any, nodes: [web2], evidence: flows }
      - { protocol: udp, port: 53, cascade: [web2, web1] }
      - { protocol: udp, port: 54, nodes: [web1, web2], weights: { web2: 3 } }
";

fn with_rules() -> String {
    let rules = FARM.find("      - { protocol").expect("there are rules");
    format!("{}{RULES}", FARM[..rules].replace("kind: farm", "kind: farm\n    weights: { web1: 0 }"))
}

#[test]
fn rules_that_share_alike_share_a_group() {
    let config = parsed(&with_rules());
    let farm = config.farms().next().unwrap();
    let ports: Vec<String> = farm.rules.iter().map(|rule| rule.ports.to_string()).collect();
    assert_eq!(ports, ["80", "8000-8099", "8080", "any", "53", "54"]);
    let groups: Vec<u16> = farm.rules.iter().map(|rule| rule.group.0).collect();
    assert_eq!(groups, [0, 0, 1, 0, 2, 3], "web2 alone is what the module's own weights say, too");
    assert_eq!(farm.rules[1].balance, Balance::ClientNetwork { ipv4: 20, ipv6: 48 });
    assert_eq!(farm.rules[3].evidence, Evidence::Flows);
    let expected = [
        group(0, Share::Weighted(vec![0, 1])),
        group(1, Share::Weighted(vec![0, 3])),
        group(2, Share::Cascade(vec![NodeId(1), NodeId(0)])),
        group(3, Share::Weighted(vec![1, 3])),
    ];
    assert_eq!(config.groups, expected);
}

#[test]
fn the_sample_is_a_farm() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/farm.yaml");
    let config = load(&sample).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.cluster.nodes.len(), 3);
    assert_eq!(config.farms().count(), 1);
    assert!(config.cluster.key_file.is_absolute(), "{}", config.cluster.key_file.display());
}

#[test]
fn the_sample_of_rules_says_what_its_comments_say() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/farm-rules.yaml");
    let config = load(&sample).unwrap_or_else(|errors| panic!("{errors}"));
    let farm = config.farms().next().unwrap();
    let share = |port: u16, protocol| {
        let rules = farm.rules.iter().filter(|rule| rule.protocol == protocol && rule.ports.contains(port));
        config.share(rules.min_by_key(|rule| rule.ports.width()).unwrap().group)
    };
    assert_eq!(*share(80, Protocol::Tcp), Share::Weighted(vec![4, 4, 1, 0]));
    assert_eq!(*share(443, Protocol::Tcp), Share::Weighted(vec![4, 4, 0, 0]));
    assert_eq!(*share(22, Protocol::Tcp), Share::Weighted(vec![4, 4, 0, 0]));
    assert_eq!(*share(9, Protocol::Tcp), Share::Weighted(vec![0, 0, 1, 0]));
    assert_eq!(*share(514, Protocol::Udp), Share::Cascade(vec![NodeId(3), NodeId(0)]));
}

#[test]
fn what_is_shown_reads_as_the_same() {
    let own_times = "heartbeat: { interval: 20ms, timeout: 1s, lease: 90ms }";
    let ipv6 = FARM.replace("10.99.0.100", "fd00::64");
    let unlucky_names = FARM.replace("web1", "no").replace("web2", "\"7\"").replace("shop", "\"1e3\"");
    for text in
        [FARM, &with_rules(), &FARM.replace("heartbeat: { profile: fast }", own_times), &ipv6, &unlucky_names]
    {
        let config = parsed(text);
        let shown = effective(&config);
        assert_eq!(parsed(&shown), config, "{shown}");
    }
}

#[test]
fn members_stand_in_the_order_of_the_cluster() {
    let config = parsed(&FARM.replace("kind: farm", "kind: farm\n    nodes: [web2, web1]"));
    assert_eq!(config.farms().next().unwrap().nodes, [NodeId(0), NodeId(1)]);
}

#[test]
fn words_that_other_versions_of_yaml_take_for_values_are_names() {
    let config = parsed(&FARM.replace("web1", "no").replace("web2", "010").replace("www", "yes"));
    assert_eq!(config.node("no"), Some(NodeId(0)));
    assert_eq!(config.node("010"), Some(NodeId(1)));
}

#[test]
fn one_run_finds_all_errors_in_the_order_of_the_file() {
    let text = FARM
        .replace("port: 4801", "prot: 4801")
        .replace("10.99.0.2 ", "10.99.0.300 ")
        .replace("eth0", "an-interface-too-long")
        .replace("port: 53", "port: 0");
    let errors = parse(&text, "farm.yaml").unwrap_err();
    let lines: Vec<usize> = errors.errors.iter().map(|error| error.at.as_ref().unwrap().line).collect();
    assert_eq!(lines, [6, 9, 15, 18], "{errors}");
}

#[test]
fn a_hundred_errors_are_twenty_and_a_number() {
    let rules = "      - { port: 0 }\n".repeat(50);
    let errors = parse(&format!("{FARM}{rules}"), "farm.yaml").unwrap_err();
    assert_eq!((errors.errors.len(), errors.left_off), (20, 80));
    assert!(errors.to_string().ends_with("and 80 more"));
}

#[test]
fn the_128th_node_is_the_last() {
    let file = |nodes: usize| {
        let nodes: String = (1..=nodes)
            .map(|n| {
                format!("    - {{ name: n{n}, addresses: {{ lan: 10.1.{}.{} }} }}\n", n / 250, n % 250 + 1)
            })
            .collect();
        let (head, rest) = FARM.split_once("    - { name: web1").unwrap();
        let tail = &rest[rest.find("  heartbeat").unwrap()..];
        parse(&format!("{head}{nodes}{tail}"), "farm.yaml")
    };
    assert_eq!(file(128).unwrap().cluster.nodes.len(), 128);
    let errors = file(129).unwrap_err();
    assert_eq!(errors.errors[0].message, "129 entries in `nodes`");
    assert_eq!(errors.errors[0].at.as_ref().unwrap().line, 8 + 128, "the first that is too much");
}

/// Everything that a module can say about its application.
const UPKEEP: &str = "    start: { boot: auto, delay: 5s }
    after: [batch]
    services: [nginx, php8.2-fpm]
    variables: { PORT: 8080, MODE: fast }
    scripts: { directory: www, timeout: 30s, start: ./start, stop: { run: ./stop, timeout: 1m }, prestart: 'true' }
    checks:
      - { name: http, tcp: { port: 80, interval: 2s, timeout: 1s }, action: restart }
      - { name: site, http: { port: 80, path: /health, status: 200, body: ok$, fall: 3 } }
      - { name: nginx, process: { name: nginx, arguments: master, at_least: 1, at_most: 9 }, action: restart_service, services: [nginx] }
      - { name: gw, ping: { address: 10.99.0.254 } }
      - { name: lan, link: { interface: eth0 } }
      - { name: own, address: { address: 10.99.0.1 } }
      - { name: batch, module: { module: batch } }
      - { name: other, module: { module: www, node: web2 } }
      - { name: far, module: { module: www, url: 'http://10.0.0.1:9010/health/www' } }
      - { name: disk, custom: { run: ./disk, interval: 1m, timeout: 5s }, share_when_down: 50 }
      - { name: agent, custom: { run: ./agent, reports: true }, when: both }
      - { name: third, witness: { node: web2 } }
    max_loop: 5 in 1h
    after_max_loop: backoff
    failover: { rules: [{ name: slow, when: 'tcp.http == down and remote.state == UP', do: stopstart }], disable: [link_failure] }
    traffic: { on_failure: reset, slow_start: 30s, drain_on_stop: false }
  - name: batch
    kind: light
    scripts: { start: ./batch start, stop: ./batch stop }
";

fn with_upkeep() -> String {
    format!("{FARM}{UPKEEP}")
}

#[test]
fn upkeep_is_read_and_shown() {
    let config = parsed(&with_upkeep());
    let [www, batch] = config.modules.as_slice() else { panic!("two modules: {:?}", config.modules) };
    assert_eq!((www.kind.word(), batch.kind.word()), ("farm", "light"));
    assert_eq!(www.upkeep.checks.len(), 12);
    assert_eq!(www.upkeep.checks[0].resource(), "tcp.http");
    assert_eq!(www.upkeep.checks[9].share_when_down, 50);
    assert_eq!(www.upkeep.variables[0], ("PORT".to_owned(), "8080".to_owned()));
    assert_eq!(batch.upkeep.scripts.len(), 2);
    assert_eq!(parsed(&effective(&config)), config);
    assert_eq!(
        ownership_hash(&config),
        ownership_hash(&parsed(FARM)),
        "who owns what has nothing to do with it"
    );
}

#[test]
fn the_samples_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut samples = 0;
    for entry in std::fs::read_dir(folder).expect("the samples are there").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let config = load(&path).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        assert_eq!(
            parse(&effective(&config), "/sample.yaml").map(|again| again.modules.len()),
            Ok(config.modules.len())
        );
        samples += 1;
    }
    assert!(samples >= 3, "{samples} samples");
}

#[test]
fn mistakes_in_upkeep_are_named() {
    for (from, to, expected) in [
        ("tcp: { port: 80,", "tpc: { port: 80,", "unknown key `tpc` in a check"),
        ("when: 'tcp.http == down", "when: 'tcp.http = down", "is no rule"),
        ("after: [batch]", "after: [bitch]", "there is no module `bitch`"),
        ("body: ok$", "body: 'ok('", "no regular expression"),
        ("PORT: 8080", "SAFEKIT_X: 8080", "cannot be a variable"),
        ("max_loop: 5 in 1h", "max_loop: five", "no `max_loop`"),
        ("disable: [link_failure]", "disable: [link_failed]", "no `disable`"),
        ("kind: light", "kind: light\n    after: [www]", "comes after"),
        ("{ name: gw, ping", "{ name: lan, ping", "the check lan is there twice"),
        ("services: [nginx, php8.2-fpm]", "services: ['-nginx']", "cannot be a service"),
        ("timeout: 1s }, action: restart", "timeout: 1s }, action: wait", "not looked at in WAIT"),
        ("when: 'tcp.http == down", "when: 'tcp.htpp == down", "no check here is `tcp.htpp`"),
        ("when: 'tcp.http == down", "when: 'tpc.http == down", "no check here is `tpc.http`"),
        ("remote.state == UP', do: stopstart", "remote.state == UP', do: wait", "is not looked at in WAIT"),
        ("remote.state == UP', do: stopstart", "remote.state == UP', do: swap", "not available"),
        ("name: slow", "name: tcp_http", "there is a rule `tcp_http` already"),
        ("name: slow", "name: module_failure", "there is a rule `module_failure` already"),
        ("when: both", "when: second", "not available"),
        ("start: ./start,", "start_prim: ./start,", "not available"),
        ("action: restart_service, services: [nginx]", "services: [nginx]", "are for `restart_service`"),
        ("at_least: 1, at_most: 9", "at_least: 10, at_most: 9", "below `at_least`"),
        ("interval: 2s", "interval: 1ms", "below 10ms"),
        (
            "interface: eth0 } }\n      - { name: own",
            "interface: a/b } }\n      - { name: own",
            "cannot be an interface",
        ),
        ("'http://10.0.0.1:9010/health/www'", "'http:// nowhere'", "is no URL"),
        ("run: ./disk", "run: \"./d\\0\"", "no command line"),
        ("MODE: fast", "MODE: \"\\0\"", "zero byte"),
        ("body: ok$", "body: '(\\w{1000}){1000}'", "no regular expression"),
        ("module: { module: batch }", "module: { module: bitch }", "there is no module `bitch`"),
        (
            "kind: light\n    scripts: { start: ./batch start, stop: ./batch stop }",
            "kind: light\n    checks: [{ name: a, tcp: { port: 1 }, action: restart_service }]",
            "no service to restart",
        ),
    ] {
        let text = with_upkeep();
        assert!(text.contains(from), "{from}");
        let errors = parse(&text.replacen(from, to, 1), "farm.yaml").expect_err(to);
        let messages: Vec<&str> = errors.errors.iter().map(|error| error.message.as_str()).collect();
        assert!(messages.iter().any(|message| message.contains(expected)), "{to}: {messages:?}");
    }
}

#[test]
fn the_samples_of_services_are_read_and_shown() {
    for (sample, modules, checks) in [("light.yaml", 2, 5), ("farm-services.yaml", 2, 4)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(sample);
        let config = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let found: usize = config.modules.iter().map(|module| module.upkeep.checks.len()).sum();
        assert_eq!((config.modules.len(), found), (modules, checks), "{sample}");
        assert_eq!(parsed(&effective(&config)), config, "{sample}");
    }
}

#[test]
fn what_is_looked_at_before_the_start_is_waited_for() {
    let config =
        parsed(&with_upkeep().replacen("timeout: 1s }, action: restart", "timeout: 1s }, when: pre", 1));
    assert_eq!(config.modules[0].upkeep.checks[0].action, crate::types::module::Action::Wait);
}

/// Any damage to a file ends in errors or in a configuration, quickly, and never in a panic.
#[test]
fn damaged_files_never_panic() {
    let mut seed = 1_u64;
    let mut below = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % bound
    };
    let snippets = [
        "\t",
        "{",
        "}",
        "[",
        "]",
        ":",
        "- ",
        "&a ",
        "*a",
        "!t ",
        "\n",
        "'",
        "\"",
        "~",
        "<<: ",
        "? ",
        "|\n",
        "99999999999999999999",
        "\u{feff}",
        "\u{85}",
        "%",
        "---\n",
    ];
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut text: Vec<char> = FARM.chars().collect();
        for _ in 0..=below(3) {
            let at = below(text.len());
            match below(3) {
                0 => drop(text.drain(at..(at + 1 + below(20)).min(text.len()))),
                1 => text.splice(at..at, snippets[below(snippets.len())].chars()).for_each(drop),
                _ => text.swap(at, below(FARM.len() / 2)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse(&text, "farm.yaml") {
            refused += 1;
            assert!(
                !errors.errors.is_empty() && errors.errors.iter().all(|error| !error.hint.is_empty()),
                "{errors}"
            );
        }
    }
    assert!(refused > 1_000, "most damage shows: {refused}");
}
