//! Judges what was found on a node: what keeps a farm from working here, and what to type next. Pure.
//!
//! ```text
//! driver/doctor --Facts--> judge --Check, Check, …--> front/cli/doctor
//! ```

mod application;
mod copies;
mod daemon;
pub mod facts;
mod interface;
mod keeping;
pub mod machine;
mod network;
#[cfg(test)]
mod tests;
mod virtual_ip;

use crate::types::doctor::{Check, CheckState};
use facts::Facts;

/// Every check, in the order in which they should be read.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    machine::judge(&mut Checks { about: "machine".to_owned(), found: &mut checks }, facts);
    keeping::judge(&mut Checks { about: "machine".to_owned(), found: &mut checks }, &facts.keeping);
    for interface in &facts.interfaces {
        let about = format!("interface {}", interface.name);
        interface::judge(&mut Checks { about, found: &mut checks }, interface, facts);
    }
    for network in &facts.networks {
        let about = format!("network {}", network.name);
        network::judge(&mut Checks { about, found: &mut checks }, network);
    }
    for vip in &facts.virtual_ips {
        let about = format!("virtual IP {}", vip.address);
        virtual_ip::judge(&mut Checks { about, found: &mut checks }, vip);
    }
    for application in &facts.applications {
        let about = format!("module {}", application.module);
        application::judge(&mut Checks { about, found: &mut checks }, application);
    }
    for replicated in &facts.replicated {
        let about = format!("module {}", replicated.module);
        copies::judge(&mut Checks { about, found: &mut checks }, replicated);
    }
    daemon::judge(&mut Checks { about: "daemon".to_owned(), found: &mut checks }, facts.daemon.as_ref());
    checks
}

/// The worst of them; what is unknown is not worse than what is well.
pub fn worst(checks: &[Check]) -> CheckState {
    let is = |state| checks.iter().any(|check| check.state == state);
    if is(CheckState::Fault) {
        CheckState::Fault
    } else if is(CheckState::Warning) {
        CheckState::Warning
    } else {
        CheckState::Ok
    }
}

/// Collects the checks about one thing.
struct Checks<'a> {
    about: String,
    found: &'a mut Vec<Check>,
}

impl Checks<'_> {
    fn ok(&mut self, name: &str, found: impl Into<String>) {
        self.push(name, CheckState::Ok, found.into(), None);
    }

    fn unknown(&mut self, name: &str, found: impl Into<String>) {
        self.push(name, CheckState::Unknown, found.into(), None);
    }

    fn warning(&mut self, name: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.push(name, CheckState::Warning, found.into(), Some(remedy.into()));
    }

    fn fault(&mut self, name: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.push(name, CheckState::Fault, found.into(), Some(remedy.into()));
    }

    fn push(&mut self, name: &str, state: CheckState, found: String, remedy: Option<String>) {
        self.found.push(Check { about: self.about.clone(), name: name.to_owned(), state, found, remedy });
    }
}
