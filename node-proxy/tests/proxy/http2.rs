//! HTTP/2 with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::server::Server;
use crate::support::within;
use crate::support::world::{TIEFIGHTER, World, landing, open};

pub async fn connect(proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((TIEFIGHTER, 0).into()).expect("bind");
    within(socket.connect(proxy)).await.expect("connected")
}

pub async fn client(proxy: SocketAddr) -> SendRequest<Bytes> {
    let stream = connect(proxy).await;
    let (client, connection) = within(h2::client::handshake(stream))
        .await
        .expect("handshake");
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

pub fn request(method: &str, path: &str) -> http::request::Builder {
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
