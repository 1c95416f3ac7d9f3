//! Connections to where modules are: never to an address of this node or of a
//! private network, unless that is allowed. Whoever may write a filter could
//! otherwise have the agent, which is on every network of the node, ask what is
//! there. Names are looked up here and what they stand for is judged, so that a
//! name cannot stand for something else a moment later.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{TryStreamExt as _, pin_mut};
use http::Uri;
use hyper_util::rt::TokioIo;
use rtnetlink::packet_route::address::AddressAttribute;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// Dials for the HTTP client.
#[derive(Debug, Clone, Copy)]
pub struct Dialer {
    /// Private networks and this node may be reached.
    pub private: bool,
}

impl Dialer {
    async fn dial(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(443);
        let own = match self.private {
            true => BTreeSet::new(),
            false => own_addresses().await?,
        };
        let found = tokio::net::lookup_host((host, port)).await?;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in found {
            match self.connect(address, &own).await {
                Ok(stream) => return Ok(TokioIo::new(stream)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect(self, address: SocketAddr, own: &BTreeSet<IpAddr>) -> io::Result<TcpStream> {
        let ip = address.ip();
        if let Some(what) = refused(ip, own)
            && !self.private
        {
            let message = format!(
                "{ip} is {what}; modules are not fetched from there unless the agent runs with \
                 --module-allow-private"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        match connected {
            Ok(stream) => stream.map_err(named),
            Err(_) => Err(named(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.dial(uri))
    }
}

/// The addresses of this node, of which some may be of the internet.
async fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let failed = |error: rtnetlink::Error| {
        io::Error::other(format!(
            "the addresses of this node cannot be read: {error}"
        ))
    };
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // It goes with this.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let messages = handle.address().get().execute();
    pin_mut!(messages);
    let mut own = BTreeSet::new();
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        // Of a point-to-point link the other one is the peer's.
        let local = message.attributes.iter().find_map(|one| match one {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = message.attributes.iter().find_map(|one| match one {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        own.extend(local.or(address));
    }
    Ok(own)
}

/// What an address is from which no modules come, on a node with these.
fn refused(ip: IpAddr, own: &BTreeSet<IpAddr>) -> Option<&'static str> {
    let inner = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => embedded(ip).map(IpAddr::V4),
    };
    not_public(ip).or_else(|| {
        let is_own = own.contains(&ip) || inner.is_some_and(|inner| own.contains(&inner));
        is_own.then_some("an address of this node")
    })
}

/// IPv4 in other words: mapped, compatible, NAT64, 6to4.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            (high, low)
        }
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Some(Ipv4Addr::new(a, b, c, d))
}

/// What an address is that is not one of the internet.
fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => not_public_v4(ip),
        IpAddr::V6(ip) => not_public_v6(ip),
    }
}

fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [first, second, third, _] = ip.octets();
    match (first, second, third) {
        (127, ..) => Some("a loopback address"),
        (0, ..) => Some("an address of this node"),
        (169, 254, _) => Some("a link-local address"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("a private address"),
        // RFC 6598, 6890, 2544.
        (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) => Some("a private address"),
        (224.., ..) => Some("no address of one host"),
        _ => None,
    }
}

fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => return Some("a loopback address"),
        [0, 0, 0, 0, 0, 0, 0, 0] => return Some("an address of this node"),
        _ => {}
    }
    if let Some(inner) = embedded(ip) {
        return not_public_v4(inner);
    }
    match ip.segments() {
        // Local NAT64, Teredo.
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] => Some("a private address"),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a private address"),
        [0xff00..=0xffff, ..] => Some("no address of one host"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for (ip, public) in [
            ("1.1.1.1", true),
            ("127.0.0.1", false),
            ("127.8.9.1", false),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("172.15.0.1", true),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("198.19.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("::1", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:1.1.1.1", true),
            ("::127.0.0.1", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b::101:101", true),
            ("64:ff9b:1::1", false),
            ("2002:a00:1::1", false),
            ("2001::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            let address: IpAddr = ip.parse().expect("an address");
            assert_eq!(not_public(address).is_none(), public, "{ip}");
        }
    }

    #[tokio::test]
    async fn the_nodes_own_addresses_are_not_public() {
        let own = own_addresses().await.expect("read");
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        let own = ["1.2.3.4", "2606:4700::1"].map(|ip| ip.parse().expect("an address"));
        let own = BTreeSet::from(own);
        for (ip, refuses) in [
            ("1.2.3.4", true),
            ("1.2.3.5", false),
            ("::ffff:1.2.3.4", true),
            ("64:ff9b::102:304", true),
            ("2002:102:304::1", true),
            ("2606:4700::1", true),
            ("2606:4700::2", false),
            ("10.0.0.1", true),
        ] {
            let address: IpAddr = ip.parse().expect("an address");
            assert_eq!(refused(address, &own).is_some(), refuses, "{ip}");
        }
        let address: SocketAddr = "1.2.3.4:443".parse().expect("an address");
        let refused = Dialer { private: false }.connect(address, &own).await;
        let told = refused.expect_err("refused").to_string();
        assert!(
            told.contains("1.2.3.4 is an address of this node"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn what_is_not_public_is_never_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let uri: Uri = format!("https://{host}:{port}/").parse().expect("a URI");
            let refused = Dialer { private: false }.dial(uri).await;
            let error = refused.expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{host}");
            let told = error.to_string();
            assert!(told.contains("--module-allow-private"), "{told}");
        }
        let uri: Uri = format!("https://127.0.0.1:{port}/").parse().expect("a URI");
        let dialled = Dialer { private: true }.dial(uri);
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        dialled.expect("dialled");
        let (_, from) = accepted.expect("accepted");
        assert!(from.ip().is_loopback());
    }
}
