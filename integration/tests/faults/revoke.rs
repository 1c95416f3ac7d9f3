//! A policy is taken back under connections that it let in.

use std::path::Path;

use weft_integration::pods::policy;
use weft_integration::watch::{Client, now};

use crate::stage::{L4, L7, LOAD, Stage, last_after, policies};

/// The promise is 100 ms from the moment at which the API has taken the change;
/// the bound is for machines that are busy with other tests.
const BOUND: f64 = 1_000.0;
/// On a busy machine the client may read late, and then much at once: what
/// comes every 5 ms is allowed so many times.
const LATE: usize = 40;

/// Waits until a client had nothing of that kind for long, and says how long
/// after a moment the last was.
fn ends(who: &str, client: &Client, what: &str, accepted: u64) {
    const QUIET: u64 = 500_000;
    let reports = client
        .until(|reports| {
            let last = reports.iter().rev().find(|report| report.what == what)?.at;
            let newest = reports.last()?;
            let over = newest.what == "closed" || newest.what == "reset";
            (newest.at > accepted && newest.what != what && (over || newest.at > last + QUIET))
                .then(|| reports.to_vec())
        })
        .unwrap_or_else(|error| panic!("{who} goes on: {error:#}"));
    let took = last_after(&reports, what, accepted);
    let late = reports
        .iter()
        .filter(|r| r.at > accepted && r.what == what)
        .count();
    eprintln!("{who}: last {what} {took:.1} ms after the change was taken ({late} since)");
    assert!(late <= LATE, "{who}: {late} times {what} after the change");
    assert!(took < BOUND, "{who}: {took} ms");
}

/// One answer that never ends.
fn drip(stage: &Stage, pod: &str, port: u16) -> Client {
    let to = format!("{}:{port}", stage.http);
    let client = stage.lab.client(pod, Path::new(LOAD), &["drip", &to]);
    client.unwrap()
}

#[test]
fn open_connections_lose_what_is_revoked() {
    let stage = Stage::set();
    let drip = |pod: &str, port: u16| drip(&stage, pod, port);
    let clients = [
        ("L4 stream across nodes", stage.talking("friend"), "echo"),
        ("L4 stream on a node", stage.talking("neighbour"), "echo"),
        (
            "kept L4 connection",
            stage.asking("friend", L4, &["--keep-alive", "--timeout", "200"]),
            "200",
        ),
        (
            "kept L7 connection across nodes",
            stage.asking("friend", L7, &["--keep-alive", "--timeout", "200"]),
            "200",
        ),
        (
            "kept L7 connection on a node",
            stage.asking("neighbour", L7, &["--keep-alive", "--timeout", "200"]),
            "200",
        ),
        ("L7 answer across nodes", drip("friend", L7), "data"),
        ("L7 answer on a node", drip("neighbour", L7), "data"),
        ("L4 answer across nodes", drip("friend", L4), "data"),
        ("L4 answer on a node", drip("neighbour", L4), "data"),
    ];
    for (who, client, what) in &clients {
        client
            .more(20, what)
            .unwrap_or_else(|error| panic!("{who}: {error:#}"));
    }
    stage.lab.apply(&policies("nobody", "GET")).unwrap();
    let accepted = now();
    for (who, client, what) in &clients {
        ends(who, client, what, accepted);
    }
}

#[test]
fn a_kept_connection_is_judged_by_the_new_rules() {
    let stage = Stage::set();
    let client = stage.asking("friend", L7, &["--keep-alive"]);
    client.more(20, "200").unwrap();
    stage.lab.apply(&policies("friend", "PUT")).unwrap();
    let accepted = now();
    client.more(20, "403").unwrap();
    let reports = client.end().unwrap();
    let took = last_after(&reports, "200", accepted);
    eprintln!(
        "last request that the old rules let through: {took:.1} ms after the change was taken"
    );
    assert!(took < BOUND, "{took} ms");
    // Nothing but an answer, whichever rules were in force.
    crate::stage::assert_only("the client", &reports, &["200", "403"]);
}

#[test]
fn what_no_rule_speaks_of_any_more_is_revoked_too() {
    let stage = Stage::set();
    let kept = |pod: &str| stage.asking(pod, L7, &["--keep-alive", "--timeout", "200"]);
    let clients = [
        ("kept connection across nodes", kept("friend"), "200"),
        ("kept connection on a node", kept("neighbour"), "200"),
        ("answer across nodes", drip(&stage, "friend", L7), "data"),
        ("answer on a node", drip(&stage, "neighbour", L7), "data"),
    ];
    for (who, client, what) in &clients {
        client
            .more(20, what)
            .unwrap_or_else(|error| panic!("{who}: {error:#}"));
    }
    let elsewhere = policy("http", ("app", "http"), ("side", "friend"), &[(L4, None)]);
    stage.lab.apply(&[elsewhere]).unwrap();
    let accepted = now();
    for (who, client, what) in &clients {
        ends(who, client, what, accepted);
    }
}

#[test]
fn a_port_that_needs_no_proxy_any_more_stays_open() {
    let stage = Stage::set();
    let clients = ["friend", "neighbour"].map(|pod| stage.asking(pod, L7, &["--keep-alive"]));
    for client in &clients {
        client.more(20, "200").unwrap();
    }
    let open = policy(
        "http",
        ("app", "http"),
        ("side", "friend"),
        &[(L7, None), (L4, None)],
    );
    stage.lab.apply(&[open]).unwrap();
    for client in clients {
        client.more(50, "200").unwrap();
        let reports = client.end().unwrap();
        // The kept connection ends, and the next one goes past the proxy. A
        // request that crosses the end on its way is the client's to repeat.
        let failed: Vec<_> = reports
            .iter()
            .filter(|report| report.what != "200" && report.what != "connected")
            .collect();
        assert!(failed.len() <= 1, "{failed:?}");
    }
}
