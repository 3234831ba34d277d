//! From what an operator named to what the engine can change. Pure.

use crate::config::{Config, Farm, Rule, Share};
use crate::types::share::WEIGHT_MAX;
use crate::types::{Change, GroupId, NodeId, Reply, Wish};

/// Why a wish cannot be fulfilled, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: String,
    pub next_step: String,
}

impl From<Refusal> for Reply {
    fn from(Refusal { error, next_step }: Refusal) -> Self {
        Self::Refused { error, next_step }
    }
}

/// `me` is the node that was asked: a module is drained there.
pub fn resolve(config: &Config, me: NodeId, wish: &Wish) -> Result<Vec<Change>, Refusal> {
    match wish {
        Wish::Drain { target } => drain(config, me, target, true),
        Wish::Undrain { target } => drain(config, me, target, false),
        Wish::Weight { module, node, weight, rule } => {
            let node = config.node(node).ok_or_else(|| no_such("node", node, names_of_nodes(config)))?;
            let farm = farm(config, module)?;
            let groups = match rule {
                Some(rule) => vec![group_of_rule(farm, rule)?],
                None => weighted_groups(config, farm),
            };
            if let Some(weight) = weight.filter(|weight| *weight > WEIGHT_MAX) {
                let next_step = format!("name a weight from 0 to {WEIGHT_MAX}");
                return Err(Refusal { error: format!("a weight of {weight} is too large"), next_step });
            }
            groups.into_iter().map(|group| weigh(config, farm, group, node, *weight)).collect()
        }
    }
}

/// A name may be a node's and a module's; nodes are what is drained as a rule.
fn drain(config: &Config, me: NodeId, target: &str, drain: bool) -> Result<Vec<Change>, Refusal> {
    if let Some(node) = config.node(target) {
        return Ok(vec![if drain { Change::Drain { node } } else { Change::Undrain { node } }]);
    }
    let Some(farm) = config.farms().find(|farm| farm.name == target) else {
        let modules = config.farms().map(|farm| farm.name.as_str());
        let known: Vec<&str> = names_of_nodes(config).chain(modules).collect();
        return Err(Refusal {
            error: format!("there is neither a node nor a module {target}"),
            next_step: format!("name one of: {}", known.join(", ")),
        });
    };
    let weight = drain.then_some(0);
    weighted_groups(config, farm).into_iter().map(|group| weigh(config, farm, group, me, weight)).collect()
}

fn weigh(
    config: &Config,
    farm: &Farm,
    group: GroupId,
    node: NodeId,
    weight: Option<u32>,
) -> Result<Change, Refusal> {
    if !farm.nodes.contains(&node) {
        let members: Vec<&str> = farm.nodes.iter().map(|node| config.name(*node)).collect();
        return Err(Refusal {
            error: format!("{} is no node of module {}", config.name(node), farm.name),
            next_step: format!("name one of: {}", members.join(", ")),
        });
    }
    match config.share(group) {
        Share::Weighted(_) => Ok(Change::Weight { group, node, weight }),
        Share::Cascade(_) => Err(Refusal {
            error: "in a cascade the first that is there takes all: there are no weights".to_owned(),
            next_step: format!("drain the node: `safekit drain {}`", config.name(node)),
        }),
    }
}

fn weighted_groups(config: &Config, farm: &Farm) -> Vec<GroupId> {
    let of_farm = config.groups.iter().filter(|group| group.module == farm.name);
    of_farm.filter(|group| matches!(group.share, Share::Weighted(_))).map(|group| group.id).collect()
}

fn farm<'c>(config: &'c Config, module: &str) -> Result<&'c Farm, Refusal> {
    let found = config.farms().find(|farm| farm.name == module);
    found.ok_or_else(|| no_such("module", module, config.farms().map(|farm| farm.name.as_str())))
}

fn group_of_rule(farm: &Farm, name: &str) -> Result<GroupId, Refusal> {
    let found = farm.rules.iter().find(|rule| rule_name(rule) == name);
    let names: Vec<String> = farm.rules.iter().map(rule_name).collect();
    found.map(|rule| rule.group).ok_or_else(|| {
        no_such(&format!("rule of module {}", farm.name), name, names.iter().map(String::as_str))
    })
}

/// `tcp/443`, as operators write it.
pub fn rule_name(rule: &Rule) -> String {
    format!("{}/{}", rule.protocol.name(), rule.ports)
}

fn names_of_nodes(config: &Config) -> impl Iterator<Item = &str> {
    config.cluster.nodes.iter().map(|node| node.name.as_str())
}

fn no_such<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> Refusal {
    let known: Vec<&str> = known.collect();
    Refusal {
        error: format!("there is no {what} {name}"),
        next_step: format!("name one of: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FARM: &str = "
cluster:
  name: shop
  key_file: cluster.key
  networks: [{ name: lan }]
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
    - { name: web3, addresses: { lan: 10.99.0.3 } }
modules:
  - name: www
    kind: farm
    nodes: [web1, web2]
    virtual_ips: [{ address: 10.99.0.100, interface: eth0 }]
    rules:
      - { protocol: tcp, port: 80 }
      - { protocol: tcp, port: 443, weights: { web1: 2 } }
      - { protocol: udp, port: 53, cascade: [web2, web1] }
";

    fn answer(wish: &Wish) -> Result<Vec<Change>, Refusal> {
        let config = crate::config::parse(FARM, "/etc/safekit/safekit.yaml").expect("a farm");
        resolve(&config, NodeId(1), wish)
    }

    fn weight(node: &str, weight: Option<u32>, rule: Option<&str>) -> Wish {
        let rule = rule.map(str::to_owned);
        Wish::Weight { module: "www".into(), node: node.into(), weight, rule }
    }

    #[test]
    fn nodes_and_modules_are_drained_by_name() {
        let drain = |target: &str| answer(&Wish::Drain { target: target.into() });
        assert_eq!(drain("web1"), Ok(vec![Change::Drain { node: NodeId(0) }]));
        let of_module =
            [0, 1].map(|group| Change::Weight { group: GroupId(group), node: NodeId(1), weight: Some(0) });
        assert_eq!(drain("www"), Ok(of_module.to_vec()));
        let back = answer(&Wish::Undrain { target: "web3".into() });
        assert_eq!(back, Ok(vec![Change::Undrain { node: NodeId(2) }]));
        let unknown = drain("web9").expect_err("there is none");
        assert_eq!(unknown.next_step, "name one of: web1, web2, web3, www");
    }

    #[test]
    fn weights_go_to_a_rule_or_to_all_that_have_weights() {
        let change = |group| Change::Weight { group: GroupId(group), node: NodeId(0), weight: Some(5) };
        assert_eq!(answer(&weight("web1", Some(5), None)), Ok(vec![change(0), change(1)]));
        assert_eq!(answer(&weight("web1", Some(5), Some("tcp/443"))), Ok(vec![change(1)]));
        for (wish, error) in [
            (weight("web1", Some(5), Some("tcp/81")), "there is no rule of module www tcp/81"),
            (weight("web1", Some(1001), None), "a weight of 1001 is too large"),
            (weight("web3", Some(5), None), "web3 is no node of module www"),
            (
                weight("web1", Some(5), Some("udp/53")),
                "in a cascade the first that is there takes all: there are no weights",
            ),
        ] {
            assert_eq!(answer(&wish).expect_err(error).error, error);
        }
    }
}
