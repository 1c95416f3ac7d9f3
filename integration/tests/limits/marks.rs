//! Marks and routing other than the usual, from the agents' flags to the
//! sockets of the proxies.

use weft_integration::lab::Lab;
use weft_integration::watch::until;

const LAND: &str =
    "-- curl --max-time 1 -s -X POST deathstar.default.svc.cluster.local/v1/request-landing";

#[test]
fn other_marks_reach_the_kernel_and_the_proxies() {
    let lab = Lab::up_with(
        &["--nodes", "2"],
        &[
            ("WEFT_MARK_MASK", "0xf0000"),
            ("WEFT_MARK_TO_PROXY", "0x10000"),
            ("WEFT_MARK_FROM_PROXY", "0xb0000"),
            ("WEFT_MARK_JUDGED", "0xd0000"),
            ("WEFT_PROXY_TABLE", "4711"),
            ("WEFT_PROXY_RULE_PREFERENCE", "77"),
        ],
    )
    .unwrap();
    for node in ["kind-worker", "kind-worker2"] {
        let rules = lab.lab(&["node", node, "--", "ip", "rule", "show"]);
        let rules = rules.well().unwrap();
        assert!(
            rules.contains("fwmark 0x10000/0xf0000 lookup 4711"),
            "{rules}"
        );
        assert!(!rules.contains("0x200/0xf00"), "{rules}");
    }
    lab.sh("kubectl apply -f sw-pods.yaml").well().unwrap();
    lab.sh("kubectl rollout status deployment/deathstar --timeout=20s")
        .well()
        .unwrap();
    lab.ready(["tiefighter"]).unwrap();
    lab.sh("kubectl apply -f l7-policy.yaml").well().unwrap();
    // On both replicas, one on each node: the proxies' own packets pass.
    for star in lab.pods("class=deathstar").unwrap() {
        let ip = star["status"]["podIP"].as_str().unwrap();
        let put = format!("kubectl exec tiefighter -- curl -s -X PUT {ip}/v1/exhaust-port");
        until(|| {
            let answer = lab.sh(&put);
            match answer.output.trim_end() {
                "Access denied" => Ok(()),
                _ => Err(format!("{answer:?}")),
            }
        })
        .unwrap();
        let land = format!(
            "kubectl exec tiefighter -- curl --max-time 2 -s -X POST {ip}/v1/request-landing"
        );
        assert_eq!(lab.sh(&land).well().unwrap(), "Ship landed\n");
    }
    let landed = lab.sh(&format!("kubectl exec tiefighter {LAND}"));
    assert_eq!(landed.well().unwrap(), "Ship landed\n");
}
