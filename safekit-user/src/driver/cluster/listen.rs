//! Connections of the other nodes to this one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::dial::SILENCE_MAX;
use super::stream::{Broken, FrameReader, FrameWriter, tls_refusal};
use super::{Asked, Refusal, Shared};
use crate::types::{NodeId, Reply};
use crate::wire::link::{Answered, Hello, Sent};

/// Strangers that may be in the middle of their greeting; further ones are closed at once.
const GREETINGS_MAX: usize = 64;
/// Connections of nodes, counting those that are about to be noticed as dead.
const CONNECTIONS_MAX: usize = 512;
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests of one connection that are being answered; more are told so.
const ANSWERING_MAX: usize = 32;
/// Longer than any command may take; whoever asked has a shorter deadline.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Places {
    greetings: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// One listener on each network that this node has an address on.
pub(super) fn start(shared: &Arc<Shared>, asked: &mpsc::Sender<Asked>) {
    let places = Places {
        greetings: Arc::new(Semaphore::new(GREETINGS_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let own = &shared.config.cluster.nodes[usize::from(shared.me.0)].addresses;
    for (network, address) in shared.config.cluster.networks.iter().zip(own) {
        if let Some(address) = address {
            let address = SocketAddr::new(*address, network.port);
            tokio::spawn(listen(Arc::clone(shared), address, asked.clone(), places.clone()));
        }
    }
}

async fn listen(shared: Arc<Shared>, address: SocketAddr, asked: mpsc::Sender<Asked>, places: Places) {
    let listener = bind(address).await;
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, %address, "cannot accept a connection of the cluster");
                sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places.greetings).try_acquire_owned() else {
            shared.refuse(Refusal::TooMany, from.ip(), "too many connections at once");
            continue;
        };
        let (shared, asked, places) = (Arc::clone(&shared), asked.clone(), places.clone());
        tokio::spawn(async move { serve(&shared, stream, from.ip(), asked, (place, places)).await });
    }
}

/// A port that is taken, or an address that comes late, is tried again: heartbeats do without.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, %address, "cannot listen for the other nodes; trying again");
            }
            Err(_) => {}
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn serve(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: IpAddr,
    asked: mpsc::Sender<Asked>,
    (greeting, places): (OwnedSemaphorePermit, Places),
) {
    // Only a wish of ours about small packets.
    let _small = stream.set_nodelay(true);
    let (peer, reader, writer) = match timeout(GREETING_TIMEOUT, greet(shared, stream)).await {
        Ok(Ok(known)) => known,
        Ok(Err((why, detail))) => return shared.refuse(why, from, &detail),
        Err(_) => return shared.refuse(Refusal::Silent, from, "no greeting"),
    };
    drop(greeting);
    let Ok(_place) = places.connections.try_acquire() else {
        return shared.refuse(Refusal::TooMany, from, "too many connections of nodes");
    };
    let broken = converse(shared, peer, reader, &writer, &asked).await;
    if let Some(why) = broken.refusal() {
        shared.refuse(why, from, &broken.to_string());
    }
}

type Reader = FrameReader<ReadHalf<TlsStream<TcpStream>>>;

async fn greet(
    shared: &Shared,
    stream: TcpStream,
) -> Result<(NodeId, Reader, FrameWriter), (Refusal, String)> {
    let identities = shared.identities.borrow().clone();
    let acceptor = TlsAcceptor::from(identities.listen());
    let malformed =
        |error: std::io::Error| (tls_refusal(&error).unwrap_or(Refusal::Malformed), error.to_string());
    let stream = acceptor.accept(stream).await.map_err(malformed)?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
    let peer = shown.and_then(|shown| identities.owner(shown));
    let peer = peer.ok_or_else(|| (Refusal::Key, "its key is no node's".to_owned()))?;
    let (reader, half) = tokio::io::split(stream);
    let (mut reader, writer) = (FrameReader::new(reader), FrameWriter::start(half));
    let broken = |broken: Broken| (broken.refusal().unwrap_or(Refusal::Malformed), broken.to_string());
    // Said first, so that the other side, too, can name a version that does not fit.
    writer.send(&shared.hello()).map_err(broken)?;
    let hello: Hello = reader.next().await.map_err(broken)?;
    shared.check(&hello, peer)?;
    reader.trust();
    Ok((peer, reader, writer))
}

async fn converse(
    shared: &Arc<Shared>,
    peer: NodeId,
    mut reader: Reader,
    writer: &FrameWriter,
    asked: &mpsc::Sender<Asked>,
) -> Broken {
    let places = Arc::new(Semaphore::new(ANSWERING_MAX));
    loop {
        let sent = match timeout(SILENCE_MAX, reader.next::<Sent>()).await {
            Ok(Ok(sent)) => sent,
            Ok(Err(broken)) => return broken,
            Err(_) => return Broken::Silent,
        };
        let told = match sent {
            Sent::News { reports, config } => {
                shared.hear(peer, reports, config);
                writer.send(&Answered::Heard)
            }
            Sent::Ask { id, by, command } => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    let reply = refused("the node is busy", "try again in a moment");
                    if let Err(broken) = writer.send(&Answered::Answer { id, reply }) {
                        return broken;
                    }
                    continue;
                };
                let (answer, answered) = oneshot::channel();
                let question = Asked { command, by, from: peer, answer };
                tokio::spawn(answer_one(id, asked.clone(), question, answered, writer.clone(), place));
                Ok(())
            }
        };
        if let Err(broken) = told {
            return broken;
        }
    }
}

async fn answer_one(
    id: u64,
    asked: mpsc::Sender<Asked>,
    question: Asked,
    answered: oneshot::Receiver<Reply>,
    writer: FrameWriter,
    place: OwnedSemaphorePermit,
) {
    let reply = async {
        asked.send(question).await.ok()?;
        answered.await.ok()
    };
    let reply = match timeout(ANSWER_TIMEOUT, reply).await {
        Ok(Some(reply)) => reply,
        Ok(None) | Err(_) => refused("the daemon is stopping or stuck", "look at its log, then try again"),
    };
    if let Err(Broken::Refused(why)) = writer.send(&Answered::Answer { id, reply }) {
        let reply = refused(&format!("the answer is too long: {why}"), "ask that node itself");
        // A connection that has broken meanwhile tells the asker by itself.
        let _broken = writer.send(&Answered::Answer { id, reply });
    }
    drop(place);
}

fn refused(error: &str, next_step: &str) -> Reply {
    Reply::Refused { error: error.to_owned(), next_step: next_step.to_owned() }
}
