//! A server with rules, a friend that they let in, a stranger that they do not.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::pods::{idle, policy, server};
use weft_integration::watch::until;

/// The client and server in pods.
pub const LOAD: &str = env!("CARGO_BIN_EXE_weft-load");
/// Node of the server and of the neighbour.
pub const SERVERS: &str = "kind-worker";
/// Node of the other clients.
pub const CLIENTS: &str = "kind-worker2";

pub struct World {
    pub lab: Lab,
    pub server: Ipv4Addr,
    pub friend: Ipv4Addr,
}

impl World {
    /// No policy yet.
    pub fn open() -> Self {
        let lab = Lab::up(&["--nodes", "2"]).unwrap();
        lab.apply(&[
            server(
                Path::new(LOAD),
                "http",
                "http",
                SERVERS,
                &["[::]:8080", "[::]:8081"],
            ),
            idle("friend", CLIENTS, &[("side", "friend")]),
            idle("neighbour", SERVERS, &[("side", "friend")]),
            idle("stranger", CLIENTS, &[("side", "stranger")]),
        ])
        .unwrap();
        let [server, friend, ..] = lab
            .ready(["http", "friend", "neighbour", "stranger"])
            .unwrap();
        let world = Self {
            lab,
            server,
            friend,
        };
        world.until_curl("friend", 8080, &[], "0\n");
        world
    }

    /// Friends may GET from port 8080 and do anything on 8081.
    pub fn policed() -> Self {
        let world = Self::open();
        let ports = [(8080, Some("GET")), (8081, None)];
        world
            .lab
            .apply(&[policy("http", ("app", "http"), ("side", "friend"), &ports)])
            .unwrap();
        world.until_curl("friend", 8080, &["-X", "POST"], "Access denied");
        world.until_curl("neighbour", 8080, &["-X", "POST"], "Access denied");
        world
    }

    /// Waits until the server answers a pod like this.
    pub fn until_curl(&self, pod: &str, port: u16, arguments: &[&str], answer: &str) {
        let url = format!("http://{}:{port}/", self.server);
        let line = [&["curl", "-s", "--max-time", "1", &url], arguments].concat();
        until(|| {
            let ran = self.lab.exec(pod, &line);
            match ran.output.starts_with(answer) {
                true => Ok(()),
                false => Err(format!("{pod} {line:?}: {ran:?}")),
            }
        })
        .unwrap();
    }

    /// Waits for a dropped packet from a pod with this reason.
    pub fn until_dropped(&self, arguments: &[&str], reason: &str) -> Value {
        let words = [&["--verdict", "DROPPED", "--last", "500"], arguments].concat();
        self.lab
            .until_flows(&words, |flows| {
                flows
                    .iter()
                    .find(|flow| flow["drop_reason_desc"] == reason)
                    .cloned()
            })
            .unwrap()
    }
}
