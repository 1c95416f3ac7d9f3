//! What arrives of a request on its way through the kernel and the proxies of
//! two nodes, and what comes back.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use weft_integration::lab::{Lab, Ran};
use weft_integration::pods::idle;
use weft_integration::watch::until;

const SERVERS: &str = "kind-worker";
const CLIENTS: &str = "kind-worker2";

struct Stage {
    lab: Lab,
    echo: Ipv4Addr,
    far: Ipv4Addr,
    near: Ipv4Addr,
}

/// A server that tells what arrived, behind a service, and a client on either
/// node. Requests are judged where they leave and where they arrive.
fn stage() -> Stage {
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    let http = |rules: Value| json!([{"ports": [{"port": "8080", "protocol": "TCP"}], "rules": {"http": rules}}]);
    let to_echo = json!([{"matchLabels": {"app": "echo"}}]);
    let everything = json!([{}]);
    lab.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "echo", "labels": {"app": "echo"}},
            "spec": {
                "nodeName": SERVERS,
                "containers": [{"name": "main", "image": "echo", "ports": [{"containerPort": 8080}]}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
            "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }),
        idle("far", CLIENTS, &[("side", "friend")]),
        idle("near", SERVERS, &[("side", "friend")]),
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "arrive"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": "echo"}},
                "ingress": [{
                    "fromEndpoints": [{"matchLabels": {"side": "friend"}}],
                    "toPorts": http(json!([{"path": "/(open|status)/.*"}])),
                }],
            },
        }),
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "leave"},
            "spec": {
                "endpointSelector": {"matchLabels": {"side": "friend"}},
                "egress": [
                    {"toEndpoints": to_echo, "toPorts": http(json!([{"path": "/(open|closed|status)/.*"}]))},
                    {
                        "toEndpoints": [{"matchLabels": {
                            "k8s:io.kubernetes.pod.namespace": "kube-system", "k8s-app": "kube-dns",
                        }}],
                        "toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}]}],
                    },
                    {
                        "toCIDR": ["203.0.113.10/32"],
                        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": everything}}],
                    },
                    {"toCIDR": ["203.0.113.20/32"], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
                ],
            },
        }),
    ])
    .unwrap();
    let [echo, far, near] = lab.ready(["echo", "far", "near"]).unwrap();
    let stage = Stage {
        lab,
        echo,
        far,
        near,
    };
    for pod in ["far", "near"] {
        // Judged on both sides: each has its own refusal.
        for path in ["closed/x", "locked/x"] {
            until(|| {
                let ran = stage.curl(pod, &[&format!("http://{}:8080/{path}", stage.echo)]);
                match ran.output.trim_end() {
                    "Access denied" => Ok(()),
                    _ => Err(format!("{pod}: {ran:?}")),
                }
            })
            .unwrap();
        }
        until(|| {
            let ran = stage.curl(pod, &["http://203.0.113.10/"]);
            serde_json::from_str::<Value>(&ran.output)
                .map(drop)
                .map_err(|error| format!("{pod}: {error}: {ran:?}"))
        })
        .unwrap();
    }
    stage
}

impl Stage {
    fn curl(&self, pod: &str, arguments: &[&str]) -> Ran {
        self.lab.exec(
            pod,
            &[&["curl", "-s", "--max-time", "2"], arguments].concat(),
        )
    }

    /// What the server says that it got.
    fn ask(&self, pod: &str, arguments: &[&str]) -> Value {
        let output = self.curl(pod, arguments).well().unwrap();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }
}

fn host(told: &Value) -> Ipv4Addr {
    let client = told["client"].as_str().unwrap();
    client.rsplit_once(':').unwrap().0.parse().unwrap()
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let stage = stage();
    let urls = [
        format!("http://{}:8080/open/a?b=c", stage.echo),
        "http://echo/open/a?b=c".to_owned(),
        "http://echo.default.svc.cluster.local/open/a?b=c".to_owned(),
    ];
    for (pod, address) in [("far", stage.far), ("near", stage.near)] {
        for url in &urls {
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                let what = format!("{pod} {url} {version}");
                let id = "0b1de7b3-7a5e-4d1c-9f57-5b1e0c9a1d2e";
                let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
                let told = stage.ask(
                    pod,
                    &[
                        version,
                        "-X",
                        "PATCH",
                        "-d",
                        "the body",
                        "-H",
                        &format!("x-request-id: {id}"),
                        "-H",
                        &format!("traceparent: {trace}"),
                        url,
                    ],
                );
                assert_eq!(
                    host(&told),
                    address,
                    "{what}: the server sees another client: {told}"
                );
                assert_eq!(told["method"], "PATCH", "{what}");
                assert_eq!(told["path"], "/open/a?b=c", "{what}");
                assert_eq!(told["body"], "the body", "{what}");
                assert_eq!(told["hostname"], "echo", "{what}");
                let headers = &told["headers"];
                assert_eq!(headers["x-request-id"], id, "{what}");
                assert_eq!(headers["x-envoy-internal"], "true", "{what}");
                let parent = headers["traceparent"].as_str().unwrap_or_default();
                assert!(parent.starts_with(&trace[..36]), "{what}: {parent}");
            }
        }
        // An id is made where there is none, another one each time.
        let id = || {
            let told = stage.ask(pod, &[&urls[0]]);
            told["headers"]["x-request-id"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let (first, second) = (id(), id());
        assert_eq!(first.len(), 36, "{first}");
        assert_ne!(first, second);
    }
}

#[test]
fn answers_say_who_gave_them() {
    let stage = stage();
    let url = format!("http://{}:8080", stage.echo);
    for pod in ["far", "near"] {
        let head = |path: &str| {
            let output = stage.curl(
                pod,
                &["-o", "/dev/null", "-D", "-", &format!("{url}{path}")],
            );
            output.well().unwrap().to_ascii_lowercase()
        };
        let passed = head("/status/418");
        assert!(passed.starts_with("http/1.1 418"), "{passed}");
        assert!(passed.contains("\r\nserver: envoy\r\n"), "{passed}");
        assert!(
            passed.contains("\r\nx-envoy-upstream-service-time: "),
            "{passed}"
        );
        let denied = head("/closed/x");
        assert!(denied.starts_with("http/1.1 403"), "{denied}");
        assert!(denied.contains("\r\nserver: envoy\r\n"), "{denied}");
    }
}

#[test]
fn the_world_sees_the_nodes() {
    let stage = stage();
    // Through the proxy, and past it.
    for url in ["http://203.0.113.10/a", "http://203.0.113.20/a"] {
        for (pod, node) in [("near", [172, 18, 0, 2]), ("far", [172, 18, 0, 3])] {
            let told = stage.ask(pod, &[url]);
            assert_eq!(host(&told), Ipv4Addr::from(node), "{pod} to {url}: {told}");
        }
    }
    // And what no rule names stays inside.
    let ran = stage.curl("far", &["--max-time", "0.5", "http://203.0.113.30/"]);
    assert_eq!((ran.code, &*ran.output), (28, ""), "{ran:?}");
}
