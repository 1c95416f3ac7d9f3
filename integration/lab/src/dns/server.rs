//! The DNS server of one pod: UDP and TCP sockets made inside its namespace.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::names::Zone;
use super::wire::answer;
use crate::net::NetNs;

const PORT: u16 = 53;
/// Largest answer over UDP to a client that says nothing else.
const UDP_MOST: usize = 512;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients at once; more are turned away.
const MOST_CLIENTS: usize = 256;

/// Where to serve what.
#[derive(Clone)]
pub struct Server {
    zone: Zone,
    netns: String,
    ip: Ipv4Addr,
}

/// A server with its sockets.
pub struct Serving {
    zone: Zone,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// A server on port 53 of an address inside a network namespace.
    pub fn new(zone: Zone, netns: String, ip: Ipv4Addr) -> Self {
        Self { zone, netns, ip }
    }

    /// Makes the sockets.
    ///
    /// # Errors
    /// When the namespace is gone or the port taken.
    pub async fn bind(&self) -> anyhow::Result<Serving> {
        let address = SocketAddrV4::new(self.ip, PORT);
        let netns = self.netns.clone();
        let sockets = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            let sockets = NetNs::open(&netns)?.run(|| -> std::io::Result<_> {
                let udp = std::net::UdpSocket::bind(address)?;
                let tcp = std::net::TcpListener::bind(address)?;
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                Ok((udp, tcp))
            })?;
            sockets.with_context(|| format!("listen on {address}"))
        });
        let (udp, tcp) = sockets.await??;
        Ok(Serving {
            zone: self.zone.clone(),
            udp: UdpSocket::from_std(udp)?,
            tcp: TcpListener::from_std(tcp)?,
        })
    }
}

impl Serving {
    /// Answers until a socket fails, which it says.
    pub async fn run(self) -> anyhow::Error {
        let Self { zone, udp, tcp } = self;
        tokio::select! {
            error = serve_udp(&udp, &zone) => error,
            error = serve_tcp(&tcp, &zone) => error,
        }
    }
}

async fn serve_udp(socket: &UdpSocket, zone: &Zone) -> anyhow::Error {
    let mut query = [0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            // An earlier answer that could not be delivered; not this socket's end.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(e) => return anyhow::Error::new(e).context("receive queries"),
        };
        if let Some(answer) = answer(&query[..length], Some(UDP_MOST), zone) {
            // The client asks again when this does not arrive.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: &TcpListener, zone: &Zone) -> anyhow::Error {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < MOST_CLIENTS => {
                    clients.spawn(serve_client(stream, zone.clone()));
                }
                Ok(_) => {}
                Err(e) => return anyhow::Error::new(e).context("accept clients"),
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Queries of one TCP client, each behind its length.
async fn serve_client(mut stream: TcpStream, zone: Zone) -> Option<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16())
            .await
            .ok()?
            .ok()?;
        let mut query = vec![0; usize::from(length)];
        let read = tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await;
        read.ok()?.ok()?;
        let answer = answer(&query, None, &zone)?;
        let mut framed = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
        framed.extend(answer);
        stream.write_all(&framed).await.ok()?;
    }
}
