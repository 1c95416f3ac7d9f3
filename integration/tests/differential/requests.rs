//! What is sent, and what is looked at.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::HeaderMap;
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest body of either side.
pub const MAX_BODY: usize = 1 << 20;

/// What each proxy adds by itself, or frames in its own way.
const OWN: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "server",
    "traceparent",
    "transfer-encoding",
    "via",
    "x-forwarded-proto",
    "x-request-id",
];

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Method and target of a request.
    pub begin: String,
    /// Status of a response.
    pub status: u16,
    /// Sorted.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub request: &'static str,
    pub answer: Message,
    /// At the backend and at the service that the filter asked, in this order of time.
    pub arrived: Vec<Message>,
}

impl Seen {
    /// What a person reads, one thing a line.
    pub fn lines(&self) -> Vec<String> {
        let answer = ("answer".to_owned(), &self.answer);
        let arrived = self.arrived.iter().enumerate();
        let arrived = arrived.map(|(number, message)| (format!("arrived {number}"), message));
        let mut lines = Vec::new();
        for (what, message) in std::iter::once(answer).chain(arrived) {
            lines.push(format!("{what}: {}{}", message.begin, message.status));
            for (name, value) in &message.headers {
                lines.push(format!("{what}: {name}: {value}"));
            }
            let start: String = message.body.chars().take(80).collect();
            lines.push(format!("{what}: {} bytes: {start}", message.body.len()));
        }
        lines
    }
}

/// Something to send.
pub struct Sent {
    pub name: &'static str,
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    /// Its length is not said before.
    chunked: bool,
}

/// The requests that each filter gets.
pub fn requests() -> [Sent; 10] {
    let sent = |name, method, target, headers| Sent {
        name,
        method,
        target,
        headers,
        body: Vec::new(),
        chunked: false,
    };
    [
        sent("plain", "GET", "/plain", &[]),
        sent("a query", "GET", "/query?a=1&b=two", &[("x-user", "ada")]),
        Sent {
            body: b"hello".to_vec(),
            ..sent("a body", "POST", "/body", &[("content-type", "text/plain")])
        },
        Sent {
            body: b"in two parts".to_vec(),
            chunked: true,
            ..sent("chunks", "POST", "/stream", &[("X-Secret", "s3cret")])
        },
        sent("only a head", "HEAD", "/head", &[]),
        sent("a reply", "GET", "/reply", &[("x-reply", "418")]),
        Sent {
            body: b"0123456789abcdef".repeat(4000),
            ..sent("a long body", "PUT", "/long", &[])
        },
        sent("deletion", "DELETE", "/thing", &[("x-want-status", "503")]),
        sent(
            "twice",
            "GET",
            "/refused",
            &[
                ("x-twice", "one"),
                ("x-twice", "two"),
                ("x-want-status", "404"),
            ],
        ),
        sent(
            "no content",
            "OPTIONS",
            "/empty",
            &[("x-bare", ""), ("x-want-status", "204")],
        ),
    ]
}

/// Headers that tell something, by name.
pub fn headers(map: &HeaderMap) -> Vec<(String, String)> {
    let mut list: Vec<_> = map
        .iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .filter(|(name, _)| !name.as_str().starts_with("x-envoy-"))
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect();
    // Values of one name keep their order.
    list.sort_by(|one, other| one.0.cmp(&other.0));
    list
}

/// Sends a request over a connection of its own.
pub async fn send(port: u16, sent: &Sent) -> Message {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::builder()
        .method(sent.method)
        .uri(sent.target)
        .header("host", "shop.example")
        .header("user-agent", "differential/1");
    for (name, value) in sent.headers {
        request = request.header(*name, *value);
    }
    let body = Bytes::from(sent.body.clone());
    let body = match sent.chunked {
        true => {
            let parts = [body.slice(..body.len() / 2), body.slice(body.len() / 2..)];
            let frames = parts.map(|part| Ok::<_, std::convert::Infallible>(Frame::data(part)));
            StreamBody::new(tokio_stream::iter(frames)).boxed()
        }
        false => Full::new(body).boxed(),
    };
    let answer = sender.send_request(request.body(body).unwrap()).await;
    let (head, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Message {
        begin: String::new(),
        status: head.status.as_u16(),
        headers: headers(&head.headers),
        body: String::from_utf8(body.into()).unwrap(),
    }
}

/// The status of a request that is not compared.
pub async fn probe(port: u16) -> u16 {
    let [plain, ..] = requests();
    send(port, &plain).await.status
}
