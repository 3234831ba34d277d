//! What the control socket carries: a [`Command`] in, [`Reply`]s out. One JSON object a line.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Bucket, Instant, Snapshot, ViewId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Answered by one [`Reply::Status`].
    Status,
    /// Answered by a [`Reply::Status`] now and at every change, until the client closes.
    Watch,
    /// Answered by [`Reply::Explained`], one for each rule that the client can reach.
    Explain { client: IpAddr, port: Option<u16> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status {
        snapshot: Box<Snapshot>,
    },
    Explained {
        answers: Vec<Explanation>,
    },
    /// The command was understood and could not be done.
    Refused {
        error: String,
        next_step: String,
    },
}

/// Who serves a client, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub module: String,
    pub virtual_ip: IpAddr,
    pub protocol: String,
    /// As the rule names it: `80`, `8000-8099` or `any`.
    pub port: String,
    pub balance: String,
    pub bucket: Bucket,
    /// None while no member may own it.
    pub owner: Option<String>,
    /// The bucket is in transition on this node: connections are told apart by local sockets.
    pub transitional: bool,
    pub since_view: ViewId,
    pub since: Instant,
    /// Nodes that would own it next, in order, the owner left out.
    pub next: Vec<String>,
}
