//! A policy is taken back under connections that it let in.

use std::path::Path;

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

#[test]
fn open_connections_lose_what_is_revoked() {
    let stage = Stage::set();
    let drip = |pod: &str, port: u16| {
        let to = format!("{}:{port}", stage.http);
        stage
            .lab
            .client(pod, Path::new(LOAD), &["drip", &to])
            .unwrap()
    };
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
