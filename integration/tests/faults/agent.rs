//! The agent is killed under load.

use weft_integration::lab::Lab;

use crate::stage::{CLIENTS, L4, L7, SERVERS, Stage, assert_only, policies};

#[test]
fn a_killed_agent_is_not_noticed() {
    let stage = Stage::set();
    let allowed = [
        ("friend to L7", stage.asking("friend", L7, &[]), "200"),
        (
            "friend to L7, kept",
            stage.asking("friend", L7, &["--keep-alive"]),
            "200",
        ),
        ("neighbour to L7", stage.asking("neighbour", L7, &[]), "200"),
        ("friend to L4", stage.asking("friend", L4, &[]), "200"),
        (
            "neighbour to L4, kept",
            stage.asking("neighbour", L4, &["--keep-alive"]),
            "200",
        ),
        ("friend to echo", stage.talking("friend"), "echo"),
    ];
    let denied = [
        (
            "friend's POST",
            stage.asking("friend", L7, &["--method", "POST"]),
            "403",
        ),
        (
            "stranger to L7",
            stage.asking("stranger", L7, &["--timeout", "200"]),
            "timeout",
        ),
        (
            "stranger to L4",
            stage.asking("stranger", L4, &["--timeout", "200"]),
            "timeout",
        ),
    ];
    let clients = || allowed.iter().chain(&denied);
    let all_go_on = |lab: &Lab| {
        for (who, client, what) in clients() {
            client
                .more(5, what)
                .unwrap_or_else(|error| panic!("{who}: {error:#} in {}", lab.name()));
        }
    };
    all_go_on(&stage.lab);
    for node in [SERVERS, CLIENTS] {
        stage
            .lab
            .lab(&["stop", node, "agent", "--kill"])
            .well()
            .unwrap();
    }
    all_go_on(&stage.lab);
    for node in [SERVERS, CLIENTS] {
        stage.lab.lab(&["start", node, "agent"]).well().unwrap();
    }
    all_go_on(&stage.lab);
    for (who, client, what) in allowed.into_iter().chain(denied) {
        assert_only(who, &client.end().unwrap(), &[what]);
    }
    // The agents that came back do their work.
    let posts = stage.asking("friend", L7, &["--method", "POST"]);
    stage.lab.apply(&policies("friend", "POST")).unwrap();
    posts.more(5, "200").unwrap();
}
