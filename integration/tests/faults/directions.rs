//! Rules of one direction are new to the proxy, those of the other are not.

use std::fs;

use serde_json::json;
use weft_integration::pods::policy;
use weft_integration::watch::now;

use crate::stage::{L4, L7, SERVERS, Stage, last_after};

/// The promise is 100 ms; the bound is for machines that are busy with other
/// tests.
const BOUND: f64 = 1_000.0;

#[test]
fn a_port_is_closed_until_the_proxy_can_keep_both_directions_rules() {
    let stage = Stage::set();
    let leaving = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "leaving"},
        "spec": {
            "endpointSelector": {"matchLabels": {"side": "friend"}},
            "egress": [{
                "toEndpoints": [{"matchLabels": {"app": "http"}}],
                "toPorts": [
                    {"ports": [{"port": L7.to_string(), "protocol": "TCP"}]},
                    {
                        "ports": [{"port": L4.to_string(), "protocol": "TCP"}],
                        "rules": {"http": [{}]},
                    },
                ],
            }],
        },
    });
    stage.lab.apply(&[leaving]).unwrap();
    let asking = |words: &[&str]| {
        let words = [words, &["--timeout", "200"]].concat();
        stage.asking("neighbour", L4, &words)
    };
    let clients = [asking(&[]), asking(&["--keep-alive"])];
    let posts = asking(&["--method", "POST"]);
    // Until the sender's rules lead to the proxy.
    let seen = ["--from-pod", "default/neighbour", "--protocol", "http"];
    stage
        .lab
        .until_flows(&seen, |flows| (!flows.is_empty()).then_some(()))
        .unwrap();
    for client in clients.iter().chain([&posts]) {
        client.more(5, "200").unwrap();
    }

    // The proxy judges by the receiver's rules at once. But if it started
    // again it would not have them: nobody may rely on it.
    let file = stage.lab.state().join(SERVERS).join("proxy/snapshot.json");
    assert!(file.exists(), "{}", file.display());
    let in_the_way = file.with_extension("json.new");
    fs::create_dir(&in_the_way).unwrap();
    let ports = [(L7, Some("GET")), (L4, Some("GET"))];
    let arriving = policy("http", ("app", "http"), ("side", "friend"), &ports);
    stage.lab.apply(&[arriving]).unwrap();
    let accepted = now();
    for client in &clients {
        client.more(5, "timeout").unwrap();
    }
    // What it has rules for goes on.
    let before = stage.asking("friend", L7, &[]);
    before.more(5, "200").unwrap();

    fs::remove_dir(&in_the_way).unwrap();
    for client in &clients {
        client.more(5, "200").unwrap();
    }
    posts.more(5, "403").unwrap();
    let took = last_after(&posts.end().unwrap(), "200", accepted);
    eprintln!("last request that the new rules deny: {took:.1} ms after the change was taken");
    assert!(took < BOUND, "{took} ms");
}
