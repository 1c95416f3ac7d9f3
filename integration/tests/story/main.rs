//! The Star Wars story on two nodes, told once from its first pod to its last
//! flow: what every command says, and what the observer saw of it.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod demo;
mod flows;
mod hubble;
mod requests;

use weft_integration::lab::Lab;
use weft_integration::lines::all_there;
use weft_integration::watch::until;
use weft_lab::api::yaml::documents;

use flows::Replicas;

const LAND: &str =
    "-- curl --max-time 1 -s -X POST deathstar.default.svc.cluster.local/v1/request-landing";
const PANIC: &str = "\
Panic: deathstar exploded

goroutine 1 [running]:
main.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)
        /code/src/github.com/empire/deathstar/
        temp/main.go:9 +0x64
main.main()
        /code/src/github.com/empire/deathstar/
        temp/main.go:5 +0x85
";

#[test]
fn the_whole_story() {
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    match lab.has_kubectl() {
        true => eprintln!("the lines run through kubectl"),
        false => eprintln!("no kubectl of version 1.31 or later: the lines run through weft-lab"),
    }
    tell(&lab);
}

#[test]
fn the_same_without_kubectl() {
    let mut lab = Lab::up(&["--nodes", "2"]).unwrap();
    lab.do_without_kubectl();
    tell(&lab);
}

fn tell(lab: &Lab) {
    let replicas = no_policy(lab);
    two_observers(lab);
    l4_policy(lab);
    exhaust_port(lab);
    requests::l7_policy(lab, &replicas);
    requests::requests_as_json(lab);
    requests::egress(lab);
    requests::four_flows(lab, &replicas);
    requests::without_policy_again(lab);
}

/// Waits until the observer shows all of these lines.
fn observed(lab: &Lab, line: &str, shapes: &[&str]) -> String {
    until(|| {
        let ran = lab.sh(line);
        let output = ran.well().map_err(|error| format!("{line}: {error:#}"))?;
        all_there(&output, shapes).map(|()| output)
    })
    .unwrap()
}

fn land(lab: &Lab, ship: &str) -> String {
    lab.sh(&format!("kubectl exec {ship} {LAND}"))
        .well()
        .unwrap()
}

/// Lines of the story for one replica.
fn of(star: &str, shapes: &[&str]) -> Vec<String> {
    let star = format!("default/{star}");
    shapes
        .iter()
        .map(|shape| shape.replace("{deathstar}", &star))
        .collect()
}

fn strs(shapes: &[String]) -> Vec<&str> {
    shapes.iter().map(String::as_str).collect()
}

fn no_policy(lab: &Lab) -> Replicas {
    let applied = lab.sh("kubectl apply -f sw-pods.yaml").well().unwrap();
    assert_eq!(
        applied,
        "service/deathstar created\ndeployment.apps/deathstar created\npod/tiefighter created\npod/xwing created\n"
    );
    let rollout = lab
        .sh("kubectl rollout status deployment/deathstar --timeout=20s")
        .well()
        .unwrap();
    assert!(
        rollout.ends_with("deployment \"deathstar\" successfully rolled out\n"),
        "{rollout}"
    );
    lab.ready(["tiefighter", "xwing"]).unwrap();
    let pods = lab.sh("kubectl get pods").well().unwrap();
    assert_eq!(pods.matches("1/1").count(), 4, "{pods}");

    for ship in ["xwing", "tiefighter"] {
        until(|| match land(lab, ship).as_str() {
            "Ship landed\n" => Ok(()),
            other => Err(format!("{ship}: {other:?}")),
        })
        .unwrap();
    }
    // Until both replicas, one on each node, have landed the tie fighter.
    let replicas = Replicas::of(lab, "tiefighter");
    let to_star =
        "weft observe --from-pod default/tiefighter --to-pod default/deathstar --last 200";
    until(|| {
        land(lab, "tiefighter");
        let output = lab
            .sh(to_star)
            .well()
            .map_err(|error| format!("{error:#}"))?;
        match output.contains(&replicas.same) && output.contains(&replicas.across) {
            true => Ok(()),
            false => Err(output),
        }
    })
    .unwrap();
    let shapes = [
        "{time}: default/tiefighter {ID} <> {deathstar}:80 {ID} post-xlate-fwd TRANSLATED (TCP)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: SYN)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: ACK)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: ACK, PSH)",
        "{time}: default/tiefighter:{port} {ID} <> {deathstar} {ID} pre-xlate-rev TRACED (TCP)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: ACK, FIN)",
    ];
    let overlay = [
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-overlay FORWARDED (TCP Flags: SYN)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-overlay FORWARDED (TCP Flags: ACK)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-overlay FORWARDED (TCP Flags: ACK, PSH)",
        "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-overlay FORWARDED (TCP Flags: ACK, FIN)",
    ];
    observed(lab, to_star, &strs(&of(&replicas.same, &shapes)));
    observed(lab, to_star, &strs(&of(&replicas.across, &shapes)));
    let output = observed(lab, to_star, &strs(&of(&replicas.across, &overlay)));
    let stray = output
        .lines()
        .find(|l| l.contains(&replicas.same) && l.contains("to-overlay"));
    assert_eq!(stray, None, "a packet to the own node went to the overlay");
    replicas
}

/// Every node sees its part; the relay has all of it.
fn two_observers(lab: &Lab) {
    let status = lab.sh("weft status").well().unwrap();
    assert!(status.contains("Connected Nodes: 2/2\n"), "{status}");
    for node in ["kind-worker", "kind-worker2"] {
        let nodes = lab.sh("weft list nodes").well().unwrap();
        let there = |line: &str| line.split_whitespace().take(2).eq([node, "Connected"]);
        assert!(nodes.lines().any(there), "{nodes}");
        let socket = format!("unix://{}/{node}/hubble.sock", lab.state().display());
        let own = lab.flows(&["--server", &socket, "--last", "100"]).unwrap();
        assert!(!own.is_empty());
        assert!(own.iter().all(|flow| flow["node_name"] == node));
        let all = lab.flows(&["--last", "1000"]).unwrap();
        assert!(
            all.iter().any(|flow| flow["node_name"] == node),
            "{node} is missing"
        );
    }
}

fn l4_policy(lab: &Lab) {
    let applied = lab.sh("kubectl apply -f l4-policy.yaml").well().unwrap();
    assert_eq!(applied, "ciliumnetworkpolicy.cilium.io/rule1 created\n");
    let yaml = lab.sh("kubectl get ciliumnetworkpolicy rule1 -o yaml");
    let objects = documents(&yaml.well().unwrap()).unwrap();
    assert_eq!(
        objects[0]["spec"],
        serde_json::json!({
            "description": "L3-L4 policy to restrict deathstar access to empire ships only",
            "endpointSelector": {"matchLabels": {"class": "deathstar", "org": "empire"}},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"org": "empire"}}],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
            }],
        })
    );
    until(|| denied(lab)).unwrap();
    observed(
        lab,
        "weft observe --to-pod default/deathstar",
        &[
            "{time}: default/xwing {ID} <> {deathstar}:80 {ID} post-xlate-fwd TRANSLATED (TCP)",
            "{time}: default/xwing:{port} {ID} <> {deathstar}:80 {ID} policy-verdict:none INGRESS DENIED (TCP Flags: SYN)",
            "{time}: default/xwing:{port} {ID} <> {deathstar}:80 {ID} Policy denied DROPPED (TCP Flags: SYN)",
        ],
    );
    assert_eq!(land(lab, "tiefighter"), "Ship landed\n");
    observed(
        lab,
        "weft observe --from-pod default/tiefighter --to-pod default/deathstar",
        &[
            "{time}: default/tiefighter {ID} <> {deathstar}:80 {ID} post-xlate-fwd TRANSLATED (TCP)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: ACK, PSH)",
            "{time}: default/tiefighter:{port} {ID} <> {deathstar} {ID} pre-xlate-rev TRACED (TCP)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-endpoint FORWARDED (TCP Flags: ACK, FIN)",
        ],
    );
}

/// The rebels' connection times out, as curl's exit code says.
fn denied(lab: &Lab) -> Result<(), String> {
    let ran = lab.sh(&format!("kubectl exec xwing {LAND}"));
    let told = !lab.has_kubectl()
        || ran
            .errors
            .ends_with("command terminated with exit code 28\n");
    match (ran.code, ran.output.as_str(), told) {
        (28, "", true) => Ok(()),
        _ => Err(format!("{ran:?}")),
    }
}

fn exhaust_port(lab: &Lab) {
    let line = "kubectl exec tiefighter -- curl -s -X PUT deathstar.default.svc.cluster.local/v1/exhaust-port";
    assert_eq!(lab.sh(line).well().unwrap(), PANIC);
    // Nothing was an HTTP policy's business so far.
    let output = lab.sh("weft observe --protocol http").well().unwrap();
    assert_eq!(output, "");
    let output = lab.sh("weft observe --type trace:to-proxy").well().unwrap();
    assert_eq!(output, "");
}
