//! Which headers pass.

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::world::{Rules, STRANGER, World, open};
use weft_api::node::Settings;

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[tokio::test]
async fn a_pods_request_carries_what_the_proxy_says_about_it() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client.get("GET", "/").await;
    let head = server.next().await;
    assert_eq!(value(&head, "x-envoy-internal"), Some("true"));
    assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(value(&head, "host"), Some("deathstar"));
    let id = value(&head, "x-request-id").expect("an identifier");
    let id = uuid::Uuid::parse_str(id).expect("a UUID");
    assert_eq!(id.get_version_num(), 4);
}

#[tokio::test]
async fn a_pods_request_id_is_kept_and_a_strangers_is_not() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\
                   x-forwarded-for: 1.2.3.4\r\n\
                   traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
    let mut pod = Client::connect(world.address).await;
    pod.send(request).await;
    pod.answer().await;
    let head = server.next().await;
    assert_eq!(value(&head, "x-request-id"), Some("mine"));
    assert_eq!(value(&head, "x-forwarded-for"), Some("1.2.3.4"));
    assert_eq!(
        value(&head, "traceparent"),
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    );
    let mut stranger = Client::connect_from(world.address, STRANGER.into()).await;
    stranger.send(request).await;
    stranger.answer().await;
    let head = server.next().await;
    assert_ne!(value(&head, "x-request-id"), Some("mine"));
    assert_eq!(value(&head, "x-envoy-internal"), None);
    assert_eq!(value(&head, "x-forwarded-for"), None);
    assert_eq!(value(&head, "traceparent"), None);
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive, x-hop\r\n\
         keep-alive: timeout=5\r\nx-hop: 1\r\nx-kept: 1\r\n\r\n",
    )
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-hop, x-request-id\r\n\
             keep-alive: timeout=5\r\nx-hop: 1\r\nx-kept: 1\r\nte: gzip\r\n\
             proxy-authorization: secret\r\nx-envoy-retry-on: 5xx\r\nx-request-id: id\r\n\
             x_request_id: forged\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAA\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    for name in ["keep-alive", "x-hop"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
    let head = server.next().await;
    for name in [
        "connection",
        "keep-alive",
        "x-hop",
        "te",
        "proxy-authorization",
        "x-envoy-retry-on",
        "x_request_id",
        "upgrade",
    ] {
        assert_eq!(value(&head, name), None, "{name}");
    }
    assert_eq!(value(&head, "x-request-id"), Some("id"));
    assert_eq!(value(&head, "x-kept"), Some("1"));
}

#[tokio::test]
async fn the_server_name_is_configurable() {
    let server = Server::landing().await;
    for (name, expected) in [("mesh", "mesh"), ("", "deathstar")] {
        let rules = Rules {
            settings: Settings {
                server_name: Some(name.into()),
                ..Default::default()
            },
            ..open()
        };
        let world = World::new(server.address, &rules).await;
        let mut client = Client::connect(world.address).await;
        let answer = client.get("GET", "/").await;
        assert_eq!(answer.header("server"), Some(expected));
    }
}

#[tokio::test]
async fn old_clients_and_absolute_targets_are_forwarded_in_todays_form() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send("GET http://deathstar/v1/?a=b HTTP/1.1\r\nhost: deathstar\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let head = server.next().await;
    assert!(head.starts_with("GET /v1/?a=b HTTP/1.1\r\n"), "{head}");
    client.send("GET /old HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(client.closed().await.starts_with("HTTP/1."));
    let head = server.next().await;
    assert!(head.starts_with("GET /old HTTP/1.1\r\n"), "{head}");
}
