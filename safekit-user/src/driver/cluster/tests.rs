//! Nodes on loopback addresses, and strangers among them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::types::module::{ModuleState, Role, Status};
use crate::wire::link::{Sent, encode};

const KEY: ClusterKey = ClusterKey::new([7; 32]);
const OTHER_KEY: ClusterKey = ClusterKey::new([8; 32]);
const PATIENCE: Duration = Duration::from_secs(5);
const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);

/// Nodes at 127.0.TEST.1 and up: tests run side by side.
fn config(test: u8) -> Arc<Config> {
    let node =
        |number: u8| format!("    - {{ name: web{number}, addresses: {{ lan: 127.0.{test}.{number} }} }}\n");
    let nodes: String = (1..=3).map(node).collect();
    let text = format!(
        "cluster:\n  name: shop\n  networks: [{{ name: lan, port: 4899 }}]\n  nodes:\n{nodes}modules:\n  - name: www\n    \
         kind: farm\n    virtual_ips: [{{ address: 10.99.0.100, interface: eth0 }}]\n    rules: [{{ protocol: tcp, \
         port: 80 }}]\n"
    );
    Arc::new(crate::config::parse(&text, "farm.yaml").expect("a farm"))
}

/// Answers every command by who asked for it.
fn start(config: &Arc<Config>, me: NodeId, key: &ClusterKey) -> Cluster {
    let (cluster, mut asked) =
        Cluster::start(Arc::clone(config), me, std::slice::from_ref(key), ConfigIdentity::default());
    tokio::spawn(async move {
        while let Some(Asked { by, answer, .. }) = asked.recv().await {
            let _gone = answer.send(Reply::Refused { error: by, next_step: String::new() });
        }
    });
    cluster
}

async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !ready() {
        assert!(clock::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn refused(cluster: &Cluster, why: Refusal) -> u64 {
    let infos = cluster.info().refused;
    infos.iter().find(|info| info.reason == why.word()).map_or(0, |info| info.count)
}

#[tokio::test]
async fn a_command_is_answered_and_an_absent_node_is_named_with_the_reason() {
    let config = config(11);
    let (one, _two) = (start(&config, N1, &KEY), start(&config, N2, &KEY));
    until("a connection", || one.info().nodes[0].connected).await;
    let reply = one.ask(N2, Command::Status, "anna", PATIENCE).await;
    assert_eq!(reply, Ok(Reply::Refused { error: "anna on web1".into(), next_step: String::new() }));
    let absent = one.ask(N3, Command::Status, "anna", PATIENCE).await.expect_err("nobody is there");
    assert!(absent.0.contains("refused"), "{absent}");
    assert!(one.ask(N1, Command::Status, "anna", PATIENCE).await.is_err());
}

#[tokio::test]
async fn news_arrive_and_a_node_that_comes_late_gets_the_latest() {
    let config = config(12);
    let one = start(&config, N1, &KEY);
    let report = |starts| ModuleReport {
        module: "www".into(),
        state: ModuleState::new(Role::Up, Status::Ready),
        cause: None,
        starts,
        resources: vec![],
    };
    one.publish(vec![report(1)]);
    let two = start(&config, N2, &KEY);
    let heard = two.reports();
    let starts = || heard.borrow()[0].as_ref().and_then(|heard| heard.reports.first().map(|it| it.starts));
    until("the first report", || starts() == Some(1)).await;
    one.publish(vec![report(2)]);
    until("the second report", || starts() == Some(2)).await;
    assert!(heard.borrow()[2].is_none());
}

#[tokio::test]
async fn a_node_with_another_key_is_refused_counted_and_named_by_both_sides() {
    let config = config(13);
    let (one, two) = (start(&config, N1, &KEY), start(&config, N2, &OTHER_KEY));
    until("both have counted", || refused(&one, Refusal::Key) > 0 && refused(&two, Refusal::Key) > 0).await;
    let answer = one.ask(N2, Command::Status, "anna", PATIENCE).await.expect_err("it has another key");
    assert!(answer.0.contains("another cluster key"), "{answer}");
    assert_eq!(one.info().refused[0].last, "web2 (127.0.13.2)");
    // Each of two keys will do while the key changes.
    one.use_keys(&[KEY, OTHER_KEY]);
    two.use_keys(&[OTHER_KEY, KEY]);
    let mut reply = one.ask(N2, Command::Status, "anna", PATIENCE).await;
    if reply.is_err() {
        // The connection that was being made may still have been made with the old key.
        reply = one.ask(N2, Command::Status, "anna", PATIENCE).await;
    }
    assert!(reply.is_ok(), "{reply:?}");
}

/// A connection as node 2 would make it, with its keys.
async fn stranger(config: &Config, to: &str) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(Identities::of(&[KEY], config, N2).dial(N1));
    let stream = plain(to).await;
    connector.connect(tls::server_name(), stream).await.expect("the key is right")
}

async fn plain(to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.connect(format!("{to}:4899").parse().expect("an address")).await.expect("it listens")
}

#[tokio::test]
async fn a_future_version_another_name_and_torn_or_foreign_bytes_are_counted_and_harm_nobody() {
    let config = config(14);
    let one = start(&config, N1, &KEY);
    let hello = one.0.hello();
    until("it listens", || std::net::TcpStream::connect("127.0.14.1:4899").is_ok()).await;
    let as_two = Hello { node: "web2".into(), ..hello };
    let future = Hello { version: VERSION + 1, ..as_two.clone() };
    let other = Hello { node: "web3".into(), ..as_two.clone() };
    let whole = encode(&as_two).expect("it is short");
    let [future, other] = [future, other].map(|hello| encode(&hello).expect("it is short"));
    let torn = [&whole[..], &[0, 0, 1, 0, b'{']].concat();
    let long = [&whole[..], &u32::MAX.to_be_bytes()].concat();
    let malformed = refused(&one, Refusal::Malformed);
    for (bytes, why, count) in [
        (&future, Refusal::Version, 1),
        (&other, Refusal::Name, 1),
        (&torn, Refusal::Malformed, malformed + 1),
        (&long, Refusal::Malformed, malformed + 2),
    ] {
        let mut stream = stranger(&config, "127.0.14.1").await;
        stream.write_all(bytes).await.expect("it reads");
        stream.shutdown().await.expect("it reads");
        until(why.word(), || refused(&one, why) >= count).await;
        // It says its own version first, and ends the connection.
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).contains("\"version\":1"), "{answer:?}");
    }
    let mut foreign = plain("127.0.14.1").await;
    foreign.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("it reads");
    until("no TLS", || refused(&one, Refusal::Malformed) >= malformed + 3).await;
    let _two = start(&config, N2, &KEY);
    assert!(one.ask(N2, Command::Status, "anna", PATIENCE).await.is_ok());
}

/// What a listener on the way recorded is of no use a second time: TLS has new keys on each connection.
#[tokio::test]
async fn a_recorded_connection_cannot_be_replayed() {
    let config = config(15);
    let one = start(&config, N1, &KEY);
    until("it listens", || std::net::TcpStream::connect("127.0.15.1:4899").is_ok()).await;
    let recorder = tokio::net::TcpListener::bind("127.0.15.9:4899").await.expect("a free address");
    let recorded = tokio::spawn(async move {
        let (mut client, _) = recorder.accept().await.expect("the stranger connects");
        let mut server = plain("127.0.15.1").await;
        let (mut record, mut piece) = (Vec::new(), [0; 4096]);
        let (mut from_server, mut to_server) = server.split();
        let (mut from_client, mut to_client) = client.split();
        let forward = async {
            while let Ok(length @ 1..) = from_client.read(&mut piece).await {
                record.extend_from_slice(&piece[..length]);
                to_server.write_all(&piece[..length]).await.expect("it reads");
            }
        };
        tokio::select! {
            () = forward => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
        record
    });
    let connector = TlsConnector::from(Identities::of(&[KEY], &config, N2).dial(N1));
    let mut stream =
        connector.connect(tls::server_name(), plain("127.0.15.9").await).await.expect("the key is right");
    let hello = Hello { node: "web2".into(), ..one.0.hello() };
    stream.write_all(&encode(&hello).expect("it is short")).await.expect("it reads");
    let mut piece = [0; 256];
    assert!(stream.read(&mut piece).await.expect("it answers") > 0);
    drop(stream);
    let record = recorded.await.expect("the recorder ends");
    assert!(record.len() > 500, "{} bytes", record.len());
    let before: u64 = one.info().refused.iter().map(|info| info.count).sum();
    let mut replay = plain("127.0.15.1").await;
    replay.write_all(&record).await.expect("it reads");
    until("the replay is refused", || one.info().refused.iter().map(|info| info.count).sum::<u64>() > before)
        .await;
    assert_eq!(one.reports().borrow().iter().flatten().count(), 0, "nobody was heard");
}

/// Forwards one connection, and spoils what the client says from byte `place` on.
async fn spoiler(listener: &tokio::net::TcpListener, server: &str, place: usize, spoil: Spoil) {
    let (mut client, _) = listener.accept().await.expect("the stranger connects");
    let mut server = plain(server).await;
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let forward = async {
        let (mut passed, mut piece) = (0, [0; 4096]);
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            let here = (passed..passed + length).contains(&place).then(|| place - passed);
            passed += length;
            let keep = match (here, spoil) {
                (Some(here), Spoil::Cut) => here,
                (Some(here), Spoil::Flip) => {
                    piece[here] ^= 0x10;
                    length
                }
                (None, _) => length,
            };
            if to_server.write_all(&piece[..keep]).await.is_err() || keep < length {
                return;
            }
        }
    };
    // Whichever side ends first: both connections end with this function.
    tokio::select! {
        () = forward => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoil {
    Flip,
    Cut,
}

/// Greeting and frames over a way that spoils a byte or ends, at places all over it: nothing panics, nobody is heard
/// who was not understood, and the next connection is served.
#[tokio::test]
async fn a_connection_that_is_spoiled_or_cut_anywhere_harms_nobody() {
    let config = config(16);
    let one = start(&config, N1, &KEY);
    until("it listens", || std::net::TcpStream::connect("127.0.16.1:4899").is_ok()).await;
    let listener = tokio::net::TcpListener::bind("127.0.16.9:4899").await.expect("a free address");
    let hello = Hello { node: "web2".into(), ..one.0.hello() };
    let news = Sent::News { reports: vec![], config: ConfigIdentity::default() };
    let frames = [encode(&hello), encode(&news)].map(|frame| frame.expect("it is short")).concat();
    let refusals = || one.info().refused.iter().map(|info| info.count).sum::<u64>();
    let before = refusals();
    let mut heard = Vec::new();
    let places = (0..600).step_by(7).flat_map(|place| [(place, Spoil::Flip), (place, Spoil::Cut)]);
    let mut rounds = 0;
    for (place, spoil) in places {
        rounds += 1;
        let talk = async {
            let connector = TlsConnector::from(Identities::of(&[KEY], &config, N2).dial(N1));
            let Ok(mut stream) = connector.connect(tls::server_name(), plain("127.0.16.9").await).await
            else {
                return;
            };
            let _broken = stream.write_all(&frames).await;
            let mut answers = Vec::new();
            // The server's greeting, and its answer to the news; or the end.
            while !String::from_utf8_lossy(&answers).contains("heard") {
                if !matches!(stream.read_buf(&mut answers).await, Ok(1..)) {
                    return;
                }
            }
        };
        let both = async {
            tokio::select! {
                () = talk => {}
                () = spoiler(&listener, "127.0.16.1", place, spoil) => {}
            }
        };
        timeout(PATIENCE, both).await.expect("each round ends");
        if one.reports().borrow()[1].is_some() {
            heard.push((place, spoil));
            one.0.reports.send_modify(|reports| reports[1] = None);
        }
    }
    until("what was spoiled is counted", || refusals() >= before + rounds / 2).await;
    // TLS 1.3 does not look at the version in the head of a record (RFC 8446, 5.1); behind the last frame is nothing.
    assert!(heard.len() < 8, "of {rounds} rounds these were heard: {heard:?}");
    let _two = start(&config, N2, &KEY);
    assert!(one.ask(N2, Command::Status, "anna", PATIENCE).await.is_ok());
}
