//! A netlink socket that answers questions, and stirs a check when the kernel tells of changes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::Notify;

use super::Ends;

/// Opened at the first look, and again by the next one when it has broken.
pub(super) struct Netlink {
    groups: Vec<MulticastGroup>,
    stir: Arc<Notify>,
    open: Mutex<Option<Open>>,
}

struct Open {
    handle: Handle,
    /// Ends when the kernel's events do.
    events: Ends,
    _connection: Ends,
}

impl Netlink {
    pub(super) fn new(groups: Vec<MulticastGroup>, stir: &Arc<Notify>) -> Self {
        Self { groups, stir: Arc::clone(stir), open: Mutex::new(None) }
    }

    /// To ask with. `concerns` tells which messages stir the check; it counts when the socket is opened.
    pub(super) fn handle(
        &self,
        concerns: impl Fn(&RouteNetlinkMessage) -> bool + Send + 'static,
    ) -> io::Result<Handle> {
        let mut place = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*place
            && !open.events.0.is_finished()
        {
            return Ok(open.handle.clone());
        }
        let (connection, handle, mut messages) = new_multicast_connection(&self.groups)?;
        let stir = Arc::clone(&self.stir);
        let events = async move {
            while let Some((message, _)) = messages.next().await {
                if let NetlinkPayload::InnerMessage(message) = message.payload
                    && concerns(&message)
                {
                    stir.notify_one();
                }
            }
        };
        let open = Open {
            handle: handle.clone(),
            events: Ends(tokio::spawn(events)),
            _connection: Ends(tokio::spawn(connection)),
        };
        *place = Some(open);
        Ok(handle)
    }
}
