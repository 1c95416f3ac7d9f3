//! Snapshots: accepted, refused, kept.

use tokio::net::TcpStream;

use crate::support::agent::Agent;
use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::world::{Rules, World, landing, open, rule, start};
use crate::support::{until, within};

#[tokio::test]
async fn a_bad_snapshot_is_refused_by_its_field_and_the_last_good_one_serves() {
    let server = Server::landing().await;
    let mut world = World::new(server.address, &landing()).await;
    let bad = Rules {
        ingress: Some(vec![rule("GET", "/(")]),
        ..Default::default()
    };
    world.agent.send(bad.version("2").snapshot(server.address));
    let answer = world.agent.answer("2").await;
    assert!(answer.error.contains("policies[0].path"), "{answer:?}");
    assert_eq!(world.proxy.status().version, "1");
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    assert_eq!(client.get("GET", "/").await.status, 403);
    // A good one is taken again.
    world
        .agent
        .send(open().version("3").snapshot(server.address));
    assert_eq!(world.agent.answer("3").await.error, "");
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_refuses_the_snapshot() {
    let server = Server::landing().await;
    let mut world = World::new(server.address, &open()).await;
    let mut snapshot = open().version("2").snapshot(server.address);
    // Of a network that no machine is in (RFC 5737).
    snapshot.listeners[0].address = "192.0.2.1:80".into();
    world.agent.send(snapshot);
    let answer = world.agent.answer("2").await;
    assert!(
        answer.error.starts_with("listeners[0].address"),
        "{answer:?}"
    );
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
}

#[tokio::test]
async fn without_its_agent_the_proxy_starts_from_what_it_had() {
    let server = Server::landing().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let snapshot = landing().version("7").snapshot(server.address);
    let mut agent = Agent::start(directory.path(), Some(snapshot));
    let first = start(&directory, &agent, None).await;
    assert_eq!(agent.answer("7").await.error, "");
    // Stored before it is acknowledged.
    assert!(directory.path().join("state/snapshot.json").exists());
    first.stop(std::time::Duration::ZERO).await;
    let socket = agent.socket.clone();
    drop(agent);
    std::fs::remove_file(&socket).expect("the agent's socket");

    let nobody = Agent::start(tempfile::tempdir().expect("elsewhere").path(), None);
    let second = {
        let mut away = nobody;
        away.socket = socket;
        start(&directory, &away, None).await
    };
    let status = second.status();
    assert!(status.ready);
    assert_eq!(status.version, "7");
    let mut client = Client::connect(status.listeners["http"]).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    assert_eq!(client.get("PUT", "/v1/exhaust-port").await.status, 403);

    // The agent is back, learns what runs, and its word counts again.
    let newer = open().version("8").snapshot(server.address);
    let mut agent = Agent::start(directory.path(), Some(newer));
    assert_eq!(agent.status().await.version, "7");
    assert_eq!(agent.answer("8").await.error, "");
    let mut client = Client::connect(second.status().listeners["http"]).await;
    assert_eq!(client.get("PUT", "/v1/exhaust-port").await.status, 200);
    // Records that were made meanwhile are not lost.
    assert_eq!(agent.records(4).await.len(), 4);
}

#[tokio::test]
async fn what_cannot_be_stored_is_in_force_and_not_acknowledged_until_it_is() {
    let server = Server::landing().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let first = open().version("1").snapshot(server.address);
    let mut agent = Agent::start(directory.path(), Some(first));
    let proxy = start(&directory, &agent, None).await;
    assert_eq!(agent.answer("1").await.error, "");
    // A directory where the file is to be: rights alone do not stop root.
    let temporary = directory.path().join("state/snapshot.json.new");
    std::fs::create_dir(&temporary).expect("in the way");
    agent.send(landing().version("2").snapshot(server.address));
    let answer = agent.answer("2").await;
    assert!(answer.error.contains("cannot be stored"), "{answer:?}");
    // It revokes something: nothing of that waits for the disk.
    let mut client = Client::connect(proxy.status().listeners["http"]).await;
    assert_eq!(client.get("PUT", "/").await.status, 403);
    assert_eq!(proxy.status().version, "2");

    // What is refused meanwhile changes nothing of that.
    let mut broken = landing().version("3").snapshot(server.address);
    broken.node = None;
    agent.send(broken);
    assert!(agent.answer("3").await.error.starts_with("node: "));

    // An agent that comes back is not told what it cannot rely on, nor that
    // the older one, which is stored, is in force.
    let socket = agent.socket.clone();
    drop(agent);
    std::fs::remove_file(&socket).expect("the agent's socket");
    let second = landing().version("2").snapshot(server.address);
    let mut agent = Agent::start(directory.path(), Some(second));
    assert_eq!(agent.status().await.version, "");
    let answer = agent.answer("2").await;
    assert!(answer.error.contains("cannot be stored"), "{answer:?}");
    std::fs::remove_dir(&temporary).expect("out of the way");
    assert_eq!(agent.answer("2").await.error, "");
    let stored = std::fs::read_to_string(directory.path().join("state/snapshot.json"));
    assert!(stored.expect("stored").contains("\"2\""));
}

#[tokio::test]
async fn without_anything_the_proxy_is_up_and_not_ready() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut agent = Agent::start(directory.path(), None);
    let proxy = start(&directory, &agent, None).await;
    assert!(!proxy.status().ready);
    assert_eq!(agent.status().await.version, "");
    let server = Server::landing().await;
    agent.send(open().snapshot(server.address));
    assert_eq!(agent.answer("1").await.error, "");
    assert!(proxy.status().ready);
}

#[tokio::test]
async fn listeners_come_and_go_with_the_snapshot() {
    let server = Server::landing().await;
    let world = World::new(server.address, &open()).await;
    let mut snapshot = open().version("2").snapshot(server.address);
    let mut second = snapshot.listeners[0].clone();
    second.name = "second".into();
    snapshot.listeners.push(second);
    within(world.proxy.apply(snapshot.clone()))
        .await
        .expect("in force");
    let listeners = world.proxy.status().listeners;
    assert_eq!(listeners["http"], world.address, "the first one stays");
    let mut client = Client::connect(listeners["second"]).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
    snapshot.listeners.remove(0);
    snapshot.version = "3".into();
    within(world.proxy.apply(snapshot)).await.expect("in force");
    until(async || TcpStream::connect(world.address).await.is_err()).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
}
