//! Both messages of an exchange under way at once, and what is left of it when
//! it is over.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{at_the_door, told, told_with};
use crate::support::client::Client;
use crate::support::server::{Conversation, Server};
use crate::support::world::World;

const CONTEXTS: &str = "weft_proxy_filter_contexts";

/// Commands that do something about neither body, about one, and about both.
const COMMANDS: [&str; 5] = [
    "set=x-a:1",
    "stream",
    "<stream",
    "stream;<stream",
    "stream;<sleep=20",
];

/// Begins its answer when it has a head, and ends it when it has the body.
async fn early(mut conversation: Conversation) {
    while conversation.request().await.is_some() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        conversation.send(head).await;
        conversation.until("the end").await;
        conversation.send("5\r\n, you\r\n0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn an_answer_may_begin_before_its_request_has_come() {
    let server = Server::script(early).await;
    let world = World::new(server.address, &at_the_door()).await;
    for commands in COMMANDS {
        let mut client = Client::connect(world.address).await;
        let whole = told_with("/x", commands, "so far, and the end");
        let (first, rest) = whole.split_at(whole.len() - 9);
        client.send(first).await;
        client.read_until("hello\r\n").await;
        client.send(rest).await;
        let end = client.read_until("0\r\n\r\n").await;
        assert!(end.contains(", you"), "{commands}: {end}");
        drop(client);
        world.until_metric(CONTEXTS, 0).await;
    }
}

#[tokio::test]
async fn a_client_may_leave_between_an_early_answer_and_its_request() {
    let server = Server::script(early).await;
    let world = World::new(server.address, &at_the_door()).await;
    for commands in COMMANDS {
        let mut client = Client::connect(world.address).await;
        let whole = told_with("/x", commands, "so far, and the end");
        client.send(&whole[..whole.len() - 9]).await;
        client.read_until("hello\r\n").await;
        drop(client);
        world.until_metric(CONTEXTS, 0).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_an_answer_whose_connection_ends() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let server = Server::answering(answer).await;
        let world = World::new(server.address, &at_the_door()).await;
        let mut client = Client::connect(world.address).await;
        for commands in ["set=x-a:1", "<stream", "<sleep=20"] {
            client.send(told("/x", commands)).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{commands}");
            assert!(answer.body.contains("hello"), "{}", answer.body);
            world.until_metric(CONTEXTS, 0).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_client_that_leaves_in_an_answer() {
    // Goes on, so that it is noticed that nobody reads.
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let begin = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello";
        conversation.send(begin).await;
        let mut beats = tokio::time::interval(Duration::from_millis(10));
        while conversation.stream.write_all(b"hello").await.is_ok() {
            beats.tick().await;
        }
    })
    .await;
    let world = World::new(server.address, &at_the_door()).await;
    // The first has let all of it pass by then.
    for (commands, there) in [("set=x-a:1", 0), ("<stream", 1)] {
        let mut client = Client::connect(world.address).await;
        client.send(told("/x", commands)).await;
        client.read_until("hello").await;
        world.until_metric(CONTEXTS, there).await;
        drop(client);
        world.until_metric(CONTEXTS, 0).await;
    }
}
