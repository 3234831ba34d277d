//! What a check looks at: one look of each kind, and what stirs it to look again before its time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Notify;

use super::address::Address;
use super::custom::Custom;
use super::http::Http;
use super::link::Link;
use super::module::{Here, There};
use super::process::Process;
use super::witness::Node;
use super::{Surroundings, ping, tcp};
use crate::config::upkeep::{Check, CheckKind, ModuleAt, Witness};

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) up: bool,
    pub(super) output: String,
}

impl Seen {
    pub(super) fn up(output: impl Into<String>) -> Self {
        Self { up: true, output: output.into() }
    }

    pub(super) fn down(output: impl Into<String>) -> Self {
        Self { up: false, output: output.into() }
    }
}

pub(super) type Look = Pin<Box<dyn Future<Output = Seen> + Send>>;

#[derive(Clone)]
pub(super) enum Sight {
    Process(Arc<Process>),
    Tcp(std::net::SocketAddr),
    Http(Arc<Http>),
    Ping(std::net::IpAddr),
    Link(Arc<Link>),
    Address(Arc<Address>),
    Here(Arc<Here>),
    There(Arc<There>),
    Custom(Arc<Custom>),
    Node(Arc<Node>),
    /// Nothing to look at: it is told.
    Told,
}

impl Sight {
    /// `stir` is notified when something happened that is worth a look.
    pub(super) fn of(check: &Check, around: &Arc<Surroundings>, stir: &Arc<Notify>) -> Self {
        match &check.kind {
            CheckKind::Process { name, arguments, at_least, at_most } => {
                let process = Process::new(name, arguments.as_deref(), *at_least, *at_most, stir);
                Self::Process(Arc::new(process))
            }
            CheckKind::Tcp { address, port } => Self::Tcp((*address, *port).into()),
            CheckKind::Http { url, status, body, verify } => {
                Self::Http(Arc::new(Http::new(url, *status, body.as_deref(), *verify)))
            }
            CheckKind::Ping { address } | CheckKind::Witness(Witness::Address(address)) => {
                Self::Ping(*address)
            }
            CheckKind::Link { interface } => Self::Link(Arc::new(Link::new(interface, stir))),
            CheckKind::Address { address } => Self::Address(Arc::new(Address::new(*address, stir))),
            CheckKind::Module { module, at: ModuleAt::Here } => {
                Self::Here(Arc::new(Here::new(module, around, stir)))
            }
            CheckKind::Module { module, at: ModuleAt::Node(node) } => {
                Self::There(Arc::new(There::new(module, *node, around, stir)))
            }
            CheckKind::Module { at: ModuleAt::Url(url), .. } => {
                Self::Http(Arc::new(Http::new(url, (200, 200), None, true)))
            }
            CheckKind::Custom { reports: true, .. } => Self::Told,
            CheckKind::Custom { run, reports: false } => {
                Self::Custom(Arc::new(Custom::new(check, run, around)))
            }
            CheckKind::Witness(Witness::Node(node)) => Self::Node(Arc::new(Node::new(*node, around, stir))),
        }
    }

    /// Dropping the look ends it, and what it started.
    pub(super) fn look(&self) -> Look {
        match self.clone() {
            Self::Process(it) => Box::pin(async move { it.look().await }),
            Self::Tcp(address) => Box::pin(tcp::look(address)),
            Self::Http(it) => Box::pin(async move { it.look().await }),
            Self::Ping(address) => Box::pin(ping::look(address)),
            Self::Link(it) => Box::pin(async move { it.look().await }),
            Self::Address(it) => Box::pin(async move { it.look().await }),
            Self::Here(it) => Box::pin(async move { it.look() }),
            Self::There(it) => Box::pin(async move { it.look() }),
            Self::Custom(it) => Box::pin(async move { it.look().await }),
            Self::Node(it) => Box::pin(async move { it.look() }),
            Self::Told => Box::pin(std::future::pending()),
        }
    }

    /// Ends when a look is worth it although nothing has stirred: where events may come late.
    pub(super) async fn differs(&self) {
        match self {
            Self::Link(it) => it.differs().await,
            _ => std::future::pending().await,
        }
    }
}
