//! The application of a node: says its name, then sends back what it gets. It keeps a connection for as long as the
//! client wants, and knows nothing of the daemon.
//!
//! | port | what |
//! |---|---|
//! | 80 | TCP: name and newline, then an echo |
//! | 81 | TCP: name and newline, then [`DOWNLOAD_BYTES`] of a pattern, then the end |
//! | 82 | UDP: name and newline before what came |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::socket;

pub const ECHO_PORT: u16 = safekit::front::demo::farm::PORT;
pub const DOWNLOAD_PORT: u16 = 81;
pub const DATAGRAM_PORT: u16 = 82;
pub const DOWNLOAD_BYTES: usize = 8 << 20;

const BACKLOG: u32 = 4_096;
const ECHO_BUFFER_BYTES: usize = 2_048;

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// What to answer.
    #[arg(long)]
    pub name: String,
    /// Datagrams are answered from here; the daemon may bring the address up later.
    #[arg(long)]
    pub virtual_ip: IpAddr,
}

/// Serves until it is killed.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    socket::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(serve(args))?)
}

async fn serve(args: &ServeArgs) -> io::Result<()> {
    let name: Arc<[u8]> = format!("{}\n", args.name).into_bytes().into();
    let echo = listen(args.virtual_ip, ECHO_PORT)?;
    let download = listen(args.virtual_ip, DOWNLOAD_PORT)?;
    let datagrams = datagram_socket(args.virtual_ip)?;
    tokio::spawn(answer_datagrams(datagrams, Arc::clone(&name)));
    tokio::spawn(accept(
        download,
        Arc::clone(&name),
        |stream, name| async move { send_all(stream, &name).await },
    ));
    accept(echo, name, |stream, name| async move { send_back(stream, &name).await }).await;
    Ok(())
}

async fn accept<F>(listener: TcpListener, name: Arc<[u8]>, serve: fn(TcpStream, Arc<[u8]>) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            // What goes wrong on a connection is its client's to see.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&name)))),
            // Out of descriptors, or a client that left early: both pass.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn send_back(mut stream: TcpStream, name: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(name).await?;
    let mut buffer = [0; ECHO_BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn send_all(mut stream: TcpStream, name: &[u8]) -> io::Result<()> {
    stream.write_all(name).await?;
    let mut sent = 0;
    while sent < DOWNLOAD_BYTES {
        let block: Vec<u8> = (sent..sent + 16_384).map(pattern).collect();
        stream.write_all(&block).await?;
        sent += block.len();
    }
    stream.shutdown().await
}

/// The byte at a place of the download.
pub fn pattern(place: usize) -> u8 {
    (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

async fn answer_datagrams(socket: UdpSocket, name: Arc<[u8]>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error of an earlier answer is none of this one.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = name.to_vec();
        answer.extend_from_slice(&buffer[..length]);
        let _lost = socket.send_to(&answer, client).await;
    }
}

fn listen(family: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if family.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    let any =
        if family.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    socket.bind(SocketAddr::new(any, port))?;
    socket.listen(BACKLOG)
}

/// Bound to the virtual IP, so that answers come from it; before the address is there, if need be.
fn datagram_socket(virtual_ip: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(virtual_ip, DATAGRAM_PORT);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if virtual_ip.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
