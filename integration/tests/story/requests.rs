//! Chapters in which the proxy has a part.

use weft_integration::lab::Lab;
use weft_integration::lines::all_there;
use weft_integration::watch::until;

use crate::flows::{self, Exchange, Replicas, direction_and_type};
use crate::{LAND, denied, land, observed};

pub fn l7_policy(lab: &Lab, replicas: &Replicas) {
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
        between,
        &[
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} to-proxy FORWARDED (TCP Flags: ACK, PSH)",
            "{time}: default/tiefighter:{port} {ID} -> {deathstar}:80 {ID} http-request FORWARDED (HTTP/1.1 POST http://deathstar.default.svc.cluster.local/v1/request-landing)",
        ],
    );
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

pub fn requests_as_json(lab: &Lab) {
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

pub fn egress(lab: &Lab) {
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

pub fn four_flows(lab: &Lab, replicas: &Replicas) {
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
pub fn without_policy_again(lab: &Lab) {
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
