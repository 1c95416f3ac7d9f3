//! Bodies, trailers and half-closed connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::within;
use crate::support::world::{Rules, World, open, rule};

#[tokio::test]
async fn a_slow_reader_slows_the_writer_down() {
    let (told, mut written) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::script(move |mut conversation| {
        let told = told.clone();
        async move {
            conversation.request().await;
            conversation
                .send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
                .await;
            let block = vec![0; 64 * 1024];
            while conversation.stream.write_all(&block).await.is_ok() {
                let _gone = told.send(block.len());
            }
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("\r\n\r\n").await;
    // The client reads nothing: the server must come to a stop.
    let mut total = 0;
    while let Ok(Some(more)) =
        tokio::time::timeout(Duration::from_millis(500), written.recv()).await
    {
        total += more;
    }
    assert!(total < 32 * 1024 * 1024, "{total} bytes were taken");
    // And go on as soon as the client reads.
    let mut buffer = vec![0; 8 * 1024 * 1024];
    within(client.stream.read_exact(&mut buffer))
        .await
        .expect("readable");
    within(written.recv()).await.expect("the server writes on");
}

#[tokio::test]
async fn a_slow_server_slows_the_client_down() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        // Reads nothing more.
        std::future::pending::<()>().await;
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n")
        .await;
    server.next().await;
    let block = vec![0; 64 * 1024];
    let mut total = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(500), client.stream.write_all(&block)).await
    {
        total += block.len();
    }
    assert!(total < 32 * 1024 * 1024, "{total} bytes were taken");
}

#[tokio::test]
async fn a_body_is_asked_for_only_after_policy_allowed_it() {
    let server = Server::script(|mut conversation| async move {
        while conversation.request().await.is_some() {
            let _body = conversation.until("hello").await;
            conversation
                .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let rules = Rules {
        ingress: Some(vec![rule("POST", "/allowed")]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let request = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut client = Client::connect(world.address).await;
    client.send(request("/allowed")).await;
    let interim = client.read_until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.send("hello").await;
    assert_eq!(client.answer().await.status, 200);
    let head = server.next().await;
    assert!(!head.to_lowercase().contains("expect"), "{head}");

    let mut denied = Client::connect(world.address).await;
    denied.send(request("/denied")).await;
    assert_eq!(denied.answer().await.status, 403);
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn what_follows_an_unread_body_is_not_a_request() {
    let server = Server::landing().await;
    let rules = Rules {
        ingress: Some(vec![rule("GET", "/")]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    let hidden = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client
        .send(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}",
            hidden.len()
        ))
        .await;
    assert_eq!(client.answer().await.status, 403);
    // What comes now is a request, and the body before it was none.
    client.send(hidden).await;
    let mut byte = [0; 1];
    let more = within(client.stream.read(&mut byte)).await;
    if more.is_ok_and(|read| read > 0) {
        server.next().await;
    }
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let body = conversation.until("\r\n\r\n").await;
        let body = body.unwrap_or_default();
        assert!(body.contains("x-sum: 1"), "{body:?}");
        // What belongs into the head cannot be said behind it.
        assert!(!body.contains("x-request-id"), "{body:?}");
        assert!(!body.contains("forwarded"), "{body:?}");
        conversation
            .send(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-status\r\n\r\n\
                 2\r\nok\r\n0\r\nx-status: fine\r\n\r\n",
            )
            .await;
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\
             trailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\
             x-request-id: other\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
        )
        .await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body = client.read_until("\r\n\r\n").await;
    assert!(body.starts_with("2\r\nok\r\n0\r\n"), "{body}");
    assert!(body.contains("x-status: fine"), "{body}");
    let head = server.next().await;
    assert!(head.contains("te: trailers"), "{head}");
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.stream.shutdown().await.expect("half closed");
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "Ship landed\n"));
    assert_eq!(client.closed().await, "");

    // However much it said before.
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n\
             POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\nx\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    client.stream.shutdown().await.expect("half closed");
    for _ in 0..3 {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(client.closed().await, "");
}

#[tokio::test]
async fn a_request_that_stops_in_its_middle_is_no_request() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let whole = conversation.until("hello").await;
        assert!(whole.is_none(), "the body was completed: {whole:?}");
    })
    .await;
    let world = World::new(server.address, &open()).await;
    for part in [
        "GET / HTTP/1.1\r\nhost: a\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel",
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(part).await;
        client.stream.shutdown().await.expect("half closed");
        let said = client.closed().await;
        assert!(!said.contains("HTTP/1.1 200"), "{part:?}: {said}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let (told, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::script(move |mut conversation| {
        let told = told.clone();
        async move {
            conversation.request().await;
            conversation
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            // Streams until nobody listens any more.
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            while conversation.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                pace.tick().await;
            }
            let _gone = told.send(());
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("\r\n\r\n").await;
    drop(client);
    within(closed.recv())
        .await
        .expect("the upstream was closed");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::script(|mut conversation| async move {
        while let Some(head) = conversation.request().await {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}",
                path.len()
            );
            conversation.send(answer).await;
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    let requests: String = (0..5)
        .map(|index| format!("GET /{index} HTTP/1.1\r\nhost: a\r\n\r\n"))
        .collect();
    client.send(requests).await;
    for index in 0..5 {
        assert_eq!(client.answer().await.body, format!("/{index}"));
    }
}
