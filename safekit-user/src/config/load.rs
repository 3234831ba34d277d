//! Text to [`Config`]: syntax and types by serde, then everything that needs two places of the file to be compared.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::error::{ConfigErrors, Position, Problem, did_you_mean};
use super::locate::Step::{self, Item, Key};
use super::locate::{duplicate_key, locate, position_of};
use super::{
    Balance, Cluster, Config, Delivery, Farm, Module, Network, Node, Protocol, Rule, VirtualIp, duration, raw,
};
use crate::types::ids::NODES_MAX;
use crate::types::{NodeId, Timing};

/// Longer than any real file; a larger one is a mistake, and is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The filter's tables hold so many rule groups, one for each farm.
const FARMS_MAX: usize = 64;
/// Interface names as the kernel has them (IFNAMSIZ without its end).
const INTERFACE_CHARS_MAX: usize = 15;
const NAME_CHARS_MAX: usize = 63;

/// Reads and checks a file. A relative `key_file` is relative to the file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let unreadable = |message: String, hint: &str| {
        let problem = Problem { position: None, message, hint: hint.to_owned() };
        ConfigErrors { file: file.clone(), text: String::new(), problems: vec![problem] }
    };
    let metadata = std::fs::metadata(path).map_err(|error| {
        unreadable(
            format!("cannot read the file: {error}"),
            "name the file, or make /etc/safekit/safekit.yaml",
        )
    })?;
    if metadata.is_dir() {
        return Err(unreadable("this is a directory".to_owned(), "name the YAML file inside it"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable(
            "longer than 1 MiB".to_owned(),
            "a configuration is a few kilobytes; is this the right file?",
        ));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| unreadable(format!("cannot read the file: {error}"), "look at its permissions"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        unreadable(
            format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            "save the file as UTF-8 (`file` tells what it is)",
        )
    })?;
    let mut config = parse(&text, &file)?;
    if config.cluster.key_file.is_relative() {
        config.cluster.key_file = path.parent().unwrap_or(Path::new("")).join(&config.cluster.key_file);
    }
    Ok(config)
}

/// Checks a text; `file` is only its name in messages.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let failed = |problems| ConfigErrors { file: file.to_owned(), text: text.to_owned(), problems };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        let hint = "start from the sample configs/farm.yaml".to_owned();
        return Err(failed(vec![Problem { position: None, message: "the file is empty".to_owned(), hint }]));
    }
    if let Some(at) = second_document(text) {
        let message = "a second document begins here".to_owned();
        let hint = "keep one document: remove the `---` inside the file".to_owned();
        return Err(failed(vec![Problem { position: Some(at), message, hint }]));
    }
    if let Some((key, at)) = duplicate_key(text) {
        return Err(failed(vec![Problem {
            position: Some(at),
            message: format!("`{key}` stands here twice"),
            hint: "keep one of them; a list of several things starts each with `- `".to_owned(),
        }]));
    }
    let file: raw::File = serde_yaml::from_str(text).map_err(|error| failed(vec![serde_problem(&error)]))?;
    let mut check = Check { text, problems: Vec::new() };
    let config = check.config(file);
    if check.problems.is_empty() {
        Ok(config)
    } else {
        check.problems.sort_by_key(|problem| problem.position);
        Err(failed(check.problems))
    }
}

/// serde would read the first document and say nothing of the rest.
fn second_document(text: &str) -> Option<Position> {
    let begun = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| !begun(line)).skip(1);
    lines.find(|(_, line)| line.trim_end() == "---").map(|(index, _)| Position { line: index + 1, column: 1 })
}

/// What serde found, with a hint that fits.
fn serde_problem(error: &serde_yaml::Error) -> Problem {
    let position = position_of(error);
    let mut message = error.to_string();
    if let Some(Position { line, column }) = position {
        message = message.replace(&format!(" at line {line} column {column}"), "");
    }
    let hint = hint_for(&message);
    Problem { position: position.or(Some(Position { line: 1, column: 1 })), message, hint }
}

fn hint_for(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.contains("unknown field") {
        let (word, allowed) = quoted.split_first().map_or(("", &[][..]), |(word, rest)| (*word, rest));
        return match did_you_mean(word, allowed.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("allowed here: {}", allowed.join(", ")),
        };
    }
    if message.contains("missing field") {
        return format!(
            "add `{}:` here; the sample configs/farm.yaml shows each key",
            quoted.first().unwrap_or(&"")
        );
    }
    let hints = [
        ("tab character", "YAML indents with spaces only; replace the tab"),
        ("quoted scalar", "a quote is opened there and never closed"),
        ("control characters", "the file holds bytes that no text has; save it anew as text"),
        (
            "cannot start any token",
            "YAML indents with spaces only; there may be a tab, or a value that needs quotes",
        ),
        ("repetition limit", "aliases (`*name`) multiply here without end; write the values out"),
        ("recursion limit", "brackets or lists are nested far too deep; is this the right file?"),
        ("IP address", "write an address like 10.99.0.1 or fd00::1, without a prefix length"),
        ("expected u16", "a port is a whole number from 1 to 65535"),
        ("expected a sequence", "write a list: each item on its own line, starting with `- `"),
        ("expected a map", "write `key: value` pairs here"),
        ("expected struct", "write `key: value` pairs here"),
        ("expected a string", "write one word or text here; quotes make a text of anything"),
        ("did not find expected", "look at the indentation and the brackets of this line and the one above"),
        (
            "mapping values are not allowed",
            "look at the indentation of this line; a text with `: ` needs quotes",
        ),
        ("more than one document", "keep one document: remove the `---` inside the file"),
    ];
    let fitting = hints.iter().find(|(part, _)| message.contains(part));
    fitting.map_or("compare with the sample configs/farm.yaml", |(_, hint)| hint).to_owned()
}

/// The second half of the work: gathers every problem, and goes on with a stand-in.
struct Check<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, path: &[Step<'_>], message: impl Into<String>, hint: impl Into<String>) {
        let position = locate(self.text, path);
        self.problems.push(Problem { position, message: message.into(), hint: hint.into() });
    }

    fn config(&mut self, file: raw::File) -> Config {
        if file.console.is_some() {
            self.not_yet(&[Key("console")]);
        }
        let cluster = self.cluster(file.cluster);
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        let mut modules = Vec::new();
        for (index, module) in file.modules.into_iter().enumerate() {
            self.unique_name(&module.name, &mut names, &[Key("modules"), Item(index), Key("name")]);
            modules.push(Module::Farm(self.farm(index, module, &cluster, &mut addresses)));
        }
        if modules.is_empty() {
            self.problem(&[Key("modules")], "there is no module", "add one; configs/farm.yaml shows a farm");
        }
        if modules.len() > FARMS_MAX {
            self.problem(
                &[Key("modules")],
                format!("more than {FARMS_MAX} farms"),
                "put several rules into one farm",
            );
        }
        Config { cluster, modules }
    }

    fn not_yet(&mut self, path: &[Step<'_>]) {
        let Some(Key(key)) = path.last() else { return };
        let message = format!("`{key}` is not available in this version");
        self.problem(path, message, "remove it; the changelog says when it comes");
    }

    fn unique_name(&mut self, name: &str, seen: &mut HashSet<String>, path: &[Step<'_>]) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || !name.chars().all(legal) {
            let hint = format!("use 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` or `.`");
            self.problem(path, format!("`{name}` is no name"), hint);
        }
        if !seen.insert(name.to_owned()) {
            self.problem(path, format!("the name `{name}` is taken"), "names are unique; choose another");
        }
    }

    fn port(&mut self, port: u16, path: &[Step<'_>]) {
        if port == 0 {
            self.problem(path, "port 0 is no port", "a port is a whole number from 1 to 65535");
        }
    }

    fn cluster(&mut self, cluster: raw::Cluster) -> Cluster {
        let mut ignored = HashSet::new();
        self.unique_name(&cluster.name, &mut ignored, &[Key("cluster"), Key("name")]);
        if cluster.key_file.is_empty() {
            self.problem(
                &[Key("cluster"), Key("key_file")],
                "no file is named",
                "`safekit keygen FILE` makes a key",
            );
        }
        let networks = self.networks(cluster.networks);
        let nodes = self.nodes(cluster.nodes, &networks);
        let timing = self.timing(&cluster.heartbeat);
        Cluster { name: cluster.name, key_file: cluster.key_file.into(), networks, nodes, timing }
    }

    fn networks(&mut self, networks: Vec<raw::Network>) -> Vec<Network> {
        let mut names = HashSet::new();
        for (index, network) in networks.iter().enumerate() {
            let at = [Key("cluster"), Key("networks"), Item(index)];
            self.unique_name(&network.name, &mut names, &[at[0], at[1], at[2], Key("name")]);
            self.port(network.port, &[at[0], at[1], at[2], Key("port")]);
        }
        if networks.is_empty() {
            let hint = "add the network that the virtual IPs are on: `- { name: lan, port: 4800 }`";
            self.problem(&[Key("cluster"), Key("networks")], "there is no heartbeat network", hint);
        }
        networks.into_iter().map(|network| Network { name: network.name, port: network.port }).collect()
    }

    fn nodes(&mut self, nodes: Vec<raw::Node>, networks: &[Network]) -> Vec<Node> {
        let list = [Key("cluster"), Key("nodes")];
        if nodes.is_empty() {
            self.problem(
                &list,
                "there is no node",
                "add one: `- { name: web1, addresses: { lan: 10.99.0.1 } }`",
            );
        }
        if nodes.len() > NODES_MAX {
            self.problem(
                &list,
                format!("{} nodes; at most {NODES_MAX}", nodes.len()),
                "make two clusters of them",
            );
        }
        let mut names = HashSet::new();
        let mut taken = HashSet::new();
        let mut checked = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let at = [list[0], list[1], Item(index)];
            self.unique_name(&node.name, &mut names, &[at[0], at[1], at[2], Key("name")]);
            let addresses =
                networks.iter().map(|network| node.addresses.get(&network.name).copied()).collect();
            for (network, address) in &node.addresses {
                let path = [at[0], at[1], at[2], Key("addresses"), Key(network)];
                self.node_address(network, *address, networks, &path);
                if !taken.insert((network.clone(), *address)) {
                    self.problem(
                        &path,
                        format!("{address} is another node's address"),
                        "each node has its own",
                    );
                }
            }
            if node.addresses.is_empty() {
                let path = [at[0], at[1], at[2], Key("addresses")];
                self.problem(&path, "the node has no address", "add `lan: 10.99.0.1`, say");
            }
            checked.push(Node { name: node.name, addresses });
        }
        checked
    }

    fn node_address(&mut self, network: &str, address: IpAddr, networks: &[Network], path: &[Step<'_>]) {
        if !networks.iter().any(|known| known.name == network) {
            let known: Vec<&str> = networks.iter().map(|known| known.name.as_str()).collect();
            let hint = match did_you_mean(network, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the networks of this cluster: {}", known.join(", ")),
            };
            self.problem(path, format!("there is no network `{network}`"), hint);
        }
        if address.is_unspecified() || address.is_multicast() {
            self.problem(path, format!("{address} is no host's address"), "write the node's own address");
        }
    }

    fn timing(&mut self, heartbeat: &raw::Heartbeat) -> Timing {
        let at = |key| [Key("cluster"), Key("heartbeat"), Key(key)];
        let profile = heartbeat.profile.as_deref().unwrap_or("default");
        let mut timing = match profile {
            "fast" => Timing::FAST,
            "default" => Timing::DEFAULT,
            "tolerant" => Timing::TOLERANT,
            other => {
                let hint = choice(other, &["fast", "default", "tolerant"]);
                self.problem(&at("profile"), format!("there is no profile `{other}`"), hint);
                Timing::DEFAULT
            }
        };
        let own = [
            ("interval", &heartbeat.interval, &mut timing.interval),
            ("timeout", &heartbeat.timeout, &mut timing.timeout),
            ("lease", &heartbeat.lease, &mut timing.lease),
        ];
        for (key, text, value) in own {
            let Some(text) = text else { continue };
            match duration::parse(text) {
                Ok(span) => *value = span,
                Err(message) => self.problem(&at(key), message, "durations carry a unit: 25ms, 200ms, 1s"),
            }
        }
        self.timing_fits(&timing);
        timing
    }

    /// Three heartbeats fit a lease, the lease ends before a peer yields, and a peer yields before it is replaced.
    fn timing_fits(&mut self, timing: &Timing) {
        let Timing { interval, timeout, lease } = *timing;
        let fits = interval >= Duration::from_millis(5)
            && interval * 3 <= lease
            && lease * 4 < timeout * 3
            && timeout <= Duration::from_secs(60);
        if !fits {
            self.problem(
                &[Key("cluster"), Key("heartbeat")],
                format!(
                    "interval {}, lease {} and timeout {} do not go together",
                    duration::print(interval),
                    duration::print(lease),
                    duration::print(timeout)
                ),
                "interval at least 5ms, 3 × interval at most the lease, the lease under ¾ of the timeout, timeout at most 1m",
            );
        }
    }

    fn farm(
        &mut self,
        index: usize,
        module: raw::Module,
        cluster: &Cluster,
        addresses: &mut HashSet<IpAddr>,
    ) -> Farm {
        let at = |key| [Key("modules"), Item(index), Key(key)];
        match module.kind.as_str() {
            "farm" => {}
            "mirror" | "light" => {
                let message = format!("modules of kind `{}` are not available in this version", module.kind);
                self.problem(&at("kind"), message, "use `farm`; the changelog says when the others come");
            }
            other => {
                self.problem(&at("kind"), format!("there is no kind `{other}`"), choice(other, &["farm"]));
            }
        }
        self.later_keys(index, &module);
        let delivery = module.delivery.as_deref().unwrap_or("flood");
        match delivery {
            "flood" => {}
            "multicast" | "directed" => {
                let message = format!("delivery `{delivery}` is not available in this version");
                self.problem(&at("delivery"), message, "use `flood`");
            }
            other => self.problem(
                &at("delivery"),
                format!("there is no delivery `{other}`"),
                choice(other, &["flood"]),
            ),
        }
        let nodes = self.farm_nodes(index, module.nodes.as_deref(), cluster);
        let virtual_ips = self.virtual_ips(index, module.virtual_ips, cluster, addresses);
        let rules = self.rules(index, module.rules);
        Farm { name: module.name, nodes, virtual_ips, delivery: Delivery::Flood, rules }
    }

    fn later_keys(&mut self, index: usize, module: &raw::Module) {
        let later = [
            ("scripts", &module.scripts),
            ("services", &module.services),
            ("variables", &module.variables),
            ("checks", &module.checks),
            ("failover", &module.failover),
            ("replicate", &module.replicate),
            ("replication", &module.replication),
            ("witness", &module.witness),
            ("start", &module.start),
            ("after", &module.after),
        ];
        for (key, value) in later {
            if value.is_some() {
                self.not_yet(&[Key("modules"), Item(index), Key(key)]);
            }
        }
    }

    fn farm_nodes(&mut self, index: usize, names: Option<&[String]>, cluster: &Cluster) -> Vec<NodeId> {
        let all = || (0..cluster.nodes.len()).map(|node| NodeId(node as u8));
        let Some(names) = names else { return all().collect() };
        let mut chosen = HashSet::new();
        for (item, name) in names.iter().enumerate() {
            let path = [Key("modules"), Item(index), Key("nodes"), Item(item)];
            let known: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
            match known.iter().position(|known| known == name) {
                None => self.problem(&path, format!("there is no node `{name}`"), choice(name, &known)),
                Some(node) => {
                    if !chosen.insert(NodeId(node as u8)) {
                        self.problem(
                            &path,
                            format!("the node `{name}` stands here twice"),
                            "keep one of them",
                        );
                    }
                }
            }
        }
        if names.is_empty() {
            let hint = "name its nodes, or leave the key out: then all nodes take part";
            self.problem(&[Key("modules"), Item(index), Key("nodes")], "the module has no node", hint);
        }
        all().filter(|node| chosen.contains(node)).collect()
    }

    fn virtual_ips(
        &mut self,
        index: usize,
        virtual_ips: Vec<raw::VirtualIp>,
        cluster: &Cluster,
        taken: &mut HashSet<IpAddr>,
    ) -> Vec<VirtualIp> {
        let list = [Key("modules"), Item(index), Key("virtual_ips")];
        if virtual_ips.is_empty() {
            let hint = "add `virtual_ips:` with `- { address: 10.99.0.100, interface: eth0 }`";
            self.problem(&list, "the farm has no virtual IP", hint);
        }
        for (item, vip) in virtual_ips.iter().enumerate() {
            let address_at = [list[0], list[1], list[2], Item(item), Key("address")];
            let address = vip.address;
            if !taken.insert(address) {
                self.problem(
                    &address_at,
                    format!("the virtual IP {address} stands here twice"),
                    "keep one of them",
                );
            }
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                self.problem(
                    &address_at,
                    format!("{address} is no virtual IP"),
                    "use a free address of the network",
                );
            }
            if address.is_ipv6() {
                let hint = "use an IPv4 address; the changelog says when IPv6 comes";
                self.problem(&address_at, "IPv6 virtual IPs are not available in this version", hint);
            }
            let owner = cluster.nodes.iter().find(|node| node.addresses.contains(&Some(address)));
            if let Some(owner) = owner {
                let message = format!("{address} is the own address of node {}", owner.name);
                self.problem(&address_at, message, "a virtual IP is an address that no node has for itself");
            }
            self.interface(&vip.interface, &[list[0], list[1], list[2], Item(item), Key("interface")]);
        }
        let virtual_ip = |vip: raw::VirtualIp| VirtualIp { address: vip.address, interface: vip.interface };
        virtual_ips.into_iter().map(virtual_ip).collect()
    }

    fn interface(&mut self, name: &str, path: &[Step<'_>]) {
        let legal = |c: char| !c.is_whitespace() && c != '/' && c != ':' && !c.is_control();
        let dots = name == "." || name == "..";
        if name.is_empty() || name.len() > INTERFACE_CHARS_MAX || dots || !name.chars().all(legal) {
            let hint =
                format!("interface names have 1 to {INTERFACE_CHARS_MAX} characters; `ip link` lists them");
            self.problem(path, format!("`{name}` is no interface name"), hint);
        }
    }

    fn rules(&mut self, index: usize, rules: Vec<raw::Rule>) -> Vec<Rule> {
        let list = [Key("modules"), Item(index), Key("rules")];
        if rules.is_empty() {
            let hint = "add `rules:` with `- { protocol: tcp, port: 80, balance: connection }`";
            self.problem(&list, "the farm has no rule, so it would drop everything", hint);
        }
        let mut seen = HashSet::new();
        let mut checked = Vec::new();
        for (item, rule) in rules.into_iter().enumerate() {
            let at = |key| [list[0], list[1], list[2], Item(item), Key(key)];
            let later = [("weights", &rule.weights), ("nodes", &rule.nodes), ("evidence", &rule.evidence)];
            for (key, value) in later {
                if value.is_some() {
                    self.not_yet(&at(key));
                }
            }
            self.port(rule.port, &at("port"));
            let protocol = self.protocol(&rule.protocol, &at("protocol"));
            let balance = self.balance(rule.balance.as_deref(), &at("balance"));
            if !seen.insert((rule.protocol.clone(), rule.port)) {
                let message = format!("{} {} has a rule already", rule.protocol, rule.port);
                self.problem(&at("port"), message, "one rule for each protocol and port");
            }
            checked.push(Rule { protocol, port: rule.port, balance });
        }
        checked
    }

    fn protocol(&mut self, name: &str, path: &[Step<'_>]) -> Protocol {
        match name {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                self.problem(path, format!("there is no protocol `{other}`"), choice(other, &["tcp", "udp"]));
                Protocol::Tcp
            }
        }
    }

    fn balance(&mut self, name: Option<&str>, path: &[Step<'_>]) -> Balance {
        match name {
            None | Some("connection") => Balance::Connection,
            Some("client") => Balance::Client,
            Some("client_network") => Balance::ClientNetwork,
            Some(other) => {
                let hint = choice(other, &["connection", "client", "client_network"]);
                self.problem(path, format!("there is no balance `{other}`"), hint);
                Balance::Connection
            }
        }
    }
}

fn choice(word: &str, allowed: &[&str]) -> String {
    match did_you_mean(word, allowed.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("allowed here: {}", allowed.join(", ")),
    }
}
