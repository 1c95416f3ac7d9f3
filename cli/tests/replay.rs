//! Recorded flows through the real binary: every output format, and a choice
//! of filters. The expected texts are laid out as the stock client does; where a
//! machine has it, `integration/tests/story/hubble.rs` compares with the real one.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn observe(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["observe", "--input-file"])
        .arg(file("fixtures/flows.jsonl"))
        .args(args)
        .output()
        .expect("weft runs")
}

fn lines(args: &[&str]) -> Vec<String> {
    let output = observe(args);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines().map(str::to_owned).collect()
}

/// Only flows: lost events pass filters as they do with the stock client.
fn flows(args: &[&str]) -> Vec<String> {
    let mut lines = lines(args);
    lines.retain(|line| !line.contains("EVENTS LOST"));
    lines
}

#[test]
fn every_format_prints_the_stock_clients_bytes() {
    for (args, expected) in [
        (&["-o", "compact", "--print-node-name"][..], "compact.txt"),
        (
            &["-o", "compact", "--color", "always", "--print-policy-names"],
            "colors.txt",
        ),
        (&["-o", "dict"], "dict.txt"),
        (&["-o", "table"], "table.txt"),
    ] {
        let expected = std::fs::read_to_string(file("expected").join(expected)).expect("expected");
        let output = String::from_utf8(observe(args).stdout).expect("text");
        for (number, (got, want)) in output.lines().zip(expected.lines()).enumerate() {
            assert_eq!(got, want, "{args:?}, line {}", number + 1);
        }
        assert_eq!(output, expected, "{args:?}");
    }
}

#[test]
fn json_is_the_input_again() {
    let input = std::fs::read_to_string(file("fixtures/flows.jsonl")).expect("fixture");
    let statuses = input.lines().filter(|line| line.contains("node_status"));
    let printed = lines(&["-o", "jsonpb"]);
    assert_eq!(printed.len() + statuses.count(), input.lines().count());
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let input = input.lines().filter(|line| !line.contains("node_status"));
    for (printed, given) in printed.iter().zip(input) {
        assert_eq!(parse(printed), parse(given));
        assert!(!printed.contains(['<', '>', '&']), "escaped: {printed}");
    }
}

#[test]
fn troubles_of_nodes_go_to_standard_error() {
    let told = |args: &[&str]| String::from_utf8(observe(args).stderr).expect("text");
    assert_eq!(
        told(&[]),
        "Mar 14 14:38:00.500 [relay]: 6 nodes are unavailable: kind-worker3, kind-worker4, kind-worker5 (and 3 more)\n\
         Mar 14 14:38:00.500 [relay]: Error \"going \\\"away\\\"\" on 1 nodes: kind-worker2\n"
    );
    assert_eq!(told(&["-s"]), "");
    assert!(told(&["-D"]).contains("Receiving flows from 2 nodes: kind-worker, kind-worker2"));
}

#[test]
fn filters_choose_lines() {
    for (args, count) in [
        (&["--type", "trace:to-proxy"][..], 3),
        (&["--protocol", "http", "--traffic-direction", "egress"], 2),
        (
            &["--protocol", "http", "--from-pod", "default/tiefighter"],
            3,
        ),
        (&["--protocol", "http", "--to-pod", "default/tiefighter"], 3),
        (&["--from-pod", "default/xwing", "--verdict", "DROPPED"], 2),
        (&["--http-status", "4+"], 1),
        (&["--to-fqdn", "*.example.com"], 1),
        (
            &[
                "--to-label",
                "class=deathstar,org!=alliance",
                "-t",
                "policy-verdict",
            ],
            4,
        ),
        (&["--identity", "host"], 1),
        (&["--tcp-flags", "syn,ack"], 1),
        (&["-6"], 1),
        (&["--workload", "Deployment/coredns"], 3),
        (
            &["--not", "--protocol", "tcp", "--not", "--protocol", "udp"],
            2,
        ),
        (&["--last", "2", "--protocol", "dns"], 2),
        (&["--first", "1", "--drop-reason-desc", "POLICY_DENIED"], 1),
    ] {
        let found = flows(args);
        assert_eq!(found.len(), count, "{args:?}: {found:#?}");
    }
}

#[test]
fn what_cannot_be_honoured_fails_with_the_reason() {
    for (args, reason) in [
        (
            &["--http-path", "("][..],
            "invalid http path filter: (: unclosed group\n",
        ),
        (
            &["--cel-expression", "true"],
            "filtering by CEL expression is not supported\n",
        ),
        (
            &["-t", "bogus"],
            "invalid argument \"bogus\" for \"-t, --type\" flag: ",
        ),
    ] {
        let output = observe(args);
        let told = String::from_utf8(output.stderr).expect("text");
        assert!(told.starts_with(reason), "{args:?}: {told}");
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_line_that_is_no_flow_is_skipped_with_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broken.jsonl");
    let good = "{\"flow\":{\"verdict\":\"FORWARDED\",\"new_field\":1,\"Summary\":\"x\"}}";
    std::fs::write(&path, format!("nonsense\n{good}\n")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["observe", "--input-file"])
        .arg(&path)
        .output()
        .expect("weft runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "N/A:  (unknown) <>  (unknown) UNKNOWN FORWARDED (x)\n"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("nonsense"));
    assert!(output.status.success());
}

/// The pipeline that matches requests with their responses: take the id of the
/// first egress request of one pod, then every flow that carries it.
#[test]
fn one_request_id_finds_four_flows() {
    let flows: Vec<serde_json::Value> = lines(&[
        "--namespace",
        "default",
        "--protocol",
        "http",
        "-o",
        "jsonpb",
    ])
    .iter()
    .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["flow"].clone())
    .filter(|flow| !flow.is_null())
    .collect();
    let headers = |flow: &serde_json::Value| {
        flow["l7"]["http"]["headers"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let id = flows
        .iter()
        .find(|flow| {
            flow["source"]["labels"][0] == "k8s:app.kubernetes.io/name=tiefighter"
                && flow["traffic_direction"] == "EGRESS"
        })
        .and_then(|flow| {
            headers(flow)
                .into_iter()
                .find(|h| h["key"] == "X-Request-Id")
        })
        .map(|header| header["value"].clone())
        .expect("an egress request");
    let found: Vec<_> = flows
        .iter()
        .filter(|flow| headers(flow).iter().any(|header| header["value"] == id))
        .map(|flow| {
            (
                flow["traffic_direction"].clone(),
                flow["l7"]["type"].clone(),
            )
        })
        .collect();
    let wanted = [
        ("EGRESS", "REQUEST"),
        ("INGRESS", "REQUEST"),
        ("INGRESS", "RESPONSE"),
        ("EGRESS", "RESPONSE"),
    ];
    assert_eq!(
        found,
        wanted.map(|(direction, kind)| (direction.into(), kind.into()))
    );
}
