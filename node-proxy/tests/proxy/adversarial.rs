//! Requests that are made to be misunderstood. Each is answered, closes its
//! connection, leaves one record that names the reason, reaches nobody, and
//! the next client is served.

use weft_api::node::{HttpRule, RecordKind, Verdict};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::world::{Rules, World, open, rule};

/// Sends each of these bytes; nothing may reach the server.
async fn refused(cases: &[(String, u16)]) {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    for (bytes, status) in cases {
        let mut client = Client::connect(world.address).await;
        // What would come next if the first were taken for a whole request.
        client
            .send(format!("{bytes}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let said = client.closed().await;
        let answer = format!("HTTP/1.1 {status} ");
        assert!(said.starts_with(&answer), "{bytes:?}: {said:?}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{bytes:?}: {said:?}");
        let record = world.agent.record().await;
        assert!(!record.reason.is_empty(), "{bytes:?}: {record:?}");
        assert_eq!(record.verdict(), Verdict::Dropped, "{bytes:?}");
        assert_eq!(record.kind(), RecordKind::Request, "{bytes:?}");
        world.agent.assert_no_record().await;
        let mut next = Client::connect(world.address).await;
        assert_eq!(next.get("GET", "/next").await.status, 200, "{bytes:?}");
        world.agent.records(2).await;
        assert!(server.next().await.starts_with("GET /next "));
        server.assert_nothing_arrived().await;
    }
}

/// A POST with these fields.
fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[tokio::test]
async fn lengths_that_contradict_each_other_or_are_none() {
    let mut cases = vec![
        post("content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        post("transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        post("content-length: 5\r\ncontent-length: 5\r\n"),
        post("content-length: 5\r\ncontent-length: 6\r\n"),
        post("transfer-encoding: chunked, identity\r\n"),
        post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"),
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
    ];
    for length in ["+5", "0x5", "", "5, 5", "-1", "18446744073709551616"] {
        cases.push(post(&format!("content-length: {length}\r\n")));
    }
    let mut cases: Vec<_> = cases.into_iter().map(|bytes| (bytes, 400)).collect();
    cases.push((post("transfer-encoding: gzip, chunked\r\n"), 501));
    refused(&cases).await;
}

#[tokio::test]
async fn lines_and_fields_that_readers_disagree_about() {
    let cases = [
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\rx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    ];
    refused(&cases.map(|bytes| (bytes.to_owned(), 400))).await;
}

#[tokio::test]
async fn hosts_that_are_missing_or_two() {
    let cases = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET http://a@b/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /x#y HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    refused(&cases.map(|bytes| (bytes.to_owned(), 400))).await;
}

#[tokio::test]
async fn chunks_that_hide_something_are_never_completed() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let whole = conversation.until("0\r\n\r\n").await;
        assert!(whole.is_none(), "the body was completed: {whole:?}");
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let long = format!("1;{}\r\nx\r\n", "e".repeat(4_000)).repeat(5);
    for body in [
        "0_2e\r\n",
        "-1\r\n",
        "fffffffffffffffff\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\nx: 1\n\r\n",
        "0\r\ncontent-length: 5\r\n\r\n",
        "0\r\nauthorization: x\r\n\r\n",
        &long,
    ] {
        let mut client = Client::connect(world.address).await;
        client
            .send(post("transfer-encoding: chunked\r\n") + body)
            .await;
        let said = client.closed().await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{body:?}: {said:?}");
        let records = world.agent.records(2).await;
        assert_eq!(records[1].reason, "malformed request: body", "{body:?}");
        world.agent.assert_no_record().await;
    }
}

#[tokio::test]
async fn connection_names_no_header_away_that_others_rely_on() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: id\r\nauthorization: secret\r\n\
             x-forwarded-for: 1.2.3.4\r\nx-hop: 1\r\n\
             connection: x-request-id, authorization, x-forwarded-for, host, x-hop\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 200);
    let head = server.next().await;
    for kept in [
        "host: a\r\n",
        "x-request-id: id\r\n",
        "authorization: secret\r\n",
        "x-forwarded-for: 1.2.3.4\r\n",
    ] {
        assert!(head.contains(kept), "{kept:?}: {head}");
    }
    assert!(!head.contains("x-hop"), "{head}");
}

#[tokio::test]
async fn no_spelling_of_a_denied_path_is_let_through() {
    let server = Server::landing().await;
    let rules = Rules {
        ingress: Some(vec![rule("GET", "/public/.*"), rule("GET", "/%2561dmin")]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    for path in [
        "/admin",
        "//admin",
        "/./admin",
        "/%2fadmin",
        "/%61dmin",
        "/\\admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/public/..;/admin",
        "/public/..;x=y/admin",
        "/public;/../admin",
        "/public/%2e%2e/admin",
    ] {
        assert_eq!(client.get("GET", path).await.status, 403, "{path}");
    }
    server.assert_nothing_arrived().await;
    // Decoded once: what is forwarded decodes to what was judged.
    assert_eq!(client.get("GET", "/%2561dmin").await.status, 200);
    assert!(server.next().await.starts_with("GET /%2561dmin "));
}

#[tokio::test]
async fn a_value_among_others_is_another_value() {
    let server = Server::landing().await;
    let admins = HttpRule {
        headers: vec!["x-role: admin".into()],
        ..Default::default()
    };
    let rules = Rules {
        ingress: Some(vec![admins]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    for (fields, status) in [
        ("x-role: user,admin\r\n", 403),
        ("x-role: user\r\nx-role: admin\r\n", 403),
        ("x-role: admin\r\nx-role: user\r\n", 403),
        ("x-role: Admin\r\n", 403),
        ("x_role: admin\r\n", 403),
        ("X-Role: admin\r\n", 200),
    ] {
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
            .await;
        assert_eq!(client.answer().await.status, status, "{fields:?}");
    }
    assert!(server.next().await.contains("x-role: admin\r\n"));
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn methods_and_hosts_that_only_look_alike_are_others() {
    let server = Server::landing().await;
    let gets = HttpRule {
        method: "GET".into(),
        host: "deathstar".into(),
        ..Default::default()
    };
    let rules = Rules {
        ingress: Some(vec![gets]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    for (method, host) in [
        ("get", "deathstar"),
        ("GETX", "deathstar"),
        ("GE", "deathstar"),
        ("GET", "deathstar.evil"),
        ("GET", "deathstar."),
        ("GET", "xdeathstar"),
        ("GET", "deathstar:80.evil"),
    ] {
        client
            .send(format!("{method} / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let status = client.answer().await.status;
        assert!([400, 403].contains(&status), "{method} {host}: {status}");
        if status == 400 {
            client = Client::connect(world.address).await;
        }
    }
    server.assert_nothing_arrived().await;
    assert_eq!(client.get("GET", "/").await.status, 200);
}

#[tokio::test]
async fn a_pattern_that_would_take_all_memory_is_refused_with_its_snapshot() {
    let server = Server::landing().await;
    let mut world = World::new(server.address, &open()).await;
    for (version, pattern) in [("2", "/(a{1000}){1000}"), ("3", "/((a{100}){100}){100}b")] {
        let huge = Rules {
            ingress: Some(vec![rule("GET", pattern)]),
            ..Default::default()
        };
        world
            .agent
            .send(huge.version(version).snapshot(server.address));
        let answer = world.agent.answer(version).await;
        assert!(answer.error.contains("policies[0].path"), "{answer:?}");
    }
    // One that takes exponential time elsewhere takes none here.
    let nested = Rules {
        ingress: Some(vec![rule("GET", "/(a+)+b")]),
        ..Default::default()
    };
    world.apply(&nested.version("4")).await;
    let mut client = Client::connect(world.address).await;
    let started = std::time::Instant::now();
    let path = format!("/{}", "a".repeat(10_000));
    assert_eq!(client.get("GET", &path).await.status, 403);
    let took = started.elapsed();
    assert!(took.as_secs() < 5, "judged in {took:?}");
}
