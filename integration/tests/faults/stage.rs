//! A lab with servers and clients of both sides, and load between them.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::pods::{idle, policy, server};
use weft_integration::watch::{Client, Report};

/// The client and server in pods.
pub const LOAD: &str = env!("CARGO_BIN_EXE_weft-load");

/// Node of the servers.
pub const SERVERS: &str = "kind-worker";
/// Node of the clients.
pub const CLIENTS: &str = "kind-worker2";

/// Port whose requests the proxy judges.
pub const L7: u16 = 8080;
/// Port of the same server that the kernel alone judges.
pub const L4: u16 = 8081;
/// Port of the echo server, the kernel's as well.
pub const ECHO: u16 = 9000;

pub struct Stage {
    pub lab: Lab,
    pub http: Ipv4Addr,
    pub echo: Ipv4Addr,
}

/// What the servers let in.
pub fn policies(side: &str, method: &str) -> [Value; 2] {
    [
        policy(
            "http",
            ("app", "http"),
            ("side", side),
            &[(L7, Some(method)), (L4, None)],
        ),
        policy("echo", ("app", "echo"), ("side", side), &[(ECHO, None)]),
    ]
}

impl Stage {
    /// Friends may GET from the HTTP server and use the echo server; strangers
    /// may nothing.
    pub fn set() -> Self {
        let lab = Lab::up(&["--nodes", "2"]).unwrap();
        let load = Path::new(LOAD);
        let mut objects = policies("friend", "GET").to_vec();
        objects.extend([
            server(
                load,
                "http",
                "http",
                SERVERS,
                &["0.0.0.0:8080", "0.0.0.0:8081"],
            ),
            server(load, "echo", "echo", SERVERS, &["0.0.0.0:9000"]),
            idle("friend", CLIENTS, &[("side", "friend")]),
            idle("neighbour", SERVERS, &[("side", "friend")]),
            idle("stranger", CLIENTS, &[("side", "stranger")]),
        ]);
        lab.apply(&objects).unwrap();
        let [http, echo, ..] = lab
            .ready(["http", "echo", "friend", "neighbour", "stranger"])
            .unwrap();
        let stage = Self { lab, http, echo };
        // Addresses of pods of another node take a moment to be known.
        for (pod, port) in [("friend", L7), ("friend", L4), ("neighbour", L7)] {
            stage.asking(pod, port, &[]).more(1, "200").unwrap();
        }
        stage
    }

    /// Requests from a pod, until dropped.
    pub fn asking(&self, pod: &str, port: u16, arguments: &[&str]) -> Client {
        let to = format!("{}:{port}", self.http);
        let words = [&["requests", &to], arguments].concat();
        self.lab.client(pod, Path::new(LOAD), &words).unwrap()
    }

    /// One connection to the echo server, until dropped.
    pub fn talking(&self, pod: &str) -> Client {
        let to = format!("{}:{ECHO}", self.echo);
        self.lab
            .client(pod, Path::new(LOAD), &["stream", &to])
            .unwrap()
    }
}

/// Every report must be one of these, once connected.
pub fn assert_only(who: &str, reports: &[Report], wanted: &[&str]) {
    assert!(!reports.is_empty(), "{who} reported nothing");
    let others: Vec<_> = reports
        .iter()
        .filter(|r| r.what != "connected" && !wanted.contains(&r.what.as_str()))
        .collect();
    assert!(
        others.is_empty(),
        "{who}: {} of {} are others: {others:?}",
        others.len(),
        reports.len()
    );
}

/// Milliseconds from a moment to the last report of a kind; 0 when that was
/// before it.
pub fn last_after(reports: &[Report], what: &str, moment: u64) -> f64 {
    let last = reports.iter().rev().find(|report| report.what == what);
    let after = last.map_or(0, |report| report.at.saturating_sub(moment));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds to print")]
    let milliseconds = after as f64 / 1000.0;
    milliseconds
}
