//! A small transparent proxy: what the node proxy does with sockets, without
//! any HTTP.
#![expect(unsafe_code, reason = "a socket option without a safe wrapper")]

use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;
use std::{io, thread};

use socket2::{Domain, SockRef, Socket, Type};
use weft_datapath::Config;

use crate::cluster::Node;
use crate::support::{Namespace, v4};

/// A connection that the proxy took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub client: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// Takes redirected connections and connects on, with the client's address.
pub struct Proxy {
    listener: TcpListener,
    pub taken: mpsc::Receiver<Taken>,
    pub port: u16,
}

impl Proxy {
    pub fn start(node: &Node) -> Self {
        Self::start_on(node, 0)
    }

    /// Starts one on this port, beside others that may be there; 0 for any
    /// port.
    pub fn start_on(node: &Node, port: u16) -> Self {
        let config = node.config.clone();
        let listener = node.namespace.enter(|| listen(&config, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = listener.try_clone().unwrap();
        let (sender, taken) = mpsc::channel();
        // Connections are opened by a thread of the node's namespace.
        let name = node.namespace.name().to_owned();
        thread::spawn(move || {
            Namespace::join(&name);
            while let Ok((client, peer)) = accepting.accept() {
                let destination = v4(client.local_addr().unwrap());
                let taken = Taken {
                    client: v4(peer),
                    destination,
                };
                let _ = sender.send(taken);
                let config = config.clone();
                thread::spawn(move || splice(client, taken, &config));
            }
        });
        Self {
            listener,
            taken,
            port,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Wakes the accepting thread.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

fn listen(config: &Config, port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_ip_transparent_v4(true)?;
    socket.set_mark(config.marks.from_proxy)?;
    socket.bind(&SocketAddr::from((config.listener, port)).into())?;
    socket.listen(64)?;
    Ok(socket.into())
}

fn connect(taken: Taken, config: &Config) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_mark(config.marks.from_proxy)?;
    socket.set_ip_transparent_v4(true)?;
    let ports = &config.upstream_ports;
    set_ip_option(&socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let range = i32::from_ne_bytes(
        (u32::from(*ports.end()) << 16 | u32::from(*ports.start())).to_ne_bytes(),
    );
    set_ip_option(&socket, IP_LOCAL_PORT_RANGE, range)?;
    socket.bind(&SocketAddr::from((*taken.client.ip(), 0)).into())?;
    socket.set_tcp_nodelay(true)?;
    socket.connect(&taken.destination.into())?;
    Ok(socket.into())
}

/// From the kernel's `in.h`.
const IP_LOCAL_PORT_RANGE: i32 = 51;

fn set_ip_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, the value lives across the call and has
    // the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn splice(client: TcpStream, taken: Taken, config: &Config) {
    let _ = client.set_nodelay(true);
    let Ok(server) = connect(taken, config) else {
        return;
    };
    thread::scope(|scope| {
        scope.spawn(|| forward(&client, &server));
        forward(&server, &client);
    });
}

fn forward(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
