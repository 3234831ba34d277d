//! Who may do what: three roles, each with all that the one before it may.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Command;
use super::mirror::MirrorOrder;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Looks, and changes nothing.
    Monitor,
    /// Starts, stops and drains; no configuration.
    Control,
    /// Everything.
    Admin,
}

impl Access {
    pub const ALL: [Self; 3] = [Self::Monitor, Self::Control, Self::Admin];

    /// The group of this machine whose members have it.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Monitor => "safekit",
            Self::Control => "safekit-control",
            Self::Admin => "safekit-admin",
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Command {
    /// Who may give it.
    pub fn needs(&self) -> Access {
        match self {
            Self::Status
            | Self::Watch
            | Self::Explain { .. }
            | Self::Resource { .. }
            | Self::Rules { .. }
            | Self::Logs { .. }
            | Self::LogPage { .. }
            | Self::Events { .. }
            | Self::ConfigHistory
            | Self::Adjust { dry_run: true, .. } => Access::Monitor,
            Self::Adjust { dry_run: false, .. }
            | Self::Module { .. }
            | Self::Mirror {
                order:
                    MirrorOrder::Prim { force: false }
                    | MirrorOrder::Second { full_sync: false }
                    | MirrorOrder::Verify,
                ..
            }
            | Self::SetResource { .. }
            | Self::Report { .. }
            | Self::Checks { .. } => Access::Control,
            // What the other copy has, or all that this one has, may be lost by it.
            Self::Mirror {
                order: MirrorOrder::Prim { force: true } | MirrorOrder::Second { full_sync: true },
                ..
            } => Access::Admin,
            // The program and the configuration of today take effect: that is more than to operate.
            Self::Reload | Self::Audit { .. } | Self::ConfigApply { .. } | Self::KeyRotate => Access::Admin,
            // It has what scripts are given: passwords, too.
            Self::ConfigText { .. } => Access::Admin,
            // Of nodes, whose connections are authenticated otherwise; nobody types it.
            Self::KeyStep { .. } | Self::Agree { .. } => Access::Admin,
            Self::On { each, .. } => each.needs(),
        }
    }

    /// As the audit log has it, in the words of the command line; none where it changes nothing. Never a secret.
    pub fn audited(&self) -> Option<String> {
        match self {
            Self::Status
            | Self::Watch
            | Self::Explain { .. }
            | Self::Resource { .. }
            | Self::Rules { .. }
            | Self::Logs { .. }
            | Self::LogPage { .. }
            | Self::Events { .. }
            | Self::Audit { .. }
            | Self::ConfigText { .. }
            | Self::ConfigHistory
            | Self::ConfigApply { dry_run: true, .. }
            | Self::Adjust { dry_run: true, .. } => None,
            // A checking program says so every few seconds, and nodes agree all the time; what it leads to is an event.
            Self::Report { .. } | Self::KeyStep { .. } | Self::Agree { .. } => None,
            Self::Adjust { wish, dry_run: false } => Some(wish.to_string()),
            Self::Module { module, verb } => Some(format!("{} {module}", verb.word())),
            Self::Mirror { module, order } => Some(match order {
                MirrorOrder::Prim { force: false } => format!("prim {module}"),
                MirrorOrder::Prim { force: true } => format!("prim {module} --force"),
                MirrorOrder::Second { full_sync: false } => format!("second {module}"),
                MirrorOrder::Second { full_sync: true } => format!("second {module} --full-sync"),
                MirrorOrder::Verify => format!("mirror verify {module}"),
            }),
            Self::SetResource { module, name, state } => {
                Some(format!("resource set {module} {name} {}", state.word()))
            }
            Self::Checks { module, on, for_ms } => {
                let word = if *on { "on" } else { "off" };
                let span = for_ms.map(|ms| format!(" --for {}s", ms / 1000)).unwrap_or_default();
                Some(format!("check {word} {module}{span}"))
            }
            Self::ConfigApply { text, dry_run: false, .. } => {
                Some(format!("config apply ({} bytes)", text.len()))
            }
            Self::KeyRotate => Some("keygen --rotate".to_owned()),
            Self::Reload => Some("reload".to_owned()),
            Self::On { nodes, each, .. } => each.audited().map(|each| match nodes.as_slice() {
                [] => format!("{each} --all"),
                nodes => nodes.iter().fold(each, |text, node| text + " --node " + node),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Wish, module::Verb};

    #[test]
    fn what_is_done_on_many_nodes_needs_the_role_that_it_needs_on_one() {
        let wish = Wish::Drain { target: "web2".into() };
        let on = |each: Command| Command::On {
            nodes: vec!["web1".into()],
            each: Box::new(each),
            by: String::new(),
        };
        let mirror = |order| Command::Mirror { module: "db".into(), order };
        for (command, needs, audited) in [
            (Command::Status, Access::Monitor, None),
            (Command::Adjust { wish: wish.clone(), dry_run: true }, Access::Monitor, None),
            (Command::Adjust { wish, dry_run: false }, Access::Control, Some("drain web2 --node web1")),
            (
                Command::Module { module: "www".into(), verb: Verb::Stop },
                Access::Control,
                Some("stop www --node web1"),
            ),
            (mirror(MirrorOrder::Prim { force: false }), Access::Control, Some("prim db --node web1")),
            (mirror(MirrorOrder::Prim { force: true }), Access::Admin, Some("prim db --force --node web1")),
            (
                mirror(MirrorOrder::Second { full_sync: true }),
                Access::Admin,
                Some("second db --full-sync --node web1"),
            ),
            (Command::KeyRotate, Access::Admin, Some("keygen --rotate --node web1")),
        ] {
            assert_eq!(command.needs(), needs);
            assert_eq!((on(command.clone()).needs(), on(command).audited().as_deref()), (needs, audited));
        }
    }
}
