//! Carrier of an interface. The kernel tells of changes, but not always at once, so it is also asked.
//!
//! A driver's word goes to the kernel's link watch, which sets the operational state and tells listeners. It takes the
//! first change at once, and those that follow within a second, of whatever interface of this machine, only when that
//! second is over (`net/core/link_watch.c`, "limit the number of linkwatch events to one per second"). Urgent are only a
//! carrier that comes back, ports of a bond or team, and stacked interfaces. So where a switch goes and takes several
//! cables with it, or where a link flaps, a loss is told up to a second late. A question is answered with what is true
//! now, and from Linux 6.8 on it even makes the link watch catch up (`linkwatch_sync_dev` in `rtnl_getlink`).
//!
//! Not `/sys/class/net/*/carrier`: it shows the network of whoever mounted it, which need not be ours. Not ethtool: some
//! drivers read their PHY for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::netlink::Netlink;
use super::sight::Seen;

/// Between two questions for what the kernel may not have told yet. One takes some 40 microseconds of a core.
const ASK_PAUSE: Duration = Duration::from_millis(40);

pub(super) struct Link {
    interface: String,
    netlink: Netlink,
    /// At the last look.
    up: AtomicBool,
}

impl Link {
    pub(super) fn new(interface: &str, stir: &Arc<Notify>) -> Self {
        let netlink = Netlink::new(vec![MulticastGroup::Link], stir);
        Self { interface: interface.to_owned(), netlink, up: AtomicBool::new(false) }
    }

    pub(super) async fn look(&self) -> Seen {
        let seen = self.ask().await;
        self.up.store(seen.up, Ordering::Relaxed);
        seen
    }

    /// Ends when the next look would find something else than the last.
    pub(super) async fn differs(&self) {
        loop {
            sleep(ASK_PAUSE).await;
            if self.ask().await.up != self.up.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    async fn ask(&self) -> Seen {
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
    if link.attributes.iter().any(is_loss) {
        return Seen::down(format!("{interface} has no carrier"));
    }
    Seen::up(format!("{interface} has carrier"))
}

/// Many virtual interfaces never leave "unknown"; only a clear word counts as loss. Before Linux 6.8 the state may be
/// an old one, while the carrier is what the driver said last; either is loss.
fn is_loss(attribute: &LinkAttribute) -> bool {
    match attribute {
        LinkAttribute::OperState(state) => {
            matches!(state, State::Down | State::LowerLayerDown | State::NotPresent)
        }
        LinkAttribute::Carrier(carrier) => *carrier == 0,
        _ => false,
    }
}
