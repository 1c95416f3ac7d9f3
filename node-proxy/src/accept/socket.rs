//! Every socket option of the proxy, in one place.
//!
//! The only module of this crate with `unsafe`: two options of Linux that no
//! library in use has a safe call for.
#![expect(
    unsafe_code,
    reason = "setsockopt for two options without a safe wrapper"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Mark of everything that the proxy sends, unless its snapshot names another:
/// the datapath knows its packets by it and does not redirect them again.
pub const FROM_PROXY: u32 = 0xa00;

/// Source ports of upstream connections: a part of the range that the kernel
/// uses by default (32768-60999), kept small so that a connection of the proxy
/// with a pod's address seldom takes the very port that the pod itself holds.
pub const UPSTREAM_PORTS: (u16, u16) = (50_000, 60_999);

/// `linux/in.h`; libc has no name for it on every target.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Unsent or unacknowledged data older than this ends a connection: a peer
/// that vanished must not hold a stream and its memory for the kernel's
/// default of about 15 minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that may wait in the kernel for `accept`.
const BACKLOG: i32 = 4096;

/// How a listening socket is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenMode {
    /// Accepts connections to any address that the datapath assigns to it.
    /// Needs `CAP_NET_ADMIN`.
    Transparent {
        /// Of what its connections send.
        mark: u32,
    },
    /// An ordinary listener.
    Plain,
}

/// Opens one listener of a worker. All workers share the address through
/// `SO_REUSEPORT`; the kernel spreads connections over them.
///
/// # Errors
/// What the kernel says: the address is taken, or the process may not.
pub fn listen(address: SocketAddr, mode: ListenMode) -> io::Result<std::net::TcpListener> {
    let socket = listener(address, mode)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether an address is free. [`listen`] would not tell: it shares the address
/// with every process of this user that wants to.
///
/// # Errors
/// What the kernel says: the address is taken, or there is no such address.
pub fn free(address: SocketAddr, mode: ListenMode) -> io::Result<()> {
    listener(address, mode)?.bind(&address.into())
}

/// A socket that may be bound where connections of a process that is gone are
/// about to be forgotten.
fn listener(address: SocketAddr, mode: ListenMode) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit both options below.
    socket.set_tcp_nodelay(true)?;
    if let ListenMode::Transparent { mark } = mode {
        set_transparent(&socket, address.is_ipv4())?;
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

/// What a socket towards an upstream is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamSocket {
    /// Address of the upstream, for the address family.
    pub address: SocketAddr,
    /// Source address, possibly one that is not the node's.
    pub source: Option<IpAddr>,
    /// Marks the socket as the proxy's and binds foreign addresses: on in
    /// transparent mode only, since both need `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

/// Makes the socket of an upstream connection, ready to connect.
///
/// # Errors
/// What the kernel says; `EADDRNOTAVAIL` when the source has no port left.
pub fn upstream(options: UpstreamSocket) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(options.address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(source) = options.source {
        if options.mark.is_some() {
            set_transparent(&socket, source.is_ipv4())?;
            set_port_range(&socket)?;
        }
        // The port is chosen at connect, where the whole 4-tuple must be
        // free, and not at bind, where the port alone would have to be.
        set_option(&socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Settings of a connection that was accepted. `TCP_NODELAY` and the mark are
/// inherited from the listener.
///
/// # Errors
/// What the kernel says.
pub fn accepted(stream: &tokio::net::TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn set_transparent(socket: &Socket, v4: bool) -> io::Result<()> {
    if v4 {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    }
}

fn set_port_range(socket: &Socket) -> io::Result<()> {
    let (low, high) = UPSTREAM_PORTS;
    let range = (u32::from(high) << 16) | u32::from(low);
    match set_option(socket, IP_LOCAL_PORT_RANGE, range) {
        // Linux before 6.3 has no such option and uses the whole range.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        other => other,
    }
}

fn set_option(socket: &Socket, option: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, and the value
    // is a live u32 whose size is passed along.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
