//! What is different between two configurations, as far as people and daemons care.

use super::{Config, Kind, effective};

/// Lines of the longer file that are compared; beyond, the diff says only that there is one.
const LINES_MAX: usize = 4000;
/// Unchanged lines around a change.
const CONTEXT: usize = 2;

/// What it takes to get from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Comments and order at most.
    Nothing,
    /// Scripts, checks and rules of modules, the console's address: the daemon that runs takes it. What it is about.
    WhileRunning(Vec<String>),
    /// Members, addresses, timing, traffic: the daemon is started anew under a filter that stays. What it is about.
    HandOver(Vec<String>),
}

impl Change {
    pub fn of(old: &Config, new: &Config) -> Self {
        if old == new {
            return Self::Nothing;
        }
        let mut same_upkeep = new.clone();
        let mut about = Vec::new();
        for module in &mut same_upkeep.modules {
            if let Some(before) = old.modules.iter().find(|it| it.name == module.name)
                && before.upkeep != module.upkeep
            {
                about.push(format!("the upkeep of {}", module.name));
                module.upkeep = before.upkeep.clone();
            }
        }
        if old.console != new.console {
            about.push("the console".to_owned());
            same_upkeep.console.clone_from(&old.console);
        }
        if *old == same_upkeep {
            return Self::WhileRunning(about);
        }
        Self::HandOver(beyond_upkeep(old, &same_upkeep))
    }
}

fn beyond_upkeep(old: &Config, new: &Config) -> Vec<String> {
    let (before, after) = (&old.cluster, &new.cluster);
    let parts = [
        ("the nodes", before.nodes != after.nodes),
        ("the networks", before.networks != after.networks),
        ("the heartbeat's timing", before.timing != after.timing),
        ("the key file", before.key_file != after.key_file),
        ("the cluster's name", before.name != after.name),
    ];
    let mut about: Vec<String> =
        parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part.to_owned()).collect();
    for module in &new.modules {
        match old.modules.iter().find(|it| it.name == module.name) {
            None => about.push(format!("module {} is new", module.name)),
            Some(before) if before != module => about.push(match &module.kind {
                Kind::Mirror(_) => format!("the directories of mirror {}", module.name),
                Kind::Farm(_) | Kind::Light => format!("the traffic of module {}", module.name),
            }),
            Some(_) => {}
        }
    }
    let gone = old.modules.iter().filter(|it| new.modules.iter().all(|module| module.name != it.name));
    about.extend(gone.map(|module| format!("module {} is gone", module.name)));
    if about.is_empty() {
        about.push("how traffic is shared out".to_owned());
    }
    about
}

/// Lines that go and come, with `-` and `+`, in the form in which both take effect.
pub fn diff(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (effective(old), effective(new));
    lines_diff(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>())
}

fn lines_diff(old: &[&str], new: &[&str]) -> Vec<String> {
    if old.len().max(new.len()) > LINES_MAX {
        return vec!["(too long to show what is different)".to_owned()];
    }
    // The longest common subsequence from each pair of places on.
    let width = new.len() + 1;
    let mut common = vec![0_u16; (old.len() + 1) * width];
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let longer = common[(i + 1) * width + j].max(common[i * width + j + 1]);
            let both = common[(i + 1) * width + j + 1] + 1;
            common[i * width + j] = if left == right { both } else { longer };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    near_changes(&lines)
}

fn near_changes(lines: &[(char, &str)]) -> Vec<String> {
    let is_near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        lines[from..(index + CONTEXT + 1).min(lines.len())].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut shown = Vec::new();
    let mut skipped = false;
    for (index, (sign, line)) in lines.iter().enumerate() {
        if is_near(index) {
            if skipped && !shown.is_empty() {
                shown.push("  ⋮".to_owned());
            }
            skipped = false;
            shown.push(format!("{sign} {line}"));
        } else {
            skipped = true;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::upkeep::Boot;

    const FARM: &str = "
cluster:
  name: shop
  networks: [{ name: lan }]
  nodes:
    - { name: web1, addresses: { lan: 10.99.0.1 } }
    - { name: web2, addresses: { lan: 10.99.0.2 } }
modules:
  - name: www
    kind: farm
    virtual_ips: [{ address: 10.99.0.100, interface: eth0 }]
    rules: [{ protocol: tcp, port: 80 }]
";

    fn config(text: &str) -> Config {
        parse(text, "farm.yaml").expect("a farm")
    }

    #[test]
    fn what_a_daemon_can_take_while_it_runs_is_told_apart() {
        let old = config(FARM);
        assert_eq!(Change::of(&old, &config(&format!("# a comment\n{FARM}"))), Change::Nothing);
        let mut upkeep = old.clone();
        upkeep.modules[0].upkeep.boot = Boot::Off;
        assert_eq!(Change::of(&old, &upkeep), Change::WhileRunning(vec!["the upkeep of www".into()]));
        let console = config(&format!("{FARM}console: {{ listen: 0.0.0.0:9010 }}\n"));
        assert_eq!(Change::of(&old, &console), Change::WhileRunning(vec!["the console".into()]));
        for (from, to, about) in [
            ("10.99.0.2 ", "10.99.0.3 ", "the nodes"),
            ("{ name: lan }", "{ name: lan, port: 4900 }", "the networks"),
            ("port: 80", "port: 81", "the traffic of module www"),
            ("name: www", "name: web", "module web is new"),
        ] {
            let Change::HandOver(parts) = Change::of(&old, &config(&FARM.replace(from, to))) else {
                panic!("{from} -> {to} cannot be taken while it runs");
            };
            assert_eq!(parts[0], about, "{from} -> {to}");
        }
    }

    #[test]
    fn a_diff_shows_what_goes_and_comes_with_its_surroundings() {
        let old = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let new = ["a", "b", "c", "d", "E", "f", "g", "h", "i", "j"];
        let shown = lines_diff(&old, &new);
        assert_eq!(shown, ["  c", "  d", "- e", "+ E", "  f", "  g", "  h", "  i", "+ j"]);
        assert!(lines_diff(&old, &old).is_empty());
        assert_eq!(lines_diff(&[], &["a"]), ["+ a"]);
        assert_eq!(diff(&config(FARM), &config(&FARM.replace("port: 80", "port: 81"))).len(), 6);
    }
}
