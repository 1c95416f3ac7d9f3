//! Flow records, as the agent receives them.

use weft_api::node::{Direction, Record, RecordKind, Verdict};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::world::{
    DEATHSTAR, DEATHSTAR_IDENTITY, Rules, TIEFIGHTER, TIEFIGHTER_IDENTITY, World, impatient,
    landing, open, rule,
};

fn seen(record: &Record) -> (RecordKind, Direction, Verdict) {
    (record.kind(), record.direction(), record.verdict())
}

fn keys(record: &Record) -> Vec<&str> {
    let http = record.http.as_ref().expect("http");
    http.headers.iter().map(|header| &*header.key).collect()
}

fn header<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    let http = record.http.as_ref().expect("http");
    let found = http.headers.iter().find(|header| header.key == key);
    found.map(|header| &*header.value)
}

#[tokio::test]
async fn four_records_for_a_request_that_both_sides_observe() {
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "POST /v1/request-landing HTTP/1.1\r\nhost: deathstar.default.svc.cluster.local\r\n\
             user-agent: curl/7.88.1\r\naccept: */*\r\n\r\n",
        )
        .await;
    client.answer().await;
    let records = world.agent.records(4).await;
    use {Direction::*, RecordKind::*, Verdict::*};
    assert_eq!(
        records.iter().map(seen).collect::<Vec<_>>(),
        [
            (Request, Egress, Forwarded),
            (Request, Ingress, Forwarded),
            (Response, Ingress, Forwarded),
            (Response, Egress, Forwarded),
        ]
    );
    let id = &records[0].request_id;
    assert!(records.iter().all(|record| record.request_id == *id));
    world.agent.assert_no_record().await;

    let request = &records[0];
    let http = request.http.as_ref().expect("http");
    assert_eq!(http.method, "POST");
    assert_eq!(
        http.url,
        "http://deathstar.default.svc.cluster.local/v1/request-landing"
    );
    assert_eq!((http.code, &*http.protocol), (0, "HTTP/1.1"));
    assert_eq!(
        keys(request),
        [
            ":scheme",
            "Accept",
            "User-Agent",
            "X-Envoy-Internal",
            "X-Request-Id"
        ]
    );
    assert_eq!(header(request, ":scheme"), Some("http"));
    assert_eq!(header(request, "X-Request-Id"), Some(&**id));
    let (source, destination) = (
        request.source.as_ref().expect("source"),
        request.destination.as_ref().expect("destination"),
    );
    assert_eq!(source.ip, TIEFIGHTER.to_string());
    assert_eq!(
        (source.identity, source.endpoint_id),
        (TIEFIGHTER_IDENTITY, 1)
    );
    let port = client.stream.local_addr().expect("address").port();
    assert_eq!(source.port, u32::from(port));
    assert_eq!(destination.ip, DEATHSTAR.to_string());
    assert_eq!(
        (destination.identity, destination.endpoint_id),
        (DEATHSTAR_IDENTITY, 2)
    );
    assert_eq!(request.proxy_port, u32::from(world.address.port()));
    let rule = request.rule.as_ref().expect("a rule");
    assert_eq!((&*rule.namespace, &*rule.name), ("default", "rule1"));
    assert!(rule.rule.starts_with("egress[0]"), "{rule:?}");
    let rule = records[1].rule.as_ref().expect("a rule");
    assert!(rule.rule.starts_with("ingress[0]"), "{rule:?}");

    let response = &records[2];
    assert_eq!(response.source, request.destination);
    assert_eq!(response.destination, request.source);
    assert_eq!(response.http.as_ref().expect("http").code, 200);
    assert!(response.latency_ns > 0);
    assert_eq!(
        keys(response),
        [
            "Content-Length",
            "Content-Type",
            "Date",
            "Server",
            "X-Envoy-Upstream-Service-Time",
            "X-Request-Id"
        ]
    );
    assert_eq!(header(response, "Server"), Some("deathstar"));
    assert_eq!(header(response, "X-Request-Id"), Some(&**id));
}

#[tokio::test]
async fn one_side_observes_when_only_one_has_rules() {
    let server = Server::landing().await;
    let rules = Rules {
        ingress: landing().ingress,
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    let mut client = Client::connect(world.address).await;
    client.get("POST", "/v1/request-landing").await;
    let records = world.agent.records(2).await;
    assert!(
        records
            .iter()
            .all(|record| record.direction() == Direction::Ingress)
    );
    world.agent.assert_no_record().await;
}

#[tokio::test]
async fn a_denial_is_a_dropped_request_and_a_forwarded_403() {
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let mut client = Client::connect(world.address).await;
    client.get("PUT", "/v1/exhaust-port").await;
    let records = world.agent.records(2).await;
    use {Direction::*, RecordKind::*, Verdict::*};
    assert_eq!(
        records.iter().map(seen).collect::<Vec<_>>(),
        [(Request, Egress, Dropped), (Response, Egress, Forwarded)]
    );
    assert_eq!(records[1].http.as_ref().expect("http").code, 403);
    assert_eq!(header(&records[1], "Server"), None);
    assert!(records[0].rule.is_none(), "no rule matched");
    world.agent.assert_no_record().await;
}

#[tokio::test]
async fn every_answer_of_the_proxys_own_names_the_request_that_its_flow_names() {
    let server = Server::landing().await;
    let rules = Rules {
        ingress: Some(vec![rule("GET", "/allowed.*")]),
        ..Default::default()
    };
    let world = World::new(server.address, &rules).await;
    for (request, status, records) in [
        ("GET /denied HTTP/1.1\r\nhost: a\r\n\r\n", 403, 2),
        ("GET /allowed%2f HTTP/1.1\r\nhost: a\r\n\r\n", 307, 2),
        ("GET /allowed HTTP/1.1\r\n\r\n", 400, 1),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 405, 1),
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status);
        let said = answer.header("x-request-id").expect("an identifier");
        for record in world.agent.records(records).await {
            assert_eq!(record.request_id, said, "{request}");
        }
    }
    // What a pod chose itself is what it reads.
    let mut client = Client::connect(world.address).await;
    client
        .send("GET /denied HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.header("x-request-id"), Some("mine"));
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_forwarded_leaves_one_record_with_its_reason() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    for (bytes, reason, readable) in [
        (
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "malformed request: both content-length and transfer-encoding",
            None,
        ),
        ("GET / HTTP/1.1\r\n\r\n", "malformed request: host", None),
        (
            "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n",
            "malformed request: null byte in path",
            Some("GET"),
        ),
        (
            "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
            "CONNECT is not allowed",
            Some("CONNECT"),
        ),
        ("\x16\x03\x01\x02\x00", "not http: no request line", None),
    ] {
        let mut client = Client::connect(world.address).await;
        client.send(bytes).await;
        client.closed().await;
        let record = world.agent.record().await;
        assert_eq!(record.reason, reason, "{bytes:?}");
        assert_eq!(record.verdict(), Verdict::Dropped);
        assert_eq!(record.kind(), RecordKind::Request);
        // What was asked is said where it could be read, and never made up.
        let method = record.http.as_ref().map(|http| &*http.method);
        assert_eq!(method, readable, "{bytes:?}");
        world.agent.assert_no_record().await;
        // The proxy serves on.
        let mut next = Client::connect(world.address).await;
        assert_eq!(next.get("GET", "/").await.status, 200);
        world.agent.records(2).await;
        server.next().await;
    }
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_protocol_in_which_the_server_speaks_first_is_refused_aloud() {
    let server = Server::landing().await;
    let rules = Rules {
        settings: impatient(),
        ..open()
    };
    let world = World::new(server.address, &rules).await;
    let mut silent = Client::connect(world.address).await;
    assert_eq!(silent.closed().await, "");
    let record = world.agent.record().await;
    assert!(record.reason.starts_with("not http"), "{record:?}");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_503_with_its_reason() {
    let server = Server::landing().await;
    let address = server.address;
    drop(server);
    let world = World::new(address, &open()).await;
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("GET", "/").await.status, 503);
    let records = world.agent.records(2).await;
    assert_eq!(records[0].verdict(), Verdict::Forwarded);
    assert_eq!(records[1].http.as_ref().expect("http").code, 503);
    assert!(
        records[1].reason.starts_with("upstream connect"),
        "{records:?}"
    );
}

#[tokio::test]
async fn a_long_stream_is_seen_while_it_runs() {
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        conversation
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            .await;
        let _closed = conversation.until("never").await;
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("x\r\n").await;
    let records = world.agent.records(2).await;
    assert_eq!(records[1].kind(), RecordKind::Response);
}

#[tokio::test]
async fn flows_carry_the_trace_that_the_client_is_in() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        )
        .await;
    client.answer().await;
    for record in world.agent.records(2).await {
        assert_eq!(record.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    }
}

#[tokio::test]
async fn the_source_address_is_the_pods_and_its_port_is_not_kept() {
    let server = Server::script(|mut conversation| async move {
        while conversation.request().await.is_some() {
            let peer = conversation.peer.to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{peer}",
                peer.len()
            );
            conversation.send(answer).await;
        }
    })
    .await;
    let world = World::new(server.address, &open()).await;
    let mut client = Client::connect(world.address).await;
    let peer = client.get("GET", "/").await.body;
    let peer: std::net::SocketAddr = peer.parse().expect("an address");
    assert_eq!(peer.ip(), TIEFIGHTER);
    // Another client connection of the same pod shares the upstream one.
    let mut other = Client::connect(world.address).await;
    assert_eq!(other.get("GET", "/").await.body, peer.to_string());
}

#[tokio::test]
async fn secrets_are_named_and_not_shown() {
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let mut client = Client::connect(world.address).await;
    client
        .send(
            "POST /v1/request-landing HTTP/1.1\r\nhost: deathstar\r\n\
             authorization: Bearer hunter2\r\ncookie: id=hunter2\r\n\r\n",
        )
        .await;
    client.answer().await;
    for record in world.agent.records(2).await {
        for key in ["Authorization", "Cookie"] {
            assert_eq!(header(&record, key), Some("[redacted]"), "{key}");
        }
    }
}

#[tokio::test]
async fn many_large_requests_at_once_lose_no_flow() {
    const CLIENTS: usize = 100;
    let server = Server::landing().await;
    let world = World::new(server.address, &landing()).await;
    let filler = "x".repeat(2000);
    let mut request = "PUT /v1/exhaust-port HTTP/1.1\r\nhost: deathstar\r\n".to_owned();
    for number in 0..20 {
        request += &format!("x-filler-{number}: {filler}\r\n");
    }
    request += "\r\n";
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(world.address).await);
    }
    for client in &mut clients {
        client.send(&request).await;
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status, 403);
    }
    // Of each a request and its answer, whatever else is in their batch.
    let records = world.agent.records(2 * CLIENTS).await;
    let first = records
        .iter()
        .filter(|one| one.kind() == RecordKind::Request);
    assert_eq!(first.count(), CLIENTS);
}
