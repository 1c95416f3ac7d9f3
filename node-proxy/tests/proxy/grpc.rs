//! Calls as gRPC makes them: HTTP/2 on both sides of the proxy, messages one by
//! one, trailers behind them.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http2::{client, request};
use crate::support::within;
use crate::support::world::{DEATHSTAR, Rules, World, open};

/// A server of HTTP/2 alone that serves one call with this script.
pub async fn server<S, F>(script: S) -> (SocketAddr, JoinHandle<()>)
where
    S: FnOnce(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((DEATHSTAR, 0)).await.expect("server");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(async move {
        let (stream, _proxy) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let call = connection.accept().await.expect("a call").expect("a call");
        let script = tokio::spawn(script(call.0, call.1));
        while connection.accept().await.is_some() {}
        script.await.expect("the call was as it should");
    });
    (address, task)
}

fn http2() -> Rules {
    Rules {
        http2: true,
        ..open()
    }
}

fn call(path: &str) -> Request<()> {
    let call = request("POST", path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    call.body(()).expect("valid")
}

fn fields<const N: usize>(fields: [(&'static str, &'static str); N]) -> HeaderMap {
    let fields = fields.map(|(name, value)| {
        let name = name.parse().expect("a name");
        (name, HeaderValue::from_static(value))
    });
    fields.into_iter().collect()
}

fn grpc() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(()).expect("valid")
}

/// The next piece of a body.
async fn piece(body: &mut RecvStream) -> Option<Bytes> {
    let data = within(body.data()).await?.expect("data");
    let _given = body.flow_control().release_capacity(data.len());
    Some(data)
}

async fn whole(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = piece(body).await {
        all.extend_from_slice(&data);
    }
    all
}

async fn trailers(body: &mut RecvStream) -> HeaderMap {
    let trailers = within(body.trailers()).await.expect("trailers");
    trailers.expect("trailers")
}

fn send(stream: &mut SendStream<Bytes>, data: &'static [u8]) {
    let data = Bytes::from_static(data);
    stream.send_data(data, false).expect("sent");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (address, served) = server(async |call, mut respond| {
        let (head, mut body) = call.into_parts();
        assert_eq!(head.version, Version::HTTP_2);
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.uri.authority().expect("an authority"), "deathstar");
        assert_eq!(whole(&mut body).await, b"\0\0\0\0\x04land");
        let arrived = trailers(&mut body).await;
        // What belongs into the head cannot be said behind it.
        assert_eq!(arrived, fields([("x-sum", "1"), ("x-bin", "AAE=")]));
        let mut stream = respond.send_response(grpc(), false).expect("answered");
        send(&mut stream, b"\0\0\0\0\x06landed");
        let last = [
            ("grpc-status", "0"),
            ("grpc-message", "ok"),
            ("set-cookie", "a=b"),
        ];
        stream.send_trailers(fields(last)).expect("answered");
    })
    .await;
    let world = World::new(address, &http2()).await;
    let mut client = client(world.address).await;
    let sent = client.send_request(call("/imperial.Fleet/Land"), false);
    let (response, mut stream) = sent.expect("sent");
    send(&mut stream, b"\0\0\0\0\x04land");
    let last = [
        ("x-sum", "1"),
        ("authorization", "other"),
        ("x-request-id", "other"),
        ("x-bin", "AAE="),
    ];
    stream.send_trailers(fields(last)).expect("sent");
    let (head, mut body) = within(response).await.expect("an answer").into_parts();
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert_eq!(whole(&mut body).await, b"\0\0\0\0\x06landed");
    let last = trailers(&mut body).await;
    assert_eq!(last, fields([("grpc-status", "0"), ("grpc-message", "ok")]));
    let records = world.agent.records(2).await;
    let http = records[1].http.as_ref().expect("http");
    assert_eq!((http.code, &*http.protocol), (200, "HTTP/2"));
    drop((client, world));
    within(served).await.expect("served");
}

#[tokio::test]
async fn messages_pass_both_ways_as_they_come() {
    let (address, served) = server(async |call, mut respond| {
        let mut body = call.into_body();
        let mut stream = respond.send_response(grpc(), false).expect("answered");
        while let Some(message) = piece(&mut body).await {
            stream.send_data(message, false).expect("answered");
        }
        let end = fields([("grpc-status", "0")]);
        stream.send_trailers(end).expect("answered");
    })
    .await;
    let world = World::new(address, &http2()).await;
    let mut client = client(world.address).await;
    let sent = client.send_request(call("/imperial.Fleet/Talk"), false);
    let (response, mut stream) = sent.expect("sent");
    let mut body = within(response).await.expect("an answer").into_body();
    for message in [&b"one"[..], b"two", b"three"] {
        send(&mut stream, message);
        // There before the client has said more.
        let mut echo = Vec::new();
        while echo.len() < message.len() {
            echo.extend_from_slice(&piece(&mut body).await.expect("an echo"));
        }
        assert_eq!(echo, message);
    }
    stream.send_trailers(HeaderMap::new()).expect("sent");
    assert_eq!(whole(&mut body).await, b"");
    assert_eq!(trailers(&mut body).await["grpc-status"], "0");
    drop((client, world));
    within(served).await.expect("served");
}

#[tokio::test]
async fn an_answer_may_be_nothing_but_its_status() {
    let (address, served) = server(async |_call, mut respond| {
        let mut head = grpc();
        let status = fields([("grpc-status", "5"), ("grpc-message", "no such ship")]);
        head.headers_mut().extend(status);
        respond.send_response(head, true).expect("answered");
    })
    .await;
    let world = World::new(address, &http2()).await;
    let mut client = client(world.address).await;
    let sent = client.send_request(call("/imperial.Fleet/Find"), true);
    let response = within(sent.expect("sent").0).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    assert_eq!(response.headers()["grpc-message"], "no such ship");
    assert!(response.body().is_end_stream());
    drop((client, world));
    within(served).await.expect("served");
}
