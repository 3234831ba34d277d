//! The heartbeat's sockets: one datagram to every peer on every network, or one to all of them by multicast.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::multicast::{self, Group, MULTICAST_FROM};
use crate::config::Config;
use crate::types::{Instant, NetworkId, NodeId};

/// More than any heartbeat of 128 nodes; a longer datagram is cut and then refused by its seal.
pub const DATAGRAM_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot listen for heartbeats on {address} (network {network}): is this address on this node, and the port free?"
    )]
    Bind {
        network: String,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

pub struct Sockets {
    links: Vec<Link>,
}

struct Link {
    network: NetworkId,
    socket: UdpSocket,
    /// None: unicast alone.
    group: Option<Group>,
    peers: Vec<Peer>,
}

struct Peer {
    node: NodeId,
    address: SocketAddr,
    path: multicast::Path,
}

/// Which way a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Unicast,
    Multicast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub network: NetworkId,
    pub length: usize,
    pub way: Way,
}

/// Which end of the heartbeat a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The configured one: the daemon, which receives.
    Configured,
    /// Any: the daemon's parent, which only ever sends an obituary. Peers know a sender by its seal.
    Any,
}

impl Sockets {
    /// Opens a socket on each network that `me` has an address on.
    pub fn open(config: &Config, me: NodeId, port: Port) -> Result<Self, Error> {
        Self::open_with(config, me, port, MULTICAST_FROM)
    }

    /// With multicast for clusters of at least `multicast_from` nodes.
    pub fn open_with(config: &Config, me: NodeId, port: Port, multicast_from: usize) -> Result<Self, Error> {
        let by_multicast = port == Port::Configured && config.cluster.nodes.len() >= multicast_from;
        let mut links = Vec::new();
        for (network, settings) in config.networks() {
            let address_of = |node: usize| config.cluster.nodes[node].addresses[usize::from(network.0)];
            let Some(own) = address_of(usize::from(me.0)) else { continue };
            let bind_port = match port {
                Port::Configured => settings.port,
                Port::Any => 0,
            };
            let address = SocketAddr::new(own, bind_port);
            let socket = bind(address).map_err(|source| Error::Bind {
                network: settings.name.clone(),
                address,
                source,
            })?;
            let peers = (0..config.cluster.nodes.len())
                .filter(|node| *node != usize::from(me.0))
                .filter_map(|node| {
                    let address = SocketAddr::new(address_of(node)?, settings.port);
                    Some(Peer { node: NodeId(node as u8), address, path: multicast::Path::default() })
                })
                .collect();
            let group =
                by_multicast.then(|| join(&config.cluster.name, &settings.name, own, &socket)).flatten();
            links.push(Link { network, socket, group, peers });
        }
        Ok(Self { links })
    }

    /// Sends one datagram to every peer on every network, by unicast. Returns how many could not be sent; the next
    /// heartbeat tries again, so that is a figure and no error.
    pub fn send_to_all(&self, datagram: &[u8]) -> u64 {
        let peers = self.links.iter().flat_map(|link| link.peers.iter().map(move |peer| (link, peer)));
        peers.map(|(link, peer)| link.send(datagram, peer.address)).sum()
    }

    /// Sends one datagram by multicast where that is in use, and by unicast to each peer that may not get it so.
    /// Returns how many could not be sent, as above.
    pub fn send(&mut self, datagram: &[u8], answers: impl Fn(NodeId) -> bool, now: Instant) -> u64 {
        self.links.iter_mut().map(|link| link.send_once(datagram, &answers, now)).sum()
    }

    /// An authentic datagram of `sender` came by multicast.
    pub fn note_multicast(&mut self, network: NetworkId, sender: NodeId, now: Instant) {
        let link = self.links.iter_mut().find(|link| link.network == network);
        let peers = link.into_iter().flat_map(|link| &mut link.peers);
        peers.filter(|peer| peer.node == sender).for_each(|peer| peer.path.hear(now));
    }

    /// The next datagram that waits on any network, without blocking.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<Received> {
        self.links.iter().find_map(|link| {
            let network = link.network;
            if let Ok((length, _)) = link.socket.recv_from(buffer) {
                return Some(Received { network, length, way: Way::Unicast });
            }
            let (length, _) = link.group.as_ref()?.socket.recv_from(buffer).ok()?;
            Some(Received { network, length, way: Way::Multicast })
        })
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().flat_map(|link| {
            let group = link.group.as_ref().map(|group| group.socket.as_fd());
            std::iter::once(link.socket.as_fd()).chain(group)
        })
    }
}

impl Link {
    /// 1 when it could not be sent.
    fn send(&self, datagram: &[u8], to: SocketAddr) -> u64 {
        u64::from(self.socket.send_to(datagram, to).is_err())
    }

    fn send_once(&mut self, datagram: &[u8], answers: impl Fn(NodeId) -> bool, now: Instant) -> u64 {
        let to_group = self.group.as_ref().map(|group| self.send(datagram, group.address));
        let mut failed = to_group.unwrap_or(0);
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            // Each path is asked each time: it remembers what went unanswered.
            let needs_unicast = peer.path.needs_unicast(answers(peer.node), now);
            let address = peer.address;
            if needs_unicast || to_group != Some(0) {
                failed += self.send(datagram, address);
            }
        }
        failed
    }
}

fn join(cluster: &str, network: &str, own: IpAddr, socket: &UdpSocket) -> Option<Group> {
    let group = multicast::group_of(cluster, network, own);
    match Group::join(group, socket) {
        Ok(joined) => Some(joined),
        Err(error) => {
            tracing::warn!(network, %group, %error, "cannot join the heartbeat's multicast group; unicast alone");
            None
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Ahead of bulk traffic in the node's own queues. Not every kernel allows it, and nothing depends on it.
    let _best_effort = socket.set_priority(6);
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
