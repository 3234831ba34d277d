//! A port that accepts connections.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::sight::Seen;

pub(super) async fn look(address: SocketAddr) -> Seen {
    match TcpStream::connect(address).await {
        Ok(_) => Seen::up(format!("connected to {address}")),
        Err(error) => Seen::down(format!("cannot connect to {address}: {error}")),
    }
}
