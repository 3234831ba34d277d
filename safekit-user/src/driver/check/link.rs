//! Carrier of an interface. The kernel tells of changes.

use std::sync::Arc;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use tokio::sync::Notify;

use super::netlink::Netlink;
use super::sight::Seen;

pub(super) struct Link {
    interface: String,
    netlink: Netlink,
}

impl Link {
    pub(super) fn new(interface: &str, stir: &Arc<Notify>) -> Self {
        let netlink = Netlink::new(vec![MulticastGroup::Link], stir);
        Self { interface: interface.to_owned(), netlink }
    }

    pub(super) async fn look(&self) -> Seen {
        let interface = &self.interface;
        let name = interface.clone();
        let handle = match self.netlink.handle(move |message| concerns(message, &name)) {
            Ok(handle) => handle,
            Err(error) => return Seen::down(format!("cannot ask the kernel for {interface}: {error}")),
        };
        let mut answers = Box::pin(handle.link().get().match_name(interface.clone()).execute());
        match answers.next().await {
            Some(Ok(link)) => seen(interface, &link),
            Some(Err(error)) => Seen::down(format!("{interface}: {error}")),
            None => Seen::down(format!("there is no interface {interface}")),
        }
    }
}

/// A rename tells only the new name, so any link that comes or goes is worth a look.
fn concerns(message: &RouteNetlinkMessage, interface: &str) -> bool {
    match message {
        RouteNetlinkMessage::DelLink(_) => true,
        RouteNetlinkMessage::NewLink(link) => link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name == interface)),
        _ => false,
    }
}

fn seen(interface: &str, link: &LinkMessage) -> Seen {
    if !link.header.flags.contains(LinkFlags::Up) {
        return Seen::down(format!("{interface} is switched off"));
    }
    let state = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::OperState(state) => Some(*state),
        _ => None,
    });
    // Many virtual interfaces never leave "unknown"; only a clear word counts as loss.
    match state {
        Some(State::Down | State::LowerLayerDown | State::NotPresent) => {
            Seen::down(format!("{interface} has no carrier"))
        }
        _ => Seen::up(format!("{interface} has carrier")),
    }
}
