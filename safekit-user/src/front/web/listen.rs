//! Listens where the configuration says, and keeps clients within bounds.
//!
//! One request a connection. A connection has [`HEAD_TIMEOUT`] for its request and [`CONNECTION_TIMEOUT`] in all.
//! Of [`CONNECTIONS_MAX`] at once the oldest makes room for a newcomer: it had the most time, so clients that only hold
//! connections open push out each other, while an honest one needs its place for a few milliseconds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{Snapshots, router};
use crate::config::Config;
use crate::types::snapshot::ConsoleInfo;

/// Full: the oldest is closed.
const CONNECTIONS_MAX: usize = 128;
/// From the beginning of the connection to the end of the request's headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// The answer is in memory at once; a client that takes it slower is gone.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the request line and all headers; hyper allows no less.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// An address that cannot be bound, or a process without a free descriptor. Binding itself never waits.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Serves until the task is dropped. A change of the address in `configs` takes effect at once; `state` is what screens
/// are told.
pub async fn serve(
    mut configs: watch::Receiver<Arc<Config>>,
    snapshots: Snapshots,
    state: watch::Sender<Option<ConsoleInfo>>,
) {
    let router = router(snapshots);
    loop {
        let wanted = address_in(&configs.borrow_and_update());
        tokio::select! {
            () = until_other(&mut configs, wanted) => {}
            () = listen(wanted, &router, &state) => {}
        }
    }
}

fn address_in(config: &Config) -> Option<SocketAddr> {
    config.console.as_ref().map(|console| console.listen)
}

async fn until_other(configs: &mut watch::Receiver<Arc<Config>>, present: Option<SocketAddr>) {
    while configs.changed().await.is_ok() {
        if address_in(&configs.borrow_and_update()) != present {
            return;
        }
    }
    // The daemon is ending: nothing changes any more.
    std::future::pending::<()>().await;
}

async fn listen(address: Option<SocketAddr>, router: &Router, state: &watch::Sender<Option<ConsoleInfo>>) {
    let Some(address) = address else {
        state.send_replace(None);
        return std::future::pending().await;
    };
    let listener = bind(address, state).await;
    let mut places = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                make_room(&mut places);
                places.push_back(tokio::spawn(converse(stream, router.clone())).abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, %address, "cannot accept a connection to the console");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// A port that is taken, or an address that comes late, is tried again for as long as it is wanted.
async fn bind(address: SocketAddr, state: &watch::Sender<Option<ConsoleInfo>>) -> TcpListener {
    let mut told = false;
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "the console listens");
                state.send_replace(Some(ConsoleInfo { listen: address, error: None }));
                return listener;
            }
            Err(error) => error,
        };
        if !told {
            told = true;
            tracing::warn!(%error, %address, "the console cannot listen; trying again");
            state.send_replace(Some(ConsoleInfo { listen: address, error: Some(error.to_string()) }));
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// At least one place is free after it.
fn make_room(places: &mut VecDeque<AbortHandle>) {
    if places.len() < CONNECTIONS_MAX {
        return;
    }
    places.retain(|connection| !connection.is_finished());
    if places.len() >= CONNECTIONS_MAX
        && let Some(oldest) = places.pop_front()
    {
        oldest.abort();
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        // Clients that say all they have and close their side want an answer too.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the console went away"),
        Err(_) => tracing::debug!("a client of the console was too slow"),
    }
}

#[cfg(test)]
mod tests;
