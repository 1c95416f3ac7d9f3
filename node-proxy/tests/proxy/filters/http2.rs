//! Filters on HTTP/2, on both sides of the proxy.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use super::at_the_door;
use super::calls::asking;
use crate::grpc;
use crate::http2::{client, request};
use crate::support::server::Server;
use crate::support::within;
use crate::support::world::{Rules, TIEFIGHTER, World};

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        name.parse().expect("a name"),
        HeaderValue::from_static(value),
    )])
}

/// All of a body, and what came behind it.
async fn whole(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data.expect("data");
        let _given = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    (bytes, within(body.trailers()).await.expect("an end"))
}

/// A message each way through a probe that was told this; returns what arrived
/// at the server and what came back.
async fn exchange(commands: &'static str) -> (http::request::Parts, Vec<u8>, Vec<u8>) {
    let (arrived, arriving) = tokio::sync::oneshot::channel();
    let (address, _task) = grpc::server(move |call, mut answer| async move {
        let (head, body) = call.into_parts();
        let (bytes, trailers) = whole(body).await;
        assert_eq!(trailers.expect("trailers")["x-last"], "request");
        let _gone = arrived.send((head, bytes.clone()));
        let head = Response::new(());
        let mut stream = answer.send_response(head, false).expect("answered");
        stream.send_data(Bytes::from(bytes), false).expect("sent");
        let trailers = fields("x-last", "response");
        stream.send_trailers(trailers).expect("sent");
    })
    .await;
    let rules = Rules {
        http2: true,
        ..at_the_door()
    };
    let world = World::new(address, &rules).await;
    let mut client = client(world.address).await;
    let call = request("POST", "/x").header("x-do", commands).body(());
    let (response, mut stream) = client
        .send_request(call.expect("valid"), false)
        .expect("sent");
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .expect("sent");
    stream
        .send_trailers(fields("x-last", "request"))
        .expect("sent");
    let (head, body) = within(response).await.expect("a response").into_parts();
    assert_eq!(head.status, 200);
    let (back, trailers) = whole(body).await;
    assert_eq!(trailers.expect("trailers")["x-last"], "response");
    let (head, there) = within(arriving).await.expect("it arrived");
    (head, there, back)
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    for (commands, there, back) in [
        ("", "hello", "hello"),
        ("stream;<stream", "hello", "hello"),
        ("collect;sleep=20;<sleep=20", "hello", "hello"),
        // The head has gone on: the connection to the server waits for the body.
        ("stream=20,20,20", "hello", "hello"),
        ("replace=bye;<replace=hi", "bye", "hi"),
    ] {
        let (_head, arrived, returned) = exchange(commands).await;
        assert_eq!(String::from_utf8_lossy(&arrived), there, "{commands}");
        assert_eq!(String::from_utf8_lossy(&returned), back, "{commands}");
    }
}

#[tokio::test]
async fn targets_are_changed_where_http2_has_them() {
    let (head, _there, _back) = exchange("path=/y?q=1;authority=other;method=PUT").await;
    assert_eq!(head.method, "PUT");
    assert_eq!(head.uri.to_string(), "http://other/y?q=1");
    assert!(!head.headers.contains_key("host"));
}

/// What decides comes while the connection to the server, and not the request,
/// waits for the body.
#[tokio::test]
async fn what_a_filter_refuses_while_it_is_sent_arrives_nowhere() {
    let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let (address, _task) = grpc::server(move |call, _answer| async move {
        let mut body = call.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _given = body.flow_control().release_capacity(data.len());
            let _gone = came.send(data);
        }
        assert!(body.trailers().await.is_err(), "it was cut off");
    })
    .await;
    let authz = Server::landing_at(TIEFIGHTER).await;
    let rules = Rules {
        http2: true,
        ..asking(&authz, vec![2])
    };
    let world = World::new(address, &rules).await;
    let mut client = client(world.address).await;
    let call = request("POST", "/x").header("x-do", "guard=secret:authz:80/check");
    let (response, mut stream) = client
        .send_request(call.body(()).expect("valid"), false)
        .expect("sent");
    let mut send = |text, end| stream.send_data(Bytes::from_static(text), end);
    send(b"hello", false).expect("sent");
    assert_eq!(within(coming.recv()).await.expect("data"), "hello");
    send(b"the secret", false).expect("sent");
    let (head, body) = within(response).await.expect("a response").into_parts();
    let (body, _trailers) = whole(body).await;
    assert_eq!((head.status.as_u16(), &*body), (403, &b"secret"[..]));
    assert_eq!(within(coming.recv()).await, None);
}
