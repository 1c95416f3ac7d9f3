//! Opening one connection towards an upstream.

use std::io;

use tokio::net::{TcpSocket, TcpStream};

use super::target::Target;
use crate::accept::socket::{self, UpstreamSocket};
use crate::failure::Failure;

/// How connections towards upstreams are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Marks the sockets as the proxy's and binds foreign source addresses;
    /// needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

/// Opens a connection to `target`, with `TCP_NODELAY` and from its source.
///
/// # Errors
/// [`Failure::ConnectError`], [`Failure::ConnectTimeout`], or
/// [`Failure::NoSourcePort`] when the source address ran out of ports.
pub async fn connect(target: &Target, options: &Options) -> Result<TcpStream, Failure> {
    let socket = socket::upstream(UpstreamSocket {
        address: target.address,
        source: target.source,
        mark: options.mark,
    })
    .map_err(failure)?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(target.address);
    match tokio::time::timeout(target.connect_timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure(error)),
        Err(_elapsed) => Err(Failure::ConnectTimeout),
    }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => Failure::NoSourcePort,
        io::ErrorKind::TimedOut => Failure::ConnectTimeout,
        kind => Failure::ConnectError(kind),
    }
}
