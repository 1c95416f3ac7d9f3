//! Connections to where modules are: never to an address of this node or of a
//! private network, unless that is allowed. Whoever may write a filter could
//! otherwise have the agent, which is on every network of the node, ask what is
//! there. Names are looked up here and what they stand for is judged, so that a
//! name cannot stand for something else a moment later.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

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
        let found = tokio::net::lookup_host((host, port)).await?;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in found {
            match self.connect(address).await {
                Ok(stream) => return Ok(TokioIo::new(stream)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let ip = address.ip();
        if let Some(what) = not_public(ip)
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
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        not_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an address of this node"),
        // IPv4 in other words: mapped, compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            v4(high, low)
        }
        [0x2002, high, low, ..] => v4(high, low),
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
