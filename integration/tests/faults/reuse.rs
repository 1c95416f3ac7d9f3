//! An address goes from one pod to another with other labels.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;
use weft_integration::pods::{idle, pod, server};
use weft_integration::watch::until;

use crate::stage::{CLIENTS, L4, L7, LOAD, SERVERS, Stage};

/// New pods until one has this address, which is free or about to be. Each asks
/// from its first moment on. Returns the name of the one with the address.
fn newcomer(stage: &Stage, address: Ipv4Addr, node: &str, port: u16, side: &str) -> String {
    let to = format!("{}:{port}", stage.http);
    let client = format!("tail -f /dev/null | {LOAD} requests {to} --every 5 --timeout 200");
    for number in 0..10 {
        let name = format!("{side}-{port}-{node}-{number}");
        let new = pod(&name, node, &[("side", side)], &["sh", "-c", &client]);
        stage.lab.apply(&[new]).unwrap();
        if stage.lab.ready([&*name]).unwrap() == [address] {
            return name;
        }
    }
    panic!("{address} is not taken by any of ten pods");
}

fn log(stage: &Stage, name: &str) -> String {
    stage
        .lab
        .sh(&format!("kubectl logs {name} 2>/dev/null || true"))
        .output
}

fn identity(stage: &Stage, pod: &str) -> u64 {
    let flow = stage.lab.until_flows(
        &["--from-pod", &format!("default/{pod}"), "--last", "100"],
        |flows| {
            flows
                .iter()
                .find_map(|flow| flow["source"]["identity"].as_u64())
        },
    );
    flow.unwrap()
}

#[test]
fn an_address_never_keeps_its_old_identity() {
    let stage = Stage::set();
    for (round, node, port) in [(1, CLIENTS, L4), (2, CLIENTS, L7), (3, SERVERS, L4)] {
        let before = format!("before{round}");
        stage
            .lab
            .apply(&[idle(&before, node, &[("side", "friend")])])
            .unwrap();
        let [address] = stage.lab.ready([&*before]).unwrap();
        stage.asking(&before, port, &[]).more(3, "200").unwrap();
        let old = identity(&stage, &before);

        stage.lab.lab(&["delete", "pod", &before]).well().unwrap();
        let after = newcomer(&stage, address, node, port, "rebel");
        // Its connections fail, from the first on.
        until(|| match log(&stage, &after).lines().count() {
            5.. => Ok(()),
            n => Err(format!("{n} requests")),
        })
        .unwrap();
        let log = log(&stage, &after);
        let through = log
            .lines()
            .find(|line| line.ends_with(" 200") || line.ends_with(" 403"));
        assert_eq!(through, None, "{after} was taken for {before}");

        // And no flow calls it what it was.
        let from = format!("default/{after}");
        let dropped = ["--from-pod", &from, "--verdict", "DROPPED", "--last", "100"];
        stage
            .lab
            .until_flows(&dropped, |flows| (flows.len() >= 2).then_some(()))
            .unwrap();
        let new = identity(&stage, &after);
        assert_ne!(new, old);
        let all = stage
            .lab
            .flows(&["--from-pod", &from, "--last", "1000"])
            .unwrap();
        let wrong = |flow: &&Value| flow["source"]["identity"] != new;
        if let Some(flow) = all.iter().find(wrong) {
            panic!("{after} under another's identity: {flow}");
        }
    }
}

#[test]
fn a_denied_address_is_allowed_once_a_friend_has_it() {
    let stage = Stage::set();
    let [address] = stage.lab.ready(["stranger"]).unwrap();
    let denied = stage.asking("stranger", L4, &["--timeout", "200"]);
    denied.more(1, "timeout").unwrap();
    drop(denied);
    stage
        .lab
        .lab(&["delete", "pod", "stranger"])
        .well()
        .unwrap();
    let late = newcomer(&stage, address, CLIENTS, L4, "friend");
    stage.asking(&late, L4, &[]).more(3, "200").unwrap();
    stage.asking(&late, L7, &[]).more(3, "200").unwrap();
}

#[test]
fn a_new_pod_is_under_its_policies_from_its_first_moment() {
    let stage = Stage::set();
    stage.lab.lab(&["delete", "pod", "http"]).well().unwrap();
    // Asked before, while and after a server gets that address.
    let quick = ["--every", "2", "--timeout", "100"];
    let friend = stage.asking("friend", L4, &quick);
    let intruders = [
        stage.asking("stranger", L4, &quick),
        stage.asking("stranger", L7, &quick),
        stage.asking("friend", L7, &[&quick[..], &["--method", "POST"]].concat()),
        stage.asking(
            "neighbour",
            L7,
            &[&quick[..], &["--method", "POST"]].concat(),
        ),
    ];
    for number in 0..10 {
        let name = format!("http{number}");
        let mut new = server(
            Path::new(LOAD),
            "http",
            &name,
            SERVERS,
            &["0.0.0.0:8080", "0.0.0.0:8081"],
        );
        new["metadata"]["labels"]["app"] = "http".into();
        stage.lab.apply(&[new]).unwrap();
        if stage.lab.ready([&*name]).unwrap() == [stage.http] {
            break;
        }
    }
    friend.more(20, "200").unwrap();
    for intruder in intruders {
        let reports = intruder.end().unwrap();
        let through = reports.iter().find(|report| report.what == "200");
        assert_eq!(
            through, None,
            "a request passed before the policy was in force"
        );
    }
}
