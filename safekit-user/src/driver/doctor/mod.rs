//! Gathers the facts that `safekit doctor` judges. Changes nothing; the longest wait is one second.
//!
//! ```text
//! machine   /proc, a filter loaded for a moment, a thread that tries real-time priority
//! links     netlink: interfaces, addresses, programs        ethtool  offloads
//! claim     ARP or neighbour solicitation for a virtual IP, only while no daemon runs here
//! echo      echo requests to the peers, small and as large as the MTU
//! upkeep    units and programs of modules, key file, disk space, TCP to the peers while a daemon runs here
//! ```

mod claim;
mod copies;
mod echo;
mod ethtool;
mod links;
mod machine;
mod ports;
mod upkeep;

use std::io;
use std::path::Path;

use super::datapath::{self, VirtualMac};
use crate::config::Config;
use crate::engine::doctor::facts::{Claim, Facts, Interface, Network, PortState, VirtualIp};
use crate::types::{NodeId, Snapshot};
use links::Links;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot ask the kernel about interfaces")]
    Netlink(#[source] io::Error),
}

/// Everything about this machine that its part of the farm depends on. `daemon` is what it says, where one runs.
pub fn gather(
    config: &Config,
    me: NodeId,
    (pin_dir, state_dir): (&Path, &Path),
    daemon: Option<Snapshot>,
) -> Result<Facts, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Netlink)?;
    let links = runtime.block_on(Links::read()).map_err(Error::Netlink)?;
    let mut names: Vec<&str> = Vec::new();
    let farms = || config.farms().filter(|farm| farm.nodes.contains(&me));
    for vip in farms().flat_map(|farm| &farm.virtual_ips) {
        if !names.contains(&vip.interface.as_str()) {
            names.push(&vip.interface);
        }
    }
    let interfaces: Vec<Interface> =
        names.into_iter().map(|name| interface(name, &links, pin_dir, &runtime)).collect();
    let virtual_ips = farms()
        .flat_map(|farm| &farm.virtual_ips)
        .map(|vip| VirtualIp {
            address: vip.address,
            interface: vip.interface.clone(),
            configured_on: links.where_is(vip.address),
            claim: match daemon {
                Some(_) => Claim::NotAsked,
                None => claim::ask(&vip.interface, vip.address, VirtualMac::of(vip.address)),
            },
        })
        .collect();
    let networks = networks(config, me, &links, daemon.is_some());
    Ok(Facts {
        machine: machine::gather(config, me),
        interfaces,
        networks,
        virtual_ips,
        keeping: upkeep::keeping(config, state_dir),
        applications: runtime.block_on(upkeep::applications(config, me)),
        replicated: copies::gather(config, me),
        daemon,
    })
}

fn interface(name: &str, links: &Links, pin_dir: &Path, runtime: &tokio::runtime::Runtime) -> Interface {
    let index = links.index(name);
    let driver = datapath::driver(name);
    let conf = |family: &str, key: &str| {
        let of = |scope: &str| machine::sysctl(&format!("net/{family}/conf/{scope}/{key}"));
        // The kernel takes the greater of both (Documentation/networking/ip-sysctl).
        of(name).map(|own| own.max(of("all").unwrap_or_default()))
    };
    Interface {
        name: name.to_owned(),
        link: links.link(name),
        generic_because: datapath::generic_because(driver.as_deref()),
        driver,
        xdp: links.xdp(name),
        xdp_is_ours: datapath::is_pinned(pin_dir, name),
        tc: match index {
            None => Ok(Vec::new()),
            Some(index) => runtime.block_on(links::traffic_control(index)).map_err(|error| error.to_string()),
        },
        offloads: ethtool::offloads(name).ok(),
        vlans: links.vlans_on(name),
        default_route: machine::default_route_by(name),
        rp_filter: conf("ipv4", "rp_filter"),
        arp_ignore: conf("ipv4", "arp_ignore"),
        arp_announce: conf("ipv4", "arp_announce"),
        ipv6_disabled: machine::sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6")).map(|value| value != 0),
    }
}

fn networks(config: &Config, me: NodeId, links: &Links, daemon: bool) -> Vec<Network> {
    let mut networks = Vec::new();
    for (id, settings) in config.networks() {
        let address_of = |node: &crate::config::Node| node.addresses[usize::from(id.0)];
        let Some(own) = address_of(&config.cluster.nodes[usize::from(me.0)]) else { continue };
        let interface = links.where_is(own).into_iter().next();
        let mtu = interface.as_deref().and_then(|name| links.link(name)).map(|link| link.mtu);
        let others = config.cluster.nodes.iter().enumerate().filter(|(place, _)| *place != usize::from(me.0));
        let others: Vec<_> =
            others.filter_map(|(_, node)| Some((node.name.clone(), address_of(node)?))).collect();
        networks.push(Network {
            name: settings.name.clone(),
            own,
            port: settings.port,
            heartbeat_port: if daemon { PortState::Ours } else { ports::try_port(own, settings.port) },
            // A loopback takes 64 KiB, which no echo request can be.
            doors: daemon.then(|| upkeep::doors(&others, settings.port)),
            peers: mtu.filter(|mtu| *mtu <= echo::MTU_MAX).and_then(|mtu| echo::ask(own, &others, mtu).ok()),
            interface,
            mtu,
        });
    }
    networks
}
