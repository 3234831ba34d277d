//! Why a module is where it is, and what leaves that.

use super::{Automaton, Phase};

impl Automaton {
    /// The nearest cause first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        if self.phase == Phase::Held {
            causes.extend(self.blocked.iter().take(super::CAUSES_MAX).cloned());
            causes
                .extend(self.missing.iter().map(|name| format!("it comes after {name}, which is not Ready")));
        }
        causes.extend(self.causes.iter().cloned());
        if causes.is_empty() && self.phase != Phase::Up {
            causes.push("its scripts run".to_owned());
        }
        causes
    }

    /// One sentence with the command to run; none where nothing is to be done.
    pub fn next_step(&self) -> Option<String> {
        let name = &self.setup.name;
        Some(match self.phase {
            Phase::Up => return None,
            Phase::Stopped => format!("`safekit start {name}` starts it"),
            Phase::Delayed(_) => format!("it starts by itself; `safekit start {name}` does not wait"),
            Phase::Held if !self.blocked.is_empty() => {
                format!(
                    "it goes on by itself when that is over; `safekit module explain {name}` shows the rules"
                )
            }
            Phase::Held if !self.missing.is_empty() => {
                format!("it goes on by itself when that is over: `safekit status {}`", self.missing[0])
            }
            Phase::Held => {
                format!(
                    "it tries again by itself; `safekit start {name}` tries now, `safekit logs {name}` shows why"
                )
            }
            Phase::Opening(_) => "`safekit status` shows which node does not agree".to_owned(),
            Phase::Closing(_) => format!("it goes on by itself; `safekit forcestop {name}` does not wait"),
            Phase::Raising | Phase::Starting | Phase::RestartingServices => {
                format!("it goes on by itself; `safekit logs {name}` shows its scripts")
            }
            Phase::Stopping | Phase::Lowering => {
                format!("it goes on by itself; `safekit forcestop {name}` ends its scripts")
            }
        })
    }
}
