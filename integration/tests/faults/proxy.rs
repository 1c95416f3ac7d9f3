//! The proxy is killed under load.

use weft_integration::watch::now;

use crate::stage::{L4, L7, SERVERS, Stage, assert_only};

/// The promise is a second; a machine that is busy with other tests may need
/// longer to start a program at all.
const RECOVERY: u64 = 5_000_000;

#[test]
fn without_its_proxy_a_port_with_rules_is_closed() {
    let stage = Stage::set();
    let ruled = [
        stage.asking("friend", L7, &["--timeout", "200"]),
        stage.asking("friend", L7, &["--timeout", "200", "--keep-alive"]),
        stage.asking("neighbour", L7, &["--timeout", "200"]),
    ];
    let unruled = [
        ("friend to L4", stage.asking("friend", L4, &[]), "200"),
        (
            "neighbour to L4, kept",
            stage.asking("neighbour", L4, &["--keep-alive"]),
            "200",
        ),
        ("friend to echo", stage.talking("friend"), "echo"),
        ("neighbour to echo", stage.talking("neighbour"), "echo"),
        (
            "stranger to L4",
            stage.asking("stranger", L4, &["--timeout", "200"]),
            "timeout",
        ),
    ];
    let posts = stage.asking("friend", L7, &["--method", "POST", "--timeout", "200"]);
    for client in &ruled {
        client.more(5, "200").unwrap();
    }
    posts.more(5, "403").unwrap();

    stage
        .lab
        .lab(&["stop", SERVERS, "proxy", "--kill"])
        .well()
        .unwrap();
    let stopped = now();
    for client in &ruled {
        client
            .until(|reports| (reports.iter().filter(|r| r.at > stopped).count() >= 5).then_some(()))
            .unwrap();
    }
    let started = now();
    let closed = [&ruled[0], &ruled[1], &ruled[2]].map(|client| {
        let reports = client.reports().into_iter();
        // Each asks again when it has its answer, so that all but the first of these
        // were asked after the end of the proxy. That one may have been answered before
        // it, and read by its client later.
        reports
            .filter(|r| (stopped..started).contains(&r.at))
            .skip(1)
            .collect::<Vec<_>>()
    });
    stage.lab.lab(&["start", SERVERS, "proxy"]).well().unwrap();
    for reports in &closed {
        let through = reports.iter().find(|report| report.what == "200");
        assert_eq!(through, None, "a request went through without the proxy");
    }

    for client in &ruled {
        let first = client
            .until(|reports| {
                let back = reports.iter().find(|r| r.at > started && r.what == "200");
                back.map(|report| report.at)
            })
            .unwrap();
        let took = first - started;
        eprintln!("first answer {} ms after the proxy's start", took / 1000);
        assert!(took < RECOVERY, "{took} us");
    }
    for client in ruled {
        client.more(5, "200").unwrap();
    }
    posts.more(5, "403").unwrap();
    let through = posts
        .end()
        .unwrap()
        .into_iter()
        .find(|report| report.what == "200");
    assert_eq!(through, None, "a denied request went through");
    for (who, client, what) in unruled {
        assert_only(who, &client.end().unwrap(), &[what]);
    }
}
