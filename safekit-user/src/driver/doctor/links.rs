//! Interfaces, addresses and attached programs, by netlink.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use crate::engine::doctor::facts::{Link, XdpProgram};

/// As they were at one moment.
pub(super) struct Links {
    by_name: BTreeMap<String, LinkMessage>,
    addresses: Vec<(u32, IpAddr)>,
}

impl Links {
    pub(super) async fn read() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let mut by_name = BTreeMap::new();
        let mut links = handle.link().get().execute().boxed();
        while let Some(link) = links.next().await {
            let link = link.map_err(io::Error::other)?;
            if let Some(name) = name_of(&link) {
                by_name.insert(name, link);
            }
        }
        let mut addresses = Vec::new();
        let mut found = handle.address().get().execute().boxed();
        while let Some(entry) = found.next().await {
            addresses.extend(address_of(&entry.map_err(io::Error::other)?));
        }
        Ok(Self { by_name, addresses })
    }

    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).map(|link| link.header.index)
    }

    pub(super) fn link(&self, name: &str) -> Option<Link> {
        let message = self.by_name.get(name)?;
        let mut link = Link { up: message.header.flags.contains(LinkFlags::Up), ..Link::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Carrier(carrier) => link.carrier = Some(*carrier != 0),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
                _ => {}
            }
        }
        link.is_bridge = kind_of(message) == Some(&InfoKind::Bridge);
        Some(link)
    }

    /// The programs on an interface, their names as the kernel has them.
    pub(super) fn xdp(&self, name: &str) -> Vec<XdpProgram> {
        let attributes = self.by_name.get(name).map(|link| link.attributes.as_slice()).unwrap_or_default();
        let Some(parts) = attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(parts) => Some(parts),
            _ => None,
        }) else {
            return Vec::new();
        };
        let attached = parts.iter().find_map(|part| match part {
            LinkXdp::Attached(attached) => Some(attached),
            _ => None,
        });
        let of = |mode, id: u32| XdpProgram { mode, id, name: program_name(id) };
        let by_mode: Vec<XdpProgram> = parts
            .iter()
            .filter_map(|part| match part {
                LinkXdp::DrvProgId(id) => Some(of("native", *id)),
                LinkXdp::SkbProgId(id) => Some(of("generic", *id)),
                LinkXdp::HwProgId(id) => Some(of("hardware", *id)),
                _ => None,
            })
            .collect();
        if !by_mode.is_empty() {
            return by_mode;
        }
        let mode = match attached {
            None | Some(XdpAttached::None) => return Vec::new(),
            Some(_) => "some",
        };
        let ids = parts.iter().filter_map(|part| match part {
            LinkXdp::ProgId(id) => Some(*id),
            _ => None,
        });
        ids.map(|id| of(mode, id)).collect()
    }

    /// Names of VLAN interfaces whose frames come in by `name`.
    pub(super) fn vlans_on(&self, name: &str) -> Vec<String> {
        let Some(index) = self.index(name) else { return Vec::new() };
        let on_it = |link: &LinkMessage| {
            let below =
                link.attributes.iter().any(|it| matches!(it, LinkAttribute::Link(lower) if *lower == index));
            below && kind_of(link) == Some(&InfoKind::Vlan)
        };
        self.by_name.iter().filter(|(_, link)| on_it(link)).map(|(name, _)| name.clone()).collect()
    }

    /// Every interface that has the address.
    pub(super) fn where_is(&self, address: IpAddr) -> Vec<String> {
        let indexes: Vec<u32> =
            self.addresses.iter().filter(|(_, it)| *it == address).map(|(index, _)| *index).collect();
        let named = self.by_name.iter().filter(|(_, link)| indexes.contains(&link.header.index));
        named.map(|(name, _)| name.clone()).collect()
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn kind_of(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// The host's own address: on a point-to-point link `Address` is the other end's.
fn address_of(entry: &AddressMessage) -> Option<(u32, IpAddr)> {
    let local = entry.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = entry.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some((entry.header.index, local.or(any)?))
}

fn program_name(id: u32) -> String {
    let found = aya::programs::loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    name.unwrap_or_else(|| "a program without a name".to_owned())
}

/// BPF programs that hang on the interface by traffic control, the older way (a filter of a qdisc) and the newer
/// (TCX, Linux 6.6).
pub(super) async fn traffic_control(index: u32) -> io::Result<Vec<String>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut found = Vec::new();
    for place in ["ingress", "egress"] {
        let request = handle.traffic_filter(index as i32).get();
        let request = if place == "ingress" { request.ingress() } else { request.egress() };
        let mut filters = request.execute().boxed();
        while let Some(filter) = filters.next().await {
            // Without a qdisc to hang on there is no filter either.
            let Ok(filter) = filter else { break };
            found.extend(bpf_filter(&filter).map(|name| format!("{place} {name}")));
        }
        found.extend(
            super::super::datapath::tcx_programs(index, place == "ingress")?
                .into_iter()
                .map(|id| format!("{place} {}", program_name(id))),
        );
    }
    // Ours is in nobody's way: it drops what must never leave.
    found.retain(|name| *name != format!("egress {}", safekit_ebpf::guard::PROGRAM));
    found.sort();
    found.dedup();
    Ok(found)
}

fn bpf_filter(filter: &TcMessage) -> Option<String> {
    let is_bpf = filter.attributes.iter().any(|it| matches!(it, TcAttribute::Kind(kind) if kind == "bpf"));
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let name = options.into_iter().flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    is_bpf.then(|| name.unwrap_or_else(|| "a program without a name".to_owned()))
}
