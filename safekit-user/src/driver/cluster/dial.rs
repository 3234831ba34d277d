//! This node's connection to one other: made, kept, and made again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::ReadHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::stream::{Broken, FrameReader, FrameWriter, tls_refusal};
use super::{Errand, Refusal, Shared, Unreachable, tls};
use crate::driver::clock;
use crate::types::{NodeId, Reply};
use crate::wire::link::{Answered, Hello, Sent};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const NEWS_INTERVAL: Duration = Duration::from_secs(1);
/// News are answered, so a peer that says nothing for so long is gone.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Requests under way on one connection.
const PENDING_MAX: usize = 256;

/// A connection whose other end is known.
struct Connection {
    reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    writer: FrameWriter,
    network: String,
}

/// Runs as long as the runtime.
pub(super) async fn keep(shared: Arc<Shared>, peer: NodeId, mut errands: mpsc::Receiver<Errand>) {
    let mut pause = PAUSE_MIN;
    let mut first = None;
    loop {
        match dial(&shared, peer).await {
            Ok(connection) => {
                pause = PAUSE_MIN;
                shared.set_state(peer, true, connection.network.clone());
                let broken = converse(&shared, peer, connection, &mut errands, first.take()).await;
                shared.set_state(peer, false, format!("the connection broke: {broken}"));
            }
            Err(why) => {
                shared.set_state(peer, false, why.clone());
                // Whoever has asked meanwhile knows as much now as anybody.
                let mut waiting = first.take().into_iter().collect::<Vec<Errand>>();
                waiting.extend(std::iter::from_fn(|| errands.try_recv().ok()));
                for errand in waiting {
                    let _gone = errand.answer.send(Err(Unreachable(why.clone())));
                }
            }
        }
        tokio::select! {
            () = sleep(with_jitter(pause)) => {}
            errand = errands.recv() => match errand {
                Some(errand) => first = Some(errand),
                None => return,
            }
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Half of it to the whole: two nodes that lost each other at once do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    let part = (clock::now().0 / 1000 % 512) as u32;
    pause * (512 + part) / 1024
}

/// On the networks in turn.
async fn dial(shared: &Shared, peer: NodeId) -> Result<Connection, String> {
    let nodes = &shared.config.cluster.nodes;
    let (own, theirs) = (&nodes[usize::from(shared.me.0)].addresses, &nodes[usize::from(peer.0)].addresses);
    let mut failures = Vec::new();
    for (network, (own, theirs)) in shared.config.cluster.networks.iter().zip(own.iter().zip(theirs)) {
        let (Some(own), Some(theirs)) = (own, theirs) else { continue };
        match dial_at(shared, peer, *own, SocketAddr::new(*theirs, network.port)).await {
            Ok((reader, writer)) => return Ok(Connection { reader, writer, network: network.name.clone() }),
            Err(why) => failures.push(format!("{}: {why}", network.name)),
        }
    }
    if failures.is_empty() {
        return Err("it shares no network with this node".to_owned());
    }
    Err(failures.join("; "))
}

type Ends = (FrameReader<ReadHalf<TlsStream<TcpStream>>>, FrameWriter);

async fn dial_at(shared: &Shared, peer: NodeId, own: IpAddr, to: SocketAddr) -> Result<Ends, String> {
    let stream = match timeout(CONNECT_TIMEOUT, connect(own, to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
    };
    match timeout(HANDSHAKE_TIMEOUT, introduce(shared, peer, stream)).await {
        Ok(Ok(ends)) => Ok(ends),
        Ok(Err((refusal, detail))) => {
            if let Some(why) = refusal {
                shared.refuse(why, to.ip(), &detail);
            }
            Err(detail)
        }
        Err(_) => Err(format!("connected, and no greeting within {HANDSHAKE_TIMEOUT:?}")),
    }
}

/// From this node's own address on that network: the other side can then say who it refuses.
async fn connect(own: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(own, 0))?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

async fn introduce(
    shared: &Shared,
    peer: NodeId,
    stream: TcpStream,
) -> Result<Ends, (Option<Refusal>, String)> {
    let identities = shared.identities.borrow().clone();
    let connector = TlsConnector::from(identities.dial(peer));
    let stream = connector
        .connect(tls::server_name(), stream)
        .await
        .map_err(|error| (tls_refusal(&error), key_error(&error)))?;
    let (reader, half) = tokio::io::split(stream);
    let (mut reader, writer) = (FrameReader::new(reader), FrameWriter::start(half));
    let broken = |broken: Broken| match &broken {
        Broken::Io(error) => (broken.refusal(), key_error(error)),
        _ => (broken.refusal(), broken.to_string()),
    };
    writer.send(&shared.hello()).map_err(broken)?;
    let hello: Hello = reader.next().await.map_err(broken)?;
    shared.check(&hello, peer).map_err(|(why, detail)| (Some(why), detail))?;
    reader.trust();
    Ok((reader, writer))
}

fn key_error(error: &std::io::Error) -> String {
    match tls_refusal(error) {
        Some(Refusal::Key) => "it has another cluster key: copy the key file of a node that is in".to_owned(),
        _ => error.to_string(),
    }
}

type Pending = HashMap<u64, oneshot::Sender<Result<Reply, Unreachable>>>;

async fn converse(
    shared: &Shared,
    peer: NodeId,
    connection: Connection,
    errands: &mut mpsc::Receiver<Errand>,
    first: Option<Errand>,
) -> Broken {
    let Connection { mut reader, writer, .. } = connection;
    let mut pending = Pending::new();
    let broken = exchange(shared, &mut reader, &writer, errands, first, &mut pending).await;
    tracing::debug!(node = shared.config.name(peer), %broken, "a connection of the cluster ends");
    for (_, answer) in pending {
        let _gone = answer.send(Err(Unreachable(format!("the connection broke: {broken}"))));
    }
    broken
}

async fn exchange(
    shared: &Shared,
    reader: &mut FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    writer: &FrameWriter,
    errands: &mut mpsc::Receiver<Errand>,
    first: Option<Errand>,
    pending: &mut Pending,
) -> Broken {
    let mut news = shared.news.subscribe();
    news.mark_changed();
    let mut ticks = interval(NEWS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut next_id) = (clock::now(), 0);
    let mut waiting = first;
    loop {
        let sent = if let Some(errand) = waiting.take() {
            send(errand, &mut next_id, writer, pending)
        } else {
            tokio::select! {
                answered = reader.next::<Answered>() => match answered {
                    Ok(answered) => {
                        heard = clock::now();
                        take(answered, pending);
                        Ok(())
                    }
                    Err(broken) => return broken,
                },
                errand = errands.recv() => match errand {
                    Some(errand) => send(errand, &mut next_id, writer, pending),
                    None => return Broken::Closed,
                },
                _ = news.changed() => tell(&mut news, writer),
                _ = ticks.tick() => {
                    if clock::now().since(heard) > SILENCE_MAX {
                        return Broken::Silent;
                    }
                    pending.retain(|_, answer| !answer.is_closed());
                    tell(&mut news, writer)
                }
            }
        };
        if let Err(broken) = sent {
            return broken;
        }
    }
}

fn tell(news: &mut tokio::sync::watch::Receiver<super::News>, writer: &FrameWriter) -> Result<(), Broken> {
    let super::News { reports, config } = news.borrow_and_update().clone();
    writer.send(&Sent::News { reports, config })
}

fn send(
    errand: Errand,
    next_id: &mut u64,
    writer: &FrameWriter,
    pending: &mut Pending,
) -> Result<(), Broken> {
    let Errand { command, by, answer } = errand;
    if pending.len() >= PENDING_MAX {
        let _gone = answer.send(Err(Unreachable("too many commands wait for it".to_owned())));
        return Ok(());
    }
    let id = *next_id;
    *next_id += 1;
    pending.insert(id, answer);
    match writer.send(&Sent::Ask { id, by, command }) {
        // Only this command is too long; the connection is as good as before.
        Err(Broken::Refused(why)) => {
            if let Some(answer) = pending.remove(&id) {
                let _gone = answer.send(Err(Unreachable(why.to_string())));
            }
            Ok(())
        }
        sent => sent,
    }
}

/// An answer that nobody waits for any more is nobody's.
fn take(answered: Answered, pending: &mut Pending) {
    match answered {
        Answered::Answer { id, reply } => {
            if let Some(answer) = pending.remove(&id) {
                let _gone = answer.send(Ok(reply));
            }
        }
        Answered::Heard => {}
    }
}
