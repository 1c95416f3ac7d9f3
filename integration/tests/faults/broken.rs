//! A policy object is broken by a later version.

use serde_json::{Value, json};
use weft_integration::lab::Lab;
use weft_integration::watch::until;

use crate::stage::{CLIENTS, L4, L7, SERVERS, Stage, assert_only, policies};

#[test]
fn the_last_good_version_of_a_policy_serves() {
    let stage = Stage::set();
    stage.lab.until_valid("http", true).unwrap();
    let clients = [
        ("friend's GET", stage.asking("friend", L7, &[]), "200"),
        (
            "friend's POST",
            stage.asking("friend", L7, &["--method", "POST"]),
            "403",
        ),
        ("friend to L4", stage.asking("friend", L4, &[]), "200"),
        (
            "stranger to L4",
            stage.asking("stranger", L4, &["--timeout", "200"]),
            "timeout",
        ),
    ];
    // Everyone may do everything, if only it could be understood.
    let [mut broken, _] = policies("friend", "GET");
    broken["spec"]["ingress"][0]["fromEndpoints"] = json!([{}]);
    broken["spec"]["ingress"][0]["toPorts"][0]["rules"]["http"] = json!([{"path": "/v1/["}]);
    stage.lab.apply(&[broken]).unwrap();
    let message = stage.lab.until_valid("http", false).unwrap();
    let field = "ingress[0].toPorts[0].rules.http[0].path";
    assert!(message.contains(field), "{message:?} does not name {field}");
    for (who, client, what) in &clients {
        client
            .more(5, what)
            .unwrap_or_else(|error| panic!("{who}: {error:#}"));
    }
    // The broken version is all that agents find in the API when they start.
    for node in [SERVERS, CLIENTS] {
        stage
            .lab
            .lab(&["restart", node, "agent", "--kill"])
            .well()
            .unwrap();
    }
    for (who, client, what) in &clients {
        client
            .more(5, what)
            .unwrap_or_else(|error| panic!("{who}: {error:#}"));
    }
    for (who, client, what) in clients {
        assert_only(who, &client.end().unwrap(), &[what]);
    }
    // Once it can be understood it is in force.
    stage.lab.apply(&policies("friend", "POST")).unwrap();
    stage.lab.until_valid("http", true).unwrap();
    stage
        .asking("friend", L7, &["--method", "POST"])
        .more(5, "200")
        .unwrap();
}

#[test]
fn what_is_not_enforced_is_said() {
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "isolated", "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    lab.apply(&[policy]).unwrap();
    until(|| {
        let events = lab.lab(&["get", "events", "-o", "json"]).well().unwrap();
        let events: Value = serde_json::from_str(&events).unwrap();
        let of_policy = |event: &&Value| event["involvedObject"]["name"] == "isolated";
        let event = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(of_policy);
        match event.map(|event| &event["reason"]) {
            Some(reason) if reason == "NotEnforced" => Ok(()),
            _ => Err(format!("no event in {events}")),
        }
    })
    .unwrap();
}
