//! Deadlines and bounds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use weft_api::node::{Settings, Verdict};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::world::{
    Rules, STRANGER, TIEFIGHTER, TIEFIGHTER_IDENTITY, World, impatient, open,
};
use crate::support::{descriptors, within};

fn with(settings: Settings) -> Rules {
    Rules { settings, ..open() }
}

/// Sends requests one by one; how long the slowest of a hundred takes.
async fn slowest(client: &mut Client) -> Duration {
    let mut took = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        assert_eq!(client.get("GET", "/").await.status, 200);
        took.push(started.elapsed());
    }
    took.sort();
    took[took.len() - 3]
}

#[tokio::test]
async fn two_thousand_heads_that_drip_are_cut_at_their_deadline_and_slow_nobody_down() {
    descriptors();
    let server = Server::landing().await;
    let settings = Settings {
        header_timeout: Some(pbjson_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        max_memory_per_source: Some(256 << 20),
        ..Default::default()
    };
    let world = World::new(server.address, &with(settings)).await;
    let mut other = Client::connect(world.address).await;
    let alone = slowest(&mut other).await;
    let mut slow = Vec::new();
    for _ in 0..2000 {
        let mut client = Client::connect(world.address).await;
        client.send("GET / HT").await;
        slow.push(client);
    }
    let started = Instant::now();
    let among = slowest(&mut other).await;
    eprintln!("slowest answer: {among:?} among them, {alone:?} alone");
    // What a busy machine adds on its own is nobody's attack.
    let bound = (alone * 10).max(Duration::from_secs(1));
    assert!(among < bound, "{among:?} among them, {alone:?} alone");
    for client in &mut slow {
        // One byte more does not buy time.
        let _maybe_closed = client.stream.write_all(b"T").await;
        let said = client.closed().await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 408 "),
            "{said}"
        );
    }
    let took = started.elapsed();
    assert!(took.as_secs() < 10, "cut after {took:?}");
    assert_eq!(other.get("GET", "/").await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::landing().await;
    let world = World::new(server.address, &with(impatient())).await;
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
    assert_eq!(client.closed().await, "");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let _closed = conversation.until("never").await;
    })
    .await;
    let world = World::new(server.address, &with(impatient())).await;
    let mut client = Client::connect(world.address).await;
    let answer = client.get("GET", "/").await;
    assert_eq!(answer.status, 504);
    let records = world.agent.records(2).await;
    assert_eq!(records[1].reason, "upstream request timeout");
}

#[tokio::test]
async fn large_heads_are_refused_by_their_kind() {
    let server = Server::landing().await;
    let settings = Settings {
        max_header_bytes: Some(32 * 1024),
        max_headers: Some(20),
        ..Default::default()
    };
    let world = World::new(server.address, &with(settings)).await;
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(20 * 1024));
    let long_head = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(40 * 1024)
    );
    let many = (0..30)
        .map(|index| format!("x-{index}: 1\r\n"))
        .collect::<String>();
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    for (request, status) in [(long_target, 414), (long_head, 431), (many, 431)] {
        let mut client = Client::connect(world.address).await;
        client.send(request).await;
        assert_eq!(client.answer().await.status, status);
        let record = world.agent.record().await;
        assert!(!record.reason.is_empty(), "{record:?}");
        world.agent.assert_no_record().await;
    }
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away() {
    let server = Server::landing().await;
    let settings = Settings {
        max_connections: Some(2),
        ..Default::default()
    };
    let world = World::new(server.address, &with(settings)).await;
    let mut first = Client::connect(world.address).await;
    let mut second = Client::connect(world.address).await;
    assert_eq!(first.get("GET", "/").await.status, 200);
    assert_eq!(second.get("GET", "/").await.status, 200);
    let mut third = Client::connect(world.address).await;
    assert_eq!(third.closed().await, "");
    let metrics = world.proxy.metrics().expect("metrics");
    assert!(
        metrics.contains("weft_proxy_turned_away_connections_total{limit=\"total\"} 1"),
        "{metrics}"
    );
    let record = world.agent.records(5).await.pop().expect("five");
    assert_eq!(record.reason, "overloaded: connections");
    assert_eq!(record.verdict(), Verdict::Dropped);
    // Room again as soon as one has ended.
    drop(first);
    served_again(world.address).await;
}

#[tokio::test]
async fn a_source_has_so_many_connections_and_leaves_room_for_others() {
    let server = Server::landing().await;
    let settings = Settings {
        max_connections_per_source: Some(2),
        ..Default::default()
    };
    let world = World::new(server.address, &with(settings)).await;
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(world.address).await;
        assert_eq!(client.get("GET", "/").await.status, 200);
        crowd.push(client);
    }
    world.agent.records(4).await;
    let mut third = Client::connect(world.address).await;
    assert_eq!(third.closed().await, "");
    let record = world.agent.record().await;
    assert_eq!(record.reason, "overloaded: connections of one source");
    assert_eq!(record.verdict(), Verdict::Dropped);
    let source = record.source.expect("source");
    assert_eq!(source.ip, TIEFIGHTER.to_string());
    assert_eq!(source.identity, TIEFIGHTER_IDENTITY);
    let metrics = world.proxy.metrics().expect("metrics");
    assert!(
        metrics.contains("weft_proxy_turned_away_connections_total{limit=\"source\"} 1"),
        "{metrics}"
    );
    // Nobody else notices, and one that ends makes room.
    let mut other = Client::connect_from(world.address, STRANGER.into()).await;
    assert_eq!(other.get("GET", "/").await.status, 200);
    drop(crowd.pop());
    served_again(world.address).await;
}

#[tokio::test]
async fn a_source_has_so_many_upstream_connections_and_no_more() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let _closed = conversation.until("never").await;
    })
    .await;
    let settings = Settings {
        max_upstream_per_source: Some(2),
        ..Default::default()
    };
    let world = World::new(server.address, &with(settings)).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(world.address).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        server.next().await;
        busy.push(client);
    }
    let mut third = Client::connect(world.address).await;
    let answer = third.get("GET", "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("one source"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_left_does_not_hold_its_upstream_for_ever() {
    let (told, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::script(move |mut conversation| {
        let told = told.clone();
        async move {
            conversation.request().await;
            let _closed = conversation.until("never").await;
            let _gone = told.send(());
        }
    })
    .await;
    let mut settings = impatient();
    settings.request_timeout = None;
    let world = World::new(server.address, &with(settings)).await;
    let mut client = Client::connect(world.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.next().await;
    drop(client);
    within(closed.recv())
        .await
        .expect("the upstream was closed");
}

/// Comes back when a new connection is served.
async fn served_again(proxy: SocketAddr) {
    within(async {
        loop {
            let mut next = Client::connect(proxy).await;
            next.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
            if next.closed().await.contains("200 OK") {
                return;
            }
        }
    })
    .await;
}
