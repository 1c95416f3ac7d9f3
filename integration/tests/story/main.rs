//! The Star Wars story on two nodes, told once from its first pod to its last
//! flow: what every command says, and what the observer saw of it.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod flows;

use weft_integration::lab::Lab;
use weft_integration::lines::all_there;
use weft_integration::watch::until;

use flows::{Exchange, Replicas, direction_and_type};

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
    l7_policy(lab, &replicas);
    requests_as_json(lab);
    egress(lab);
    four_flows(lab, &replicas);
    without_policy_again(lab);
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
    let spec = lab.get("cnp", "rule1").unwrap()["spec"].take();
    assert_eq!(
        spec,
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
    match (ran.code, ran.output.as_str()) {
        (28, "") => Ok(()),
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

fn l7_policy(lab: &Lab, replicas: &Replicas) {
    let applied = lab.sh("kubectl apply -f l7-policy.yaml").well().unwrap();
    assert_eq!(applied, "ciliumnetworkpolicy.cilium.io/rule1 configured\n");
    let spec = lab.get("cnp", "rule1").unwrap()["spec"].take();
    assert_eq!(
        spec["ingress"][0]["toPorts"][0]["rules"],
        serde_json::json!({"http": [{"method": "POST", "path": "/v1/request-landing"}]})
    );
    let put = "kubectl exec tiefighter -- curl -s -X PUT deathstar.default.svc.cluster.local/v1/exhaust-port";
    until(|| match lab.sh(put).well().unwrap().trim_end() {
        "Access denied" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
    let status = put.replace("-s ", "-s -o /dev/null -w '%{http_code}' ");
    assert_eq!(lab.sh(&status).well().unwrap(), "403");
    let between = "weft observe --from-pod default/tiefighter --to-pod default/deathstar";
    observed(
        lab,
        between,
        &[
            "{time}: default/tiefighter {ID} <> {deathstar}:80 {ID} post-xlate-fwd TRANSLATED (TCP)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: ACK)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: ACK, PSH)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: ACK, FIN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} http-request DROPPED (HTTP/1.1 PUT http://deathstar.default.svc.cluster.local/v1/exhaust-port)",
        ],
    );

    assert_eq!(land(lab, "tiefighter"), "Ship landed\n");
    observed(
        lab,
        "weft observe --protocol http",
        &[
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} http-request FORWARDED (HTTP/1.1 POST http://deathstar.default.svc.cluster.local/v1/request-landing)",
            "{time}: default/tiefighter:{port} {ID} <- {deathstar}:80 {ID} http-response FORWARDED (HTTP/1.1 200 {ms}ms (POST http://deathstar.default.svc.cluster.local/v1/request-landing))",
        ],
    );
    until(|| denied(lab)).unwrap();

    // Seen where they arrive only, on whichever node that is.
    let expected = ["INGRESS REQUEST", "INGRESS RESPONSE"];
    for exchange in flows::on_both_nodes(lab, replicas, &expected, || drop(land(lab, "tiefighter")))
    {
        assert_exactly(&exchange, &expected);
    }
}

fn assert_exactly(exchange: &Exchange, expected: &[&str]) {
    let mut seen: Vec<_> = exchange.flows.iter().map(direction_and_type).collect();
    seen.sort();
    assert_eq!(
        seen, expected,
        "request {} to {}",
        exchange.id, exchange.star
    );
    for flow in &exchange.flows {
        let ends = [
            &flow["source"]["labels"][0],
            &flow["destination"]["labels"][0],
        ];
        let (ship, star) = (
            "k8s:app.kubernetes.io/name=tiefighter",
            "k8s:app.kubernetes.io/name=deathstar",
        );
        match flow["l7"]["type"].as_str() {
            Some("REQUEST") => assert_eq!(ends, [ship, star]),
            _ => assert_eq!(ends, [star, ship]),
        }
    }
}

fn requests_as_json(lab: &Lab) {
    let to_proxy = observed(
        lab,
        "weft observe --type trace:to-proxy",
        &[
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: ACK, FIN)",
        ],
    );
    assert!(
        to_proxy
            .lines()
            .all(|line| line.contains(" to-proxy FORWARDED ")),
        "{to_proxy}"
    );

    // The flow of the line that has just been landed last.
    let l7 = |line: &str| -> serde_json::Value {
        let output = lab.sh(line).well().unwrap();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{line}: {error}: {output}"))
    };
    let request = l7(
        "weft observe --protocol http --from-pod default/tiefighter -o jsonpb | tail -n 1 | jq '.flow.l7'",
    );
    assert_eq!(request["type"], "REQUEST");
    let http = &request["http"];
    assert_eq!(http["method"], "POST");
    assert_eq!(
        http["url"],
        "http://deathstar.default.svc.cluster.local/v1/request-landing"
    );
    assert_eq!(http["protocol"], "HTTP/1.1");
    assert_eq!(http["code"], serde_json::Value::Null);
    let keys = flows::header_names(http);
    assert_eq!(
        keys,
        [
            ":scheme",
            "Accept",
            "User-Agent",
            "X-Envoy-Internal",
            "X-Request-Id"
        ]
    );
    assert_eq!(flows::header(http, ":scheme"), "http");
    assert_eq!(flows::header(http, "X-Envoy-Internal"), "true");

    let response = l7(
        "weft observe --protocol http --to-pod default/tiefighter -o jsonpb | tail -n 1 | jq '.flow.l7'",
    );
    assert_eq!(response["type"], "RESPONSE");
    let latency: u64 = response["latency_ns"].as_str().unwrap().parse().unwrap();
    assert!((1..2_000_000_000).contains(&latency), "{latency}");
    let http = &response["http"];
    assert_eq!(http["code"], 200);
    assert_eq!(http["method"], "POST");
    assert_eq!(
        http["url"],
        "http://deathstar.default.svc.cluster.local/v1/request-landing"
    );
    let keys = flows::header_names(http);
    assert_eq!(
        keys,
        [
            "Content-Length",
            "Content-Type",
            "Date",
            "X-Envoy-Upstream-Service-Time",
            "X-Request-Id"
        ]
    );
    assert_eq!(flows::header(http, "Content-Length"), "12");
    // The very line of the story; its jq stumbles over headers that are null.
    let first = l7(
        "weft observe --protocol http --from-pod default/tiefighter -o jsonpb | head -n 1 | jq '.flow.l7'",
    );
    assert_eq!(first["type"], "REQUEST");
    for flow in lab
        .flows(&["--protocol", "http", "--last", "1000"])
        .unwrap()
    {
        assert!(flow["l7"]["http"]["headers"].is_array(), "{flow}");
    }
}

fn egress(lab: &Lab) {
    let line = "weft observe --protocol http --traffic-direction egress";
    assert_eq!(lab.sh(line).well().unwrap(), "");
    let applied = lab
        .sh("kubectl apply -f policies/dns.yaml -f policies/tiefighter.yaml")
        .well()
        .unwrap();
    assert_eq!(
        applied,
        "ciliumnetworkpolicy.cilium.io/dns created\nciliumnetworkpolicy.cilium.io/tiefighter created\n"
    );
    // Agents of both nodes take the policies over, each in its time.
    until(|| {
        let landed = lab.sh(&format!("kubectl exec tiefighter {LAND}"));
        assert_eq!(landed.output, "Ship landed\n", "{landed:?}");
        let output = lab.sh(line).well().unwrap();
        all_there(&output, &[
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} http-request FORWARDED (HTTP/1.1 POST http://deathstar.default.svc.cluster.local/v1/request-landing)",
            "{time}: default/tiefighter:{port} {ID} <- {deathstar}:80 {ID} http-response FORWARDED (HTTP/1.1 200 {ms}ms (POST http://deathstar.default.svc.cluster.local/v1/request-landing))",
        ])
    })
    .unwrap();
}

fn four_flows(lab: &Lab, replicas: &Replicas) {
    let expected = [
        "EGRESS REQUEST",
        "EGRESS RESPONSE",
        "INGRESS REQUEST",
        "INGRESS RESPONSE",
    ];
    for exchange in flows::on_both_nodes(lab, replicas, &expected, || drop(land(lab, "tiefighter")))
    {
        assert_exactly(&exchange, &expected);
    }
    // And as the story finds them.
    let output = lab.sh(
        r#"weft observe --namespace default --protocol http -o jsonpb > flows.json
REQUEST_ID=$(cat flows.json | jq -r '.flow | select(.source.labels[0]=="k8s:app.kubernetes.io/name=tiefighter" and .traffic_direction=="EGRESS") .l7.http.headers[] | select(.key=="X-Request-Id") .value' | tail -n1)
cat flows.json | \
  jq -c 'select(.flow.l7.http.headers[] | .value == "'$REQUEST_ID'") .flow | {src_label: .source.labels[0], dst_label: .destination.labels[0], traffic_direction, type: .l7.type, time}'"#,
    );
    let output = output.well().unwrap();
    assert_eq!(output.lines().count(), 4, "{output}");
    let put = "kubectl exec tiefighter -- curl -s -X PUT deathstar.default.svc.cluster.local/v1/exhaust-port";
    assert_eq!(lab.sh(put).well().unwrap().trim_end(), "Access denied");
    until(|| denied(lab)).unwrap();
}

/// Without its policies no request is a flow any more.
fn without_policy_again(lab: &Lab) {
    lab.sh("kubectl delete cnp rule1 dns tiefighter")
        .well()
        .unwrap();
    // Until the rebels land again, and a ship's way is one without the proxy.
    until(|| {
        match lab
            .sh(&format!("kubectl exec xwing {LAND}"))
            .output
            .as_str()
        {
            "Ship landed\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .unwrap();
    let marked = "kubectl exec xwing -- curl -s --max-time 1 -X POST --local-port 20000-29999 \
                  deathstar.default.svc.cluster.local/v1/request-landing";
    lab.sh(marked).well().unwrap();
    lab.until_flows(&["--from-pod", "default/xwing", "--last", "200"], |flows| {
        flows
            .iter()
            .find(|flow| {
                let port = flow["l4"]["TCP"]["source_port"].as_u64().unwrap_or(0);
                (20_000..30_000).contains(&port) && flow["l4"]["TCP"]["flags"]["FIN"] == true
            })
            .map(drop)
    })
    .unwrap();
    let http = lab
        .flows(&["--from-pod", "default/xwing", "--protocol", "http"])
        .unwrap();
    assert_eq!(http, Vec::<serde_json::Value>::new());
}
