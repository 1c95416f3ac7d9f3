//! Requests that meet filters: real modules in the whole proxy.

mod at_once;
mod bodies;
mod budget;
mod calls;
mod failures;
mod heads;
mod http2;
mod policy;
mod seen;
mod shipped;
mod streams;
mod waiting;

use weft_api::node::FilterPhase;

use crate::support::guests::{filter, probe, step};
use crate::support::server::Server;
use crate::support::world::{Rules, World, open};

/// The probe's configuration: it reads this header, and marks what passes it.
pub fn config(header: &str, mark: &str) -> String {
    format!(r#"{{"header": "{header}", "mark": "{mark}"}}"#)
}

/// The same for a probe that wants to see nothing of answers: it is done with
/// most requests when it has seen their heads.
pub fn requests_only(header: &str, mark: &str) -> String {
    format!(r#"{{"header": "{header}", "mark": "{mark}", "requests_only": true}}"#)
}

/// Everything is allowed, and one probe is at the deathstar's door: it reads
/// `x-do`.
pub fn at_the_door() -> Rules {
    let probe = probe();
    Rules {
        filters: vec![filter("probe", &probe, &config("x-do", ""))],
        ingress_chain: vec![step(FilterPhase::AfterPolicy, 0)],
        modules: vec![probe],
        ..open()
    }
}

/// A landing place behind a probe.
pub async fn landing() -> (Server, World) {
    let server = Server::landing().await;
    let world = World::new(server.address, &at_the_door()).await;
    (server, world)
}

/// A request that tells the probe what to do.
pub fn told(path: &str, commands: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: deathstar\r\nx-do: {commands}\r\n\r\n")
}

/// The same with a body.
pub fn told_with(path: &str, commands: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: deathstar\r\nx-do: {commands}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}
