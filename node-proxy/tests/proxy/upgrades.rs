//! Connections that switch protocols, and those that may not.

use weft_api::node::Settings;

use crate::support::client::Client;
use crate::support::server::{Conversation, Server};
use crate::support::world::{Rules, World, open, rule};

/// Switches to whatever it is asked for, and answers pings.
async fn switches(mut conversation: Conversation) {
    conversation.request().await;
    conversation
        .send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\n\r\nearly",
        )
        .await;
    while conversation.until("ping").await.is_some() {
        conversation.send("pong").await;
    }
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let server = Server::script(switches).await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: x\r\n\r\nping",
        )
        .await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
    client.read_until("early").await;
    client.read_until("pong").await;
    client.send("ping").await;
    client.read_until("pong").await;
    let head = server.next().await;
    assert!(head.contains("upgrade: websocket"), "{head}");
    assert!(!head.contains("ping"), "sent before the 101");

    // A revoked policy ends tunnels too.
    let revoked = Rules {
        ingress: Some(vec![rule("GET", "/other")]),
        ..Default::default()
    };
    world.apply(&revoked.version("2")).await;
    client.closed().await;
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_not_requests() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
             GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.closed().await, "");
    server.next().await;
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_wish_that_is_not_granted_is_not_passed_on_and_leaves_the_connection_usable() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    for wish in [
        // What clients of Java and `curl --http2` say with their first request.
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        // RFC 2817: what comes behind it nobody here could judge.
        "connection: upgrade\r\nupgrade: TLS/1.0, HTTP/1.1\r\n",
        "connection: upgrade\r\nupgrade: imap\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nupgrade: imap\r\n",
        "connection: upgrade\r\nupgrade:\r\n",
        // Not said to be for this hop (RFC 9110, 7.8).
        "upgrade: websocket\r\n",
        "connection: keep-alive\r\nupgrade: websocket\r\n",
    ] {
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{wish}\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{wish}");
        assert_eq!(answer.header("connection"), None, "{wish}");
        let head = server.next().await;
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!head.contains(name), "{wish}: {head}");
        }
    }
}

#[tokio::test]
async fn a_wish_with_a_body_is_a_request_like_any_other() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let _body = conversation.until("hello").await;
        conversation
            .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             content-length: 5\r\n\r\nhello",
        )
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert!(!server.next().await.contains("upgrade"));
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let server = Server::script(switches).await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: TLS/1.0\r\n\r\n\
             ping",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn other_protocols_pass_when_settings_name_them() {
    let server = Server::script(switches).await;
    let rules = Rules {
        settings: Settings {
            upgrades: vec!["imap".into()],
            ..Default::default()
        },
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: IMAP\r\n\r\nping")
        .await;
    client.read_until("pong").await;
    assert!(server.next().await.contains("upgrade: IMAP"));
}

#[tokio::test]
async fn connect_is_refused_and_what_follows_it_is_not_read() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n\
             GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.closed().await, "");
    let record = world.agent.record().await;
    assert_eq!(record.reason, "CONNECT is not allowed");
    world.agent.assert_no_record().await;
    server.assert_nothing_arrived().await;
}
