//! An address that is configured on this node. The kernel tells of changes.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use tokio::sync::Notify;

use super::netlink::Netlink;
use super::sight::Seen;

pub(super) struct Address {
    address: IpAddr,
    netlink: Netlink,
}

impl Address {
    pub(super) fn new(address: IpAddr, stir: &Arc<Notify>) -> Self {
        let group = match address {
            IpAddr::V4(_) => MulticastGroup::Ipv4Ifaddr,
            IpAddr::V6(_) => MulticastGroup::Ipv6Ifaddr,
        };
        Self { address, netlink: Netlink::new(vec![group], stir) }
    }

    pub(super) async fn look(&self) -> Seen {
        let address = self.address;
        let handle = match self.netlink.handle(move |message| concerns(message, address)) {
            Ok(handle) => handle,
            Err(error) => return Seen::down(format!("cannot ask the kernel for {address}: {error}")),
        };
        let mut answers = Box::pin(handle.address().get().execute());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(message) if is(&message, address) => {
                    return Seen::up(format!("{address} is configured here"));
                }
                Ok(_) => {}
                Err(error) => return Seen::down(format!("cannot list the addresses: {error}")),
            }
        }
        Seen::down(format!("{address} is not configured here"))
    }
}

fn concerns(message: &RouteNetlinkMessage, address: IpAddr) -> bool {
    match message {
        RouteNetlinkMessage::NewAddress(it) | RouteNetlinkMessage::DelAddress(it) => is(it, address),
        _ => false,
    }
}

/// Between two ends, the own one is "local"; IPv6 addresses of a LAN have no other.
fn is(message: &AddressMessage, address: IpAddr) -> bool {
    let has_local = message.attributes.iter().any(|it| matches!(it, AddressAttribute::Local(_)));
    message.attributes.iter().any(|it| match it {
        AddressAttribute::Local(local) => *local == address,
        AddressAttribute::Address(own) => !has_local && *own == address,
        _ => false,
    })
}
