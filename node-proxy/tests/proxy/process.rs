//! The process: files, signals, memory.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Client;
use crate::support::otlp::{Collector, attribute};
use crate::support::process::{Process, write};
use crate::support::server::Server;
use crate::support::world::{Rules, landing, open, rule};
use crate::support::{until, within};

#[tokio::test]
async fn it_serves_from_a_file_and_reads_it_again_when_told_to() {
    let server = Server::landing().await;
    let process = Process::start(&landing().snapshot(server.address));
    let address = process.address().await;
    let up = process.started.elapsed();
    assert!(up < Duration::from_secs(5), "up after {up:?}");
    assert!(process.admin("/healthz").await.starts_with("HTTP/1.1 200"));
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    assert_eq!(client.get("PUT", "/v1/exhaust-port").await.status, 403);
    // Counted off the workers, a moment later.
    let dropped = "weft_proxy_requests_total{direction=\"egress\",verdict=\"dropped\"} 1";
    until(async || process.admin("/metrics").await.contains(dropped)).await;

    // What is wrong is not taken.
    std::fs::write(process.file(), "{").expect("written");
    process.signal("-HUP");
    assert_eq!(client.get("PUT", "/v1/exhaust-port").await.status, 403);
    // What is right is.
    let anything = Rules {
        egress: Some(Vec::new()),
        ..open()
    };
    let snapshot = anything.version("2").snapshot(server.address);
    write(&process.file(), &snapshot);
    process.signal("-HUP");
    until(async || client.get("PUT", "/v1/exhaust-port").await.status == 200).await;
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_it_serves() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let server = Server::script(move |mut conversation| {
        let mut wait = wait.clone();
        async move {
            conversation.request().await;
            wait.changed().await.expect("told to go on");
            conversation
                .send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
                .await;
        }
    })
    .await;
    let mut process = Process::start(&open().snapshot(server.address));
    let address = process.address().await;
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.next().await;
    process.signal("-TERM");
    until(async || TcpStream::connect(address).await.is_err()).await;
    go.send_replace(true);
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "done"));
    let mut ended = None;
    until(async || {
        ended = process.child.try_wait().expect("its status");
        ended.is_some()
    })
    .await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[tokio::test]
async fn a_gibibyte_passes_both_ways_in_constant_memory() {
    const TOTAL: u64 = 1 << 30;
    let server = Server::script(|mut conversation| async move {
        conversation.request().await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {TOTAL}\r\n\r\n");
        let early = std::mem::take(&mut conversation.read);
        conversation.send(head).await;
        conversation.send(early).await;
        let (mut read, mut write) = conversation.stream.split();
        let _copied = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let process = Process::start(&open().snapshot(server.address));
    let address = process.address().await;
    let mut client = Client::connect(address).await;
    // One request first, so that what is allocated once is.
    client
        .send(format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {TOTAL}\r\n\r\n"
        ))
        .await;
    let before = process.peak();
    client.read_until("\r\n\r\n").await;
    let (mut read, mut write) = client.stream.into_split();
    let writer = tokio::spawn(async move {
        let block = vec![7; 256 * 1024];
        let mut left = TOTAL;
        while left > 0 {
            let length = left.min(block.len() as u64);
            let part = &block[..usize::try_from(length).expect("small")];
            write.write_all(part).await.expect("written");
            left -= length;
        }
        write
    });
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    let reading = async {
        while received < TOTAL {
            let length = read.read(&mut buffer).await.expect("read");
            assert!(length > 0, "closed after {received} bytes");
            received += length as u64;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), reading)
        .await
        .expect("it all came back in time");
    writer.await.expect("written");
    let grown = process.peak() - before;
    assert!(grown < 16 << 20, "grew by {grown} bytes");
}

#[tokio::test]
async fn no_huge_page_is_resident_for_the_little_that_is_used_of_it() {
    let server = Server::landing().await;
    let process = Process::start(&landing().snapshot(server.address));
    let mut client = Client::connect(process.address().await).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    assert_eq!(process.status("THP_enabled:"), "0");
}

#[tokio::test]
async fn the_usual_variable_is_where_spans_go() {
    let server = Server::landing().await;
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
    let process = Process::start_with(&landing().snapshot(server.address), &variables);
    let mut client = Client::connect(process.address().await).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    let spans = [collector.span().await, collector.span().await];
    let rules = spans.map(|span| attribute(&span, "weft.rule").expect("a rule"));
    assert!(rules.iter().all(|rule| rule.contains("default/rule1")));
}

#[tokio::test]
async fn spans_that_nobody_takes_are_counted() {
    let server = Server::landing().await;
    // Bound, so that nobody else listens there, and not listening.
    let nobody = TcpSocket::new_v4().expect("socket");
    nobody.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let endpoint = format!("http://{}", nobody.local_addr().expect("address"));
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
    let process = Process::start_with(&landing().snapshot(server.address), &variables);
    let mut client = Client::connect(process.address().await).await;
    assert_eq!(client.get("POST", "/v1/request-landing").await.status, 200);
    let lost = "weft_proxy_lost_spans_total 2";
    until(async || process.admin("/metrics").await.contains(lost)).await;
}

/// A file of the repository.
fn of_the_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Where the README runs the proxy alone, and from which to which address.
const ALONE: &str = "weft-proxy -- --snapshot examples/proxy/snapshot.json";
const FROM: &str = "127.0.0.1:8080";
const TO: &str = "127.0.0.1:8081";

#[tokio::test]
async fn the_example_is_what_the_proxy_runs_from() {
    let path = of_the_repository("examples/proxy/snapshot.json");
    let snapshot = weft_proxy::control::store::load(&path).expect("a snapshot");
    assert_eq!(snapshot.listeners[0].address, FROM);
    assert_eq!(snapshot.clusters[0].endpoints[0].address, TO);
    let parts = weft_proxy::control::convert::parts(&snapshot).expect("valid");
    weft_proxy::control::config::Config::build(parts, None, false).expect("compiles");
}

#[tokio::test]
async fn it_runs_alone_as_the_readme_says() {
    let readme = std::fs::read_to_string(of_the_repository("README.md")).expect("the README");
    for said in [ALONE, FROM, TO, "`POST /v1/request-landing`", "`GET` below"] {
        assert!(readme.contains(said), "{said}");
    }
    let server = Server::landing_at(Ipv4Addr::LOCALHOST).await;
    let example = of_the_repository("examples/proxy/snapshot.json");
    let example = std::fs::read_to_string(example).expect("the example");
    // Ports that are free, for those that may not be.
    let example = example
        .replace(FROM, "127.0.0.1:0")
        .replace("8081", &server.address.port().to_string());
    let process = Process::run(&example, &[], &[]);
    let address = process.address().await;
    for (method, path, status) in [
        ("POST", "/v1/request-landing", 200),
        ("GET", "/v1/ships", 200),
        ("PUT", "/v1/exhaust-port", 403),
        ("POST", "/v1/ships", 403),
        ("GET", "/v2/ships", 403),
    ] {
        let mut client = Client::connect_from(address, Ipv4Addr::LOCALHOST.into()).await;
        let answer = client.get(method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("server"), Some("envoy"));
        if status == 200 {
            assert_eq!(answer.body, "Ship landed\n");
            let arrived = server.next().await;
            assert!(
                arrived.starts_with(&format!("{method} {path} ")),
                "{arrived}"
            );
        } else {
            assert_eq!(answer.body, "Access denied\r\n");
        }
    }
    server.assert_nothing_arrived().await;
}

#[tokio::test]
async fn a_rule_that_does_not_compile_stops_the_start_with_its_field() {
    let server = Server::landing().await;
    let bad = Rules {
        ingress: Some(vec![rule("GET", "/(")]),
        ..Default::default()
    };
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("snapshot.json");
    write(&file, &bad.snapshot(server.address));
    let said = refused(&file);
    assert!(said.contains("policies[0].path"), "{said}");
}

/// What a proxy says that cannot run from this file.
fn refused(file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
        .arg("--snapshot")
        .arg(file)
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("backtrace"), "{said}");
    said
}

#[tokio::test]
async fn a_file_that_is_no_snapshot_is_said_so_in_a_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("snapshot.json");
    std::fs::write(&file, "{\"version\": ").expect("written");
    let said = refused(&file);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
}

#[tokio::test]
async fn of_two_that_run_alone_the_second_does_not_share_the_firsts_address() {
    let server = Server::landing().await;
    let first = Process::start(&open().snapshot(server.address));
    let address = first.address().await;
    let mut snapshot = open().snapshot(server.address);
    snapshot.listeners[0].address = address.to_string();
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("snapshot.json");
    write(&file, &snapshot);
    let said = refused(&file);
    let name = &snapshot.listeners[0].name;
    assert!(
        said.contains(&format!("listeners[0].address: {address} of `{name}`"))
            && said.contains("Address already in use"),
        "{said}"
    );
    // Its own address it has already, when the file is read again.
    snapshot.version = "again".into();
    write(&first.file(), &snapshot);
    let id = i32::try_from(first.child.id()).expect("a process id");
    let id = rustix::process::Pid::from_raw(id).expect("a process id");
    rustix::process::kill_process(id, rustix::process::Signal::HUP).expect("told");
    until(async || first.admin("/config").await.contains("again")).await;
}

#[tokio::test]
async fn accepting_survives_a_lack_of_descriptors() {
    let server = Server::landing().await;
    let process = Process::start(&open().snapshot(server.address));
    let address = process.address().await;
    // Lowered while it runs: it started with what it needs.
    let limit = rustix::process::Rlimit {
        current: Some(32),
        maximum: Some(32),
    };
    let id = i32::try_from(process.child.id()).expect("a process id");
    let id = rustix::process::Pid::from_raw(id);
    rustix::process::prlimit(id, rustix::process::Resource::Nofile, limit).expect("lowered");
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let stream = within(TcpStream::connect(address))
            .await
            .expect("connected");
        crowd.push(stream);
    }
    drop(crowd);
    within(async {
        loop {
            let mut client = Client::connect(address).await;
            client
                .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
            if client.closed().await.contains("200 OK") {
                return;
            }
        }
    })
    .await;
}
