//! The same without an overlay.

use weft_integration::lab::Lab;
use weft_integration::watch::until;

const LAND: &str =
    "-- curl --max-time 1 -s -X POST deathstar.default.svc.cluster.local/v1/request-landing";

#[test]
fn the_story_holds_with_native_routing() {
    let lab = Lab::up(&["--nodes", "2", "--routing", "native"]).unwrap();
    lab.sh("kubectl apply -f sw-pods.yaml").well().unwrap();
    lab.sh("kubectl rollout status deployment/deathstar --timeout=20s")
        .well()
        .unwrap();
    lab.ready(["tiefighter", "xwing"]).unwrap();
    let land = |ship: &str| lab.sh(&format!("kubectl exec {ship} {LAND}"));
    until(|| match &*land("xwing").output {
        "Ship landed\n" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
    lab.sh("kubectl apply -f l7-policy.yaml").well().unwrap();
    until(|| match land("xwing").code {
        28 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    // On both replicas, one on each node.
    let stars = lab.pods("class=deathstar").unwrap();
    assert_eq!(stars.len(), 2);
    for star in stars {
        let name = star["metadata"]["name"].as_str().unwrap().to_owned();
        until(|| {
            let landed = land("tiefighter");
            if landed.output != "Ship landed\n" {
                return Err(format!("{landed:?}"));
            }
            let to = format!("default/{name}");
            let flows = lab.flows(&["--to-pod", &to, "--protocol", "http"]).unwrap();
            match flows.iter().any(|flow| flow["verdict"] == "FORWARDED") {
                true => Ok(()),
                false => Err(format!("no request was seen at {name}")),
            }
        })
        .unwrap();
        let ip = star["status"]["podIP"].as_str().unwrap();
        let put = format!("kubectl exec tiefighter -- curl -s -X PUT {ip}/v1/exhaust-port");
        assert_eq!(lab.sh(&put).well().unwrap().trim_end(), "Access denied");
    }
    let overlay = lab
        .flows(&["--type", "trace:to-overlay", "--last", "1000"])
        .unwrap();
    assert_eq!(overlay, Vec::<serde_json::Value>::new());
}
