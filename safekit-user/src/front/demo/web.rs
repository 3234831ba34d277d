//! A small web server, one per node: every answer names the node. Hidden subcommand `safekit demo-web`.
//!
//! HTTP/1.1 with keep-alive, so that a long connection can ask again and again. On SIGTERM it does what good
//! servers do: each connection gets `Connection: close` with its next answer, and the last one ends the process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::namespace::Namespace;
use crate::front::exit::Exit;

/// Full: further clients wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 8192;
const BACKLOG: u32 = 4096;
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// A connection that asks nothing for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes no answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After SIGTERM: connections that ask nothing more do not hold up the end.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub struct WebArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:80")]
    pub listen: SocketAddr,
    /// What to answer.
    #[arg(long)]
    pub name: String,
}

pub fn run(args: &WebArgs) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(args))) {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("error: cannot serve on {}: {error}", args.listen);
            eprintln!("next: choose a free address with --listen");
            Exit::Failed
        }
    }
}

/// Whether a server listens on `port` of the machine `namespace`.
pub fn is_up(namespace: &Namespace, port: u16) -> bool {
    let connect = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    namespace.inside(connect).unwrap_or(false)
}

async fn serve(args: &WebArgs) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = listen(args.listen)?;
    let (closing, closing_seen) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let answers = Answers::of(&args.name);
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, or a client that left early: both pass.
                Err(_) => { tokio::time::sleep(Duration::from_millis(10)).await; continue }
            },
            _ = terminate.recv() => break,
        };
        let (closing, answers) = (closing_seen.clone(), answers.clone());
        tokio::spawn(async move {
            // What goes wrong on a connection is its client's to see.
            let _broken = converse(stream, closing, answers).await;
            drop(place);
        });
    }
    closing.send_replace(true);
    drop(listener);
    let everybody = u32::try_from(CONNECTIONS_MAX).expect("the constant is small");
    // Late ones are closed by the end of the process.
    let _late = timeout(FAREWELL_TIMEOUT, places.acquire_many(everybody)).await;
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Both answers, ready to send.
#[derive(Clone)]
struct Answers {
    stay: Arc<[u8]>,
    close: Arc<[u8]>,
}

impl Answers {
    fn of(name: &str) -> Self {
        let answer = |connection| {
            let body = format!("{name}\n");
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n");
            format!("{head}Connection: {connection}\r\n\r\n{body}").into_bytes().into()
        };
        Self { stay: answer("keep-alive"), close: answer("close") }
    }
}

async fn converse(mut stream: TcpStream, closing: watch::Receiver<bool>, answers: Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(512);
    loop {
        let Some(end) = head_end(&request) else {
            if request.len() >= REQUEST_BYTES_MAX {
                return stream.write_all(b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n").await;
            }
            if timeout(IDLE_TIMEOUT, stream.read_buf(&mut request)).await?? == 0 {
                return Ok(());
            }
            continue;
        };
        let close = *closing.borrow() || asks_to_close(&request[..end]);
        let answer = if close { &answers.close } else { &answers.stay };
        timeout(WRITE_TIMEOUT, stream.write_all(answer)).await??;
        if close {
            return stream.shutdown().await;
        }
        request.drain(..end);
    }
}

/// Where the request's head ends; requests of the demo have no body.
fn head_end(request: &[u8]) -> Option<usize> {
    request.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

fn asks_to_close(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .any(|line| line.split_once(':').is_some_and(|(k, v)| k == "connection" && v.trim() == "close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_its_head_ends() {
        for (request, expected) in [
            ("", None),
            ("GET / HTTP/1.1\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", Some(18)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", Some(27)),
        ] {
            assert_eq!(head_end(request.as_bytes()), expected, "{request:?}");
        }
    }

    #[test]
    fn only_the_client_that_asks_is_closed() {
        assert!(asks_to_close(b"GET / HTTP/1.1\r\nCONNECTION:  close\r\n\r\n"));
        assert!(!asks_to_close(b"GET /?connection:close HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"));
    }
}
