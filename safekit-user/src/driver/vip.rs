//! Virtual IPs on this node: the address, and an interface that takes the frames that are for it.
//!
//! The address sits on `lo`, so that the kernel accepts packets for it but never speaks of it by itself:
//! `arp_ignore = 1` keeps the kernel from answering for it (the filter does), `arp_announce = 2` keeps it out of the
//! node's own ARP requests, which would teach the network this node's MAC and end the flooding. IPv6 needs neither: the
//! kernel discovers neighbours for and from addresses of the same interface only. It would choose the address as
//! source of the node's own connections where the interface has no better one; so it is marked as deprecated.
//!
//! Groups are joined by an address of the interface that is the group (`autojoin`, Linux 4.1): such a membership
//! outlives the daemon, as the filter does.
//!
//! ```text
//! prepare ──▶ filter on ──▶ add_addresses ──▶ … ──▶ remove_addresses ──▶ filter off ──▶ take_down
//! ```
//! The stack never has the address while no filter keeps other nodes' packets from it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use futures_util::StreamExt;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec};

/// One virtual IP to bring up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub address: IpAddr,
    pub interface: String,
    /// A second unicast address that the interface has to let in.
    pub virtual_mac: Option<[u8; 6]>,
    /// Multicast groups that the interface has to be in.
    pub joins: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot talk to the kernel's network configuration")]
    Netlink(#[source] io::Error),
    #[error("there is no interface {0} on this node; `ip link` lists those there are")]
    NoInterface(String),
    #[error("cannot add {address} to interface lo")]
    Address {
        address: IpAddr,
        #[source]
        source: rtnetlink::Error,
    },
    #[error(
        "interface {interface} takes no frames for the virtual MAC, neither by its filter nor by promiscuous mode"
    )]
    Mac {
        interface: String,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("interface {interface} cannot join the multicast group {group}")]
    Join {
        interface: String,
        group: IpAddr,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("cannot set {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// An interface that carries a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub mac: [u8; 6],
}

/// What was changed on this node, and how to take it back.
pub struct VirtualIps {
    handle: Handle,
    pub interfaces: BTreeMap<String, Interface>,
    undo: Vec<Undo>,
}

enum Undo {
    Address(IpAddr),
    Join { index: u32, group: IpAddr },
    Mac { index: u32, mac: [u8; 6] },
    Promiscuous { index: u32 },
    Sysctl { path: PathBuf, value: String },
}

impl VirtualIps {
    /// Makes the interfaces of `wanted` ready. What an earlier life left behind is taken over. On an error, what was
    /// done is undone.
    pub async fn prepare(wanted: &[Wanted]) -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
        tokio::spawn(connection);
        let mut up = Self { handle, interfaces: BTreeMap::new(), undo: Vec::new() };
        match up.prepare_all(wanted).await {
            Ok(()) => Ok(up),
            Err(error) => {
                up.take_down().await;
                Err(error)
            }
        }
    }

    async fn prepare_all(&mut self, wanted: &[Wanted]) -> Result<(), Error> {
        for one in wanted {
            let interface = self.interface(&one.interface).await?;
            if self.interfaces.insert(one.interface.clone(), interface).is_none() {
                self.hush_arp(&one.interface)?;
            }
            if let Some(mac) = one.virtual_mac {
                self.accept_mac(&one.interface, interface.index, mac).await?;
            }
            for group in &one.joins {
                self.join(&one.interface, interface.index, *group).await?;
            }
        }
        Ok(())
    }

    /// From here on the stack takes packets for the virtual IPs: the filter has to be there.
    pub async fn add_addresses(&mut self, wanted: &[Wanted]) -> Result<(), Error> {
        let loopback = self.interface("lo").await?;
        for one in wanted {
            self.add_address(loopback.index, one.address).await?;
        }
        Ok(())
    }

    /// The first half of [`Self::take_down`]: then the filter can go.
    pub async fn remove_addresses(&mut self) {
        while let Some(address) = self.undo.pop_if(|undo| matches!(undo, Undo::Address(_))) {
            self.undo_or_say(address).await;
        }
    }

    /// Takes back what was changed, the newest first. Goes on past errors: each is logged.
    pub async fn take_down(&mut self) {
        while let Some(undo) = self.undo.pop() {
            self.undo_or_say(undo).await;
        }
    }

    async fn undo_or_say(&self, undo: Undo) {
        if let Err(error) = self.undo(undo).await {
            tracing::warn!(%error, "cannot undo a change of the network configuration");
        }
    }

    async fn undo(&self, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Address(address) => {
                let loopback = self.interface("lo").await?;
                self.handle.address().del(address_message(loopback.index, address)).execute().await?;
            }
            Undo::Join { index, group } => {
                let mut message = address_message(index, group);
                as_own_address(&mut message, group);
                self.handle.address().del(message).execute().await?;
            }
            Undo::Mac { index, mac } => {
                let mut request = self
                    .handle
                    .neighbours()
                    .add_bridge(index, &mac)
                    .flags(NeighbourFlags::Own)
                    .state(NeighbourState::Permanent);
                let message = request.message_mut().clone();
                self.handle.neighbours().del(message).execute().await?;
            }
            Undo::Promiscuous { index } => {
                let message = LinkUnspec::new_with_index(index).promiscuous(false).build();
                self.handle.link().set(message).execute().await?;
            }
            Undo::Sysctl { path, value } => std::fs::write(path, value)?,
        }
        Ok(())
    }

    /// Whether `address` is on one of the interfaces that carry virtual IPs.
    pub async fn is_beside(&self, address: IpAddr) -> bool {
        let mut found = self.handle.address().get().set_address_filter(address).execute().boxed();
        while let Some(Ok(entry)) = found.next().await {
            if self.interfaces.values().any(|interface| interface.index == entry.header.index) {
                return true;
            }
        }
        false
    }

    async fn interface(&self, name: &str) -> Result<Interface, Error> {
        let missing = || Error::NoInterface(name.to_owned());
        let found = self.handle.link().get().match_name(name.to_owned()).execute().boxed().next().await;
        let link = found.and_then(Result::ok).ok_or_else(missing)?;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
            _ => None,
        });
        Ok(Interface { index: link.header.index, mac: mac.unwrap_or_default() })
    }

    fn hush_arp(&mut self, interface: &str) -> Result<(), Error> {
        for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{interface}/{name}"));
            let failed = |source| Error::Sysctl { path: path.clone(), source };
            let before = std::fs::read_to_string(&path).map_err(failed)?;
            if before.trim() != value {
                std::fs::write(&path, value).map_err(failed)?;
                self.undo.push(Undo::Sysctl { path, value: before });
            }
        }
        Ok(())
    }

    /// Tells the interface's filter to let the virtual MAC in, or opens it for all where it has none.
    async fn accept_mac(&mut self, interface: &str, index: u32, mac: [u8; 6]) -> Result<(), Error> {
        let added = self
            .handle
            .neighbours()
            .add_bridge(index, &mac)
            .flags(NeighbourFlags::Own)
            .state(NeighbourState::Permanent)
            .execute()
            .await;
        match added {
            Ok(()) => self.undo.push(Undo::Mac { index, mac }),
            Err(error) if is(&error, libc::EEXIST) => self.undo.push(Undo::Mac { index, mac }),
            Err(error) => {
                tracing::info!(%interface, %error, "no filter for a second MAC: promiscuous mode");
                let message = LinkUnspec::new_with_index(index).promiscuous(true).build();
                let failed = |source| Error::Mac { interface: interface.to_owned(), source };
                self.handle.link().set(message).execute().await.map_err(failed)?;
                self.undo.push(Undo::Promiscuous { index });
            }
        }
        Ok(())
    }

    async fn add_address(&mut self, loopback: u32, address: IpAddr) -> Result<(), Error> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(loopback, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            // Every node has it: duplicate address detection would take it away from all but the first.
            message.header.flags |= AddressHeaderFlags::Nodad;
            // Valid for ever, preferred never.
            let mut life = CacheInfo::default();
            life.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
        match request.execute().await {
            Ok(()) => {}
            Err(error) if is(&error, libc::EEXIST) => {}
            Err(source) => return Err(Error::Address { address, source }),
        }
        self.undo.push(Undo::Address(address));
        Ok(())
    }

    async fn join(&mut self, interface: &str, index: u32, group: IpAddr) -> Result<(), Error> {
        let prefix = if group.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, group, prefix);
        let message = request.message_mut();
        as_own_address(message, group);
        // Nothing is ever sent from it.
        message.header.scope = AddressScope::Host;
        let flags = AddressFlags::Mcautojoin | AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
        match request.execute().await {
            Ok(()) => {}
            Err(error) if is(&error, libc::EEXIST) => {}
            Err(source) => return Err(Error::Join { interface: interface.to_owned(), group, source }),
        }
        self.undo.push(Undo::Join { index, group });
        Ok(())
    }
}

/// The library takes a group for one that exists already; to the kernel it is an address of the interface.
fn as_own_address(message: &mut AddressMessage, group: IpAddr) {
    message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Multicast(_)));
    message.attributes.extend([AddressAttribute::Address(group), AddressAttribute::Local(group)]);
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn address_message(loopback: u32, address: IpAddr) -> AddressMessage {
    let mut message = match address {
        IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new().index(loopback).address(v4, 32).build(),
        IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new().index(loopback).address(v6, 128).build(),
    };
    // The kernel names no broadcast address for a host address; a wrong one in the request would match nothing.
    message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    message
}
