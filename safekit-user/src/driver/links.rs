//! Watches the carrier of the interfaces that carry virtual IPs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use futures_util::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, State};
use rtnetlink::{MulticastGroup, new_multicast_connection};

/// Calls `changed` with whether all of `interfaces` have carrier: once at the start, then at each change.
/// Ends only with an error.
pub async fn watch(interfaces: BTreeSet<u32>, mut changed: impl FnMut(bool)) -> io::Result<()> {
    let (connection, handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])?;
    tokio::spawn(connection);
    let mut carrier: BTreeMap<u32, bool> = interfaces.iter().map(|index| (*index, true)).collect();
    let mut dump = handle.link().get().execute().boxed();
    while let Some(Ok(link)) = dump.next().await {
        note(&mut carrier, &link);
    }
    let mut last = all_up(&carrier);
    changed(last);
    while let Some((message, _)) = messages.next().await {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => note(&mut carrier, &link),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                carrier.entry(link.header.index).and_modify(|up| *up = false);
            }
            _ => {}
        }
        if all_up(&carrier) != last {
            last = !last;
            changed(last);
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's link events ended"))
}

fn all_up(carrier: &BTreeMap<u32, bool>) -> bool {
    carrier.values().all(|up| *up)
}

fn note(carrier: &mut BTreeMap<u32, bool>, link: &LinkMessage) {
    let Some(up) = carrier.get_mut(&link.header.index) else { return };
    let state = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::OperState(state) => Some(*state),
        _ => None,
    });
    // Many virtual interfaces never leave "unknown"; only a clear word counts as loss.
    *up = !matches!(state, Some(State::Down | State::LowerLayerDown | State::NotPresent));
}
