//! The heartbeat's sockets: one datagram to every peer on every network.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;
use crate::types::{NetworkId, NodeId};

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
    peers: Vec<SocketAddr>,
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
                .filter_map(|node| Some(SocketAddr::new(address_of(node)?, settings.port)))
                .collect();
            links.push(Link { network, socket, peers });
        }
        Ok(Self { links })
    }

    /// Sends one datagram to every peer on every network. Returns how many could not be sent; the next heartbeat
    /// tries again, so that is a figure and no error.
    pub fn send_to_all(&self, datagram: &[u8]) -> u64 {
        let mut failed = 0;
        for link in &self.links {
            for peer in &link.peers {
                failed += u64::from(link.socket.send_to(datagram, peer).is_err());
            }
        }
        failed
    }

    /// The next datagram that waits on any network, without blocking.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(NetworkId, usize)> {
        self.links.iter().find_map(|link| {
            let (length, _) = link.socket.recv_from(buffer).ok()?;
            Some((link.network, length))
        })
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|link| link.socket.as_fd())
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
