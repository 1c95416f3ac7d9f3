//! Datagrams through a transparent proxy, as a DNS proxy takes and answers
//! them.
#![expect(
    unsafe_code,
    reason = "socket options and control messages without a safe wrapper"
)]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;
use std::{io, thread};

use socket2::{Domain, Socket, Type};
use weft_datapath::{Config, Direction, EventKind, PolicyEntry, Service, TracePoint, Verdict};

use crate::cluster::{Cluster, Node, Routing, entry};
use crate::support::{Echo, Namespace, SOON, ask, receive};

const UDP: u8 = 17;

fn rule(direction: Direction, identity: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        protocol: UDP,
        ..entry(direction, identity, port, verdict)
    }
}

/// A query that the proxy took: who asked, and whom.
type Query = (SocketAddrV4, SocketAddrV4);

struct DnsProxy {
    port: u16,
    queries: mpsc::Receiver<Query>,
}

impl DnsProxy {
    fn start(node: &Node) -> Self {
        let config = node.config.clone();
        let socket = node
            .namespace
            .enter(|| transparent(&config, (config.listener, 0)))
            .unwrap();
        set(&socket, libc::IP_RECVORIGDSTADDR, 1);
        let port = socket.local_addr().unwrap().port();
        let (sender, queries) = mpsc::channel();
        let name = node.namespace.name().to_owned();
        // Ends with the process: the test does not wait for it.
        thread::spawn(move || {
            Namespace::join(&name);
            while let Ok((data, client, server)) = receive_with_destination(&socket) {
                let _ = sender.send((client, server));
                let answer = relay(&config, &data, client, server).unwrap();
                // In the server's name, to the very port that asked.
                let own = transparent(&config, (*server.ip(), server.port())).unwrap();
                own.send_to(&answer, client).unwrap();
            }
        });
        Self { port, queries }
    }
}

/// Asks the server under the client's address.
fn relay(
    config: &Config,
    data: &[u8],
    client: SocketAddrV4,
    server: SocketAddrV4,
) -> io::Result<Vec<u8>> {
    let upstream = transparent(config, (*client.ip(), 0))?;
    upstream.set_read_timeout(Some(SOON))?;
    upstream.connect(server)?;
    upstream.send(data)?;
    let mut answer = [0; 512];
    let len = upstream.recv(&mut answer)?;
    Ok(answer[..len].to_vec())
}

fn transparent(config: &Config, addr: (Ipv4Addr, u16)) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_ip_transparent_v4(true)?;
    socket.set_mark(config.marks.from_proxy)?;
    socket.bind(&SocketAddr::from(addr).into())?;
    Ok(socket.into())
}

fn set(socket: &UdpSocket, option: i32, value: i32) {
    // SAFETY: the descriptor is open, the value lives across the call and has
    // the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A datagram, its sender, and where it was going.
fn receive_with_destination(
    socket: &UdpSocket,
) -> io::Result<(Vec<u8>, SocketAddrV4, SocketAddrV4)> {
    let mut data = [0_u8; 512];
    let mut control = [0_u64; 16];
    // SAFETY: plain structures for which all zeroes are valid; every pointer
    // put into them outlives the call, with its length; control messages are
    // walked by libc's own macros.
    unsafe {
        let mut name: libc::sockaddr_in = std::mem::zeroed();
        let mut part = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let len = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_IP && (*header).cmsg_type == libc::IP_ORIGDSTADDR {
                let server: libc::sockaddr_in = libc::CMSG_DATA(header)
                    .cast::<libc::sockaddr_in>()
                    .read_unaligned();
                return Ok((data[..len as usize].to_vec(), addr(&name), addr(&server)));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Err(io::Error::other("no original destination"))
}

fn addr(raw: &libc::sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
    SocketAddrV4::new(ip, u16::from_be(raw.sin_port))
}

fn proxied(routing: Routing, same: bool) {
    let mut cluster = Cluster::new(routing);
    let client = cluster.pod(0, 300);
    let server = cluster.pod(if same { 0 } else { 1 }, 301);
    let echo = Echo::start(&server.namespace, server.port(0));
    let vip = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 53);
    let service = Service {
        vip: *vip.ip(),
        port: vip.port(),
        protocol: UDP,
        backends: vec![(server.addr(), echo.addr().port())],
        redirect: None,
    };
    cluster.nodes[0]
        .datapath
        .services()
        .unwrap()
        .apply(&[service])
        .unwrap();
    let proxy = DnsProxy::start(&cluster.nodes[0]);
    let redirect = Verdict::Redirect(proxy.port);
    let allow = rule(Direction::Egress, 301, echo.addr().port(), redirect);
    cluster.police(&client, Direction::Egress, &[allow]);
    let socket = client.namespace.udp(client.addr());
    let own = socket.local_addr().unwrap();
    for to in [echo.addr(), vip] {
        let (seen, from) = ask(&socket, to).unwrap();
        assert_eq!(seen.ip(), client.addr());
        assert_ne!(seen, own, "the proxy's own port");
        assert_eq!(from, SocketAddr::from(to));
        let (asked, destination) = receive(&proxy.queries);
        assert_eq!(SocketAddr::from(asked), own);
        assert_eq!(destination, echo.addr());
    }
    cluster.nodes[0].wait_for("to-proxy", |event| {
        event.kind == EventKind::Trace(TracePoint::ToProxy) && event.protocol == UDP
    });
}

#[test]
fn on_one_node() {
    proxied(Routing::Native, true);
}

#[test]
fn across_nodes() {
    proxied(Routing::Native, false);
    proxied(Routing::Vxlan, false);
}

#[test]
fn without_a_proxy_nothing_passes() {
    let mut cluster = Cluster::new(Routing::Native);
    let (client, server) = (cluster.pod(0, 300), cluster.pod(0, 301));
    let echo = Echo::start(&server.namespace, server.port(0));
    let redirect = Verdict::Redirect(1);
    let port = echo.addr().port();
    let ruled = rule(Direction::Egress, 301, port, redirect);
    cluster.police(&client, Direction::Egress, &[ruled]);
    let socket = client.namespace.udp(client.addr());
    socket.send_to(b"x", echo.addr()).unwrap();
    let drop = cluster.nodes[0].wait_for_drop(client.addr(), server.addr());
    let reason = weft_datapath::DropReason::ProxyNotListening;
    assert_eq!(drop.kind, EventKind::Drop(reason));
}
