//! HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::within;
use crate::support::world::{TIEFIGHTER, World, landing, open};

async fn connect(proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((TIEFIGHTER, 0).into()).expect("bind");
    within(socket.connect(proxy)).await.expect("connected")
}

async fn client(proxy: SocketAddr) -> SendRequest<Bytes> {
    let stream = connect(proxy).await;
    let (client, connection) = within(h2::client::handshake(stream))
        .await
        .expect("handshake");
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://deathstar{path}"))
}

async fn send(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
) -> (http::response::Parts, String) {
    let (response, _stream) = client.send_request(request, true).expect("sent");
    let (head, mut body) = within(response).await.expect("a response").into_parts();
    let mut text = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data.expect("data");
        let _given = body.flow_control().release_capacity(data.len());
        text.extend_from_slice(&data);
    }
    (head, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn requests_are_judged_and_forwarded() {
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let mut client = client(world.address).await;
    let landed = request("POST", "/v1/request-landing")
        .body(())
        .expect("valid");
    let (head, body) = send(&mut client, landed).await;
    assert_eq!((head.status.as_u16(), &*body), (200, "Ship landed\n"));
    assert_eq!(head.headers["server"], "envoy");
    let arrived = server.next().await;
    assert!(arrived.contains("host: deathstar\r\n"), "{arrived}");
    let records = world.agent.records(4).await;
    let http = records[0].http.as_ref().expect("http");
    assert_eq!(http.protocol, "HTTP/2");
    assert_eq!(http.url, "http://deathstar/v1/request-landing");

    let denied = request("PUT", "/v1/exhaust-port").body(()).expect("valid");
    let (head, body) = send(&mut client, denied).await;
    assert_eq!((head.status.as_u16(), &*body), (403, "Access denied\r\n"));
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_denied_grpc_call_gets_a_grpc_status() {
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let mut client = client(world.address).await;
    let call = request("POST", "/imperial.Fleet/Recall")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("valid");
    let (head, body) = send(&mut client, call).await;
    assert_eq!(head.status.as_u16(), 200);
    assert_eq!(head.headers["grpc-status"], "7");
    assert_eq!(body, "");
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let client = client(world.address).await;
    let calls = (0..100).map(|index| {
        let mut client = client.clone();
        async move {
            let get = request("GET", &format!("/{index}"))
                .body(())
                .expect("valid");
            client = within(client.ready()).await.expect("ready");
            send(&mut client, get).await.0.status.as_u16()
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

/// A frame: length, type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn raw(proxy: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy).await;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(4, 0, 0, &[]));
    stream.write_all(&hello).await.expect("sent");
    stream
}

/// Whether the proxy closes while these bytes are sent again and again.
async fn floods(proxy: SocketAddr, first: &[u8], again: &[u8]) {
    let stream = raw(proxy).await;
    let (mut read, mut write) = stream.into_split();
    let first = first.to_vec();
    let again = again.repeat(64);
    let writer = async {
        if write.write_all(&first).await.is_err() {
            return;
        }
        // 64 MiB at most: far more than any limit.
        for _ in 0..(64 * 1024 * 1024 / again.len()) {
            if write.write_all(&again).await.is_err() {
                return;
            }
        }
        panic!("the proxy took the whole flood");
    };
    let reader = async {
        let mut sink = vec![0; 64 * 1024];
        while matches!(read.read(&mut sink).await, Ok(length) if length > 0) {}
    };
    within(async {
        tokio::select! {
            () = writer => {}
            () = reader => {}
        }
    })
    .await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut stream = raw(world.address).await;
    // GET / of `a`, and at once: never mind.
    let fields = [0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    let resets: Vec<u8> = (0..2000_u32)
        .flat_map(|index| {
            let id = 2 * index + 1;
            let mut both = frame(1, 0x05, id, &fields);
            both.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
            both
        })
        .collect();
    let _maybe_closed = stream.write_all(&resets).await;
    let mut said = Vec::new();
    let _maybe_reset = within(stream.read_to_end(&mut said)).await;
    assert!(goaway(&said).contains(&ENHANCE_YOUR_CALM), "{said:?}");
    let mut next = Client::connect(world.address).await;
    assert_eq!(next.get("GET", "/next").await.status, 200);
}

/// Error code of RFC 9113, section 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// The codes of all GOAWAY frames in these bytes.
fn goaway(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let [a, b, c, kind, _flags, _i, _j, _k, _l, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else {
            break;
        };
        if let (7, Some(code)) = (*kind, payload.get(4..8)) {
            codes.push(u32::from_be_bytes(code.try_into().expect("four bytes")));
        }
        bytes = &rest[length..];
    }
    codes
}

#[tokio::test]
async fn a_flood_of_continuations_is_cut() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    // HEADERS without END_HEADERS, then CONTINUATION for ever.
    let headers = frame(1, 0, 1, &[0x82]);
    let field = [0x00, 0x01, b'a', 0x7f, 0x80, 0x01];
    let mut payload = field.to_vec();
    payload.extend(vec![b'x'; 255]);
    let continuation = frame(9, 0, 1, &payload);
    floods(world.address, &headers, &continuation).await;
    let mut next = Client::connect(world.address).await;
    assert_eq!(next.get("GET", "/").await.status, 200);
}

#[tokio::test]
async fn malformed_requests_never_reach_a_server() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = client(world.address).await;
    // A length that the body does not have.
    let lying = request("POST", "/")
        .header("content-length", "3")
        .body(())
        .expect("valid");
    let (response, mut stream) = client.send_request(lying, false).expect("sent");
    stream
        .send_data(Bytes::from_static(b"four"), true)
        .expect("sent");
    let error = within(response).await.err();
    let reset = error.and_then(|error| error.reason());
    assert_eq!(reset, Some(h2::Reason::PROTOCOL_ERROR));
    // A header that only makes sense on one hop.
    let get = request("GET", "/")
        .header("connection", "x-request-id")
        .body(());
    let sent = client.send_request(get.expect("valid"), true);
    assert!(sent.is_err(), "the client library sends no such thing");
    // The authority is said twice, differently.
    let get = request("GET", "/").header("host", "other").body(());
    let (head, _body) = send(&mut client, get.expect("valid")).await;
    assert_eq!(head.status.as_u16(), 400);
    let get = request("GET", "/ok").body(()).expect("valid");
    assert_eq!(send(&mut client, get).await.0.status.as_u16(), 200);
    while !server.next().await.starts_with("GET /ok") {}
}

#[tokio::test]
async fn trailers_cannot_say_what_belongs_into_the_head() {
    let (told, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::script(move |mut conversation| {
        let told = told.clone();
        async move {
            conversation.request().await;
            let body = conversation.until("\r\n\r\n").await;
            let _gone = told.send(body);
            conversation
                .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = client(world.address).await;
    let post = request("POST", "/").body(()).expect("valid");
    let (response, mut stream) = client.send_request(post, false).expect("sent");
    let data = Bytes::from_static(b"abc");
    stream.send_data(data, false).expect("sent");
    let mut trailers = http::HeaderMap::new();
    for name in [
        "x-sum",
        "content-length",
        "host",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "x-envoy-internal",
        "x-request-id",
    ] {
        trailers.insert(name, http::HeaderValue::from_static("1"));
    }
    stream.send_trailers(trailers).expect("sent");
    let response = within(response).await.expect("a response");
    assert_eq!(response.status().as_u16(), 200);
    let body = within(bodies.recv()).await.flatten().expect("a body");
    assert_eq!(body, "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn connect_is_refused() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = client(world.address).await;
    let connect = Request::connect("deathstar:80").body(()).expect("valid");
    let (head, _body) = send(&mut client, connect).await;
    assert_eq!(head.status.as_u16(), 405);
    let record = world.agent.record().await;
    assert_eq!(record.reason, "CONNECT is not allowed");
    server.assert_nothing_arrived().await;
}
