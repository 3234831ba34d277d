//! The real listener on loopback, and clients of every kind.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::sample::snapshot;
use super::*;
use crate::config;
use crate::driver::clock;

const WITHIN: Duration = Duration::from_secs(10);
const FARM: &str = "
cluster:
  name: shop
  networks: [{ name: lan }]
  nodes: [{ name: web1, addresses: { lan: 10.99.0.1 } }]
modules:
  - { name: www, kind: farm, virtual_ips: [{ address: 10.99.0.100, interface: eth0 }], rules: [{ protocol: tcp, port: 80 }] }
";

struct Site {
    configs: watch::Sender<Arc<Config>>,
    state: watch::Receiver<Option<ConsoleInfo>>,
    _snapshots: watch::Sender<Arc<crate::types::Snapshot>>,
}

impl Site {
    fn start(listen: Option<SocketAddr>) -> Self {
        let (configs, receiver) = watch::channel(config_with(listen));
        let (snapshots, seen) = watch::channel(Arc::new(snapshot()));
        let (sender, state) = watch::channel(None);
        tokio::spawn(serve(receiver, seen, sender));
        Self { configs, state, _snapshots: snapshots }
    }

    async fn wait(&mut self, listen: Option<SocketAddr>, well: bool) {
        let reached = |state: &Option<ConsoleInfo>| match state {
            None => listen.is_none(),
            Some(console) => Some(console.listen) == listen && console.error.is_none() == well,
        };
        timeout(WITHIN, self.state.wait_for(reached)).await.expect("in time").expect("the server lives");
    }
}

fn config_with(listen: Option<SocketAddr>) -> Arc<Config> {
    let console = listen.map(|listen| format!("console: {{ listen: '{listen}' }}\n")).unwrap_or_default();
    Arc::new(config::parse(&format!("{FARM}{console}"), "farm.yaml").expect("a farm"))
}

/// Free a moment ago.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

async fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(WITHIN, stream.read_to_string(&mut answer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(answer)
}

#[tokio::test]
async fn each_request_gets_its_status_and_its_type() {
    let address = free_address();
    let mut site = Site::start(Some(address));
    site.wait(Some(address), true).await;
    for (request, status, contains) in [
        ("GET /health HTTP/1.1", "200", "CONVERGED: all is well\n"),
        ("GET /health/www HTTP/1.1", "200", "www on web1 is UP (Ready)\n"),
        ("GET /health/ww HTTP/1.1", "404", "no such module"),
        ("GET /health/%2e%2e%2fetc HTTP/1.1", "404", "no such module"),
        ("GET /health/ HTTP/1.1", "404", "there is nothing here"),
        ("GET / HTTP/1.1", "404", "there is nothing here"),
        ("GET /metrics HTTP/1.1", "200", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("GET /metrics HTTP/1.1", "200", "\n# EOF\n"),
        ("GET /metrics HTTP/1.1\r\naccept: text/plain", "200", "text/plain; version=0.0.4; charset=utf-8"),
        ("POST /health HTTP/1.1", "405", "only GET and HEAD"),
        ("GET /health HTTP/1.1\r\ncontent-length: 5", "413", "no body"),
        ("GET /health HTTP/1.1\r\ntransfer-encoding: chunked", "413", "no body"),
        ("GET /health HTTP/1.1\r\nconnection: keep-alive", "200", "connection: close"),
        ("nonsense", "400", ""),
    ] {
        let answer = ask(address, &format!("{request}\r\nhost: a\r\n\r\n")).await.expect(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains(contains), "{request}: {answer}");
    }
    let head = ask(address, "HEAD /health/www HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("HEAD");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let long = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
    // It may be cut off before all of it was sent.
    let answer = ask(address, &long).await.unwrap_or_default();
    assert!(!answer.contains("200 OK"), "{answer}");
}

/// Five hundred that say nothing and hundred that say it slowly: the next honest one is answered at once.
#[tokio::test]
async fn clients_that_only_hold_connections_push_out_each_other() {
    let address = free_address();
    let mut site = Site::start(Some(address));
    site.wait(Some(address), true).await;
    let mut held = Vec::new();
    for index in 0..600 {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        if index % 6 == 0 {
            stream.write_all(b"GET /health HTTP/1.1\r\nx: ").await.expect("a beginning");
        }
        held.push(stream);
        if index % 100 == 99 {
            let began = clock::now();
            let answer = ask(address, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let took = clock::now().since(began);
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    }
    // Also who was not pushed out ends, without having been answered.
    let mut last = held.pop().expect("600 of them");
    let mut rest = Vec::new();
    let ended = timeout(WITHIN, last.read_to_end(&mut rest)).await.expect("closed in time");
    assert!(ended.is_err() || !rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

/// The daemon runs on without its console, and has it as soon as the port is free or another one is configured.
#[tokio::test]
async fn the_address_can_change_and_one_that_is_taken_is_tried_again() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let first = taken.local_addr().expect("it is bound");
    let mut site = Site::start(Some(first));
    site.wait(Some(first), false).await;
    drop(taken);
    site.wait(Some(first), true).await;
    let second = free_address();
    site.configs.send_replace(config_with(Some(second)));
    site.wait(Some(second), true).await;
    assert!(ask(second, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("an answer").contains("200"));
    assert!(TcpStream::connect(first).await.is_err(), "the old address is free");
    site.configs.send_replace(config_with(None));
    site.wait(None, true).await;
    assert!(TcpStream::connect(second).await.is_err(), "nothing listens");
}
