//! The buffers that answers of HTTP/1 are written from.

use weft_api::node::Settings;

use crate::support::client::Client;
use crate::support::server::{Conversation, Server};
use crate::support::until;
use crate::support::world::{Rules, World, open};

const MIB: u64 = 1 << 20;

/// The least that may be set.
const BOUND: u64 = 8 * MIB;

const HELD: &str = "weft_proxy_largest_source_memory_bytes ";

async fn serve(mut conversation: Conversation) {
    while let Some(head) = conversation.request().await {
        let answer = if head.contains(" /trailers ") {
            let trailers = format!("x-a: {}\r\nx-b: {}\r\n", "a".repeat(7000), "b".repeat(7000));
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
            )
        } else {
            let body = "b".repeat(100_000);
            format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{body}")
        };
        conversation.send(answer).await;
    }
}

fn little_memory() -> Rules {
    Rules {
        settings: Settings {
            max_memory_per_source: Some(BOUND),
            ..Default::default()
        },
        ..open()
    }
}

/// A client that did not ask for trailers gets none, and its next answers all the same.
#[tokio::test]
async fn trailers_that_are_left_out_hold_up_nothing() {
    let server = Server::script(serve).await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    for _ in 0..20 {
        let answer = client.get("GET", "/trailers").await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("ok"), "{}", answer.body);
    }
    let answer = client.get("GET", "/large").await;
    assert_eq!(answer.body.len(), 100_000);
}

/// Connections that once needed a large buffer are ended between requests while
/// their source is short of memory, so that it does not stay so.
#[tokio::test]
async fn idle_connections_do_not_keep_large_buffers_for_ever() {
    let server = Server::script(serve).await;
    let world = World::new(server.address, &little_memory()).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = Client::connect(world.address).await;
        let answer = client.get("GET", "/large").await;
        assert_eq!((answer.status, answer.body.len()), (200, 100_000));
        clients.push(client);
    }
    until(async || {
        let metrics = world.proxy.metrics().expect("text");
        let line = metrics.lines().find_map(|line| line.strip_prefix(HELD));
        let held: u64 = line.expect("a gauge").parse().expect("a number");
        held < BOUND / 2
    })
    .await;
}
