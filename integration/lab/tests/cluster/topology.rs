//! Nodes, routes, the world, DNS.

use std::net::UdpSocket;
use std::time::Duration;

use weft_lab::net::NetNs;

use crate::support::{TestLab, ip_of};

const DEATHSTAR: &str = "image: quay.io/cilium/starwars:v2.1";

/// Every ship lands on every replica, on its own node and on the other.
fn ships_land(lab: &TestLab) {
    lab.deploy("deathstar", 2, DEATHSTAR);
    lab.deploy("ship", 2, "image: curlimages/curl");
    let (stars, ships) = (lab.pods("app=deathstar"), lab.pods("app=ship"));
    let node = |pod: &serde_json::Value| pod["spec"]["nodeName"].as_str().unwrap().to_owned();
    assert_ne!(node(&stars[0]), node(&stars[1]), "replicas are spread");
    assert_ne!(node(&ships[0]), node(&ships[1]), "replicas are spread");
    for ship in &ships {
        for star in &stars {
            let url = format!("http://{}/v1/request-landing", ip_of(star));
            let name = ship["metadata"]["name"].as_str().unwrap();
            let curl = [
                "exec",
                name,
                "--",
                "curl",
                "-sS",
                "--max-time",
                "5",
                "-X",
                "POST",
                &url,
            ];
            assert_eq!(
                lab.must(&curl),
                "Ship landed\n",
                "{name} to {}",
                ip_of(star)
            );
        }
    }
}

#[test]
fn pods_reach_pods_through_the_overlay() {
    let lab = TestLab::up(&["--routing", "vxlan"]);
    ships_land(&lab);
    let link = lab.must(&[
        "node",
        "kind-worker",
        "--",
        "ip",
        "-d",
        "link",
        "show",
        "weft_vxlan",
    ]);
    assert!(link.contains("vxlan id 42"), "{link}");
    assert!(link.contains("mtu 1450"), "{link}");
}

#[test]
fn pods_reach_pods_by_plain_routes() {
    let lab = TestLab::up(&["--routing", "native", "--nodes", "2"]);
    ships_land(&lab);
    let links = lab.must(&["node", "kind-worker", "--", "ip", "-o", "link"]);
    assert!(!links.contains("vxlan"), "{links}");
}

#[test]
fn the_world_answers_nodes_and_says_who_asked() {
    let lab = TestLab::up(&["--nodes", "1"]);
    let curl = [
        "node",
        "kind-worker",
        "--",
        "curl",
        "-sS",
        "http://203.0.113.10/hello",
    ];
    let answer: serde_json::Value = serde_json::from_str(&lab.must(&curl)).unwrap();
    assert_eq!(answer["hostname"], "world");
    assert_eq!(answer["path"], "/hello");
    assert!(
        answer["client"]
            .as_str()
            .unwrap()
            .starts_with("172.18.0.2:")
    );
}

#[test]
fn dns_answers_from_its_pod() {
    let lab = TestLab::up(&["--nodes", "1"]);
    let list = lab.must(&[
        "get",
        "pods",
        "-n",
        "kube-system",
        "-l",
        "k8s-app=kube-dns",
        "-o",
        "json",
    ]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let server = ip_of(&list["items"][0]).to_owned();
    let node = NetNs::open(&format!("{}-kind-worker", lab.name)).unwrap();
    // "kubernetes.default.svc.cluster.local", type A, as it goes over the wire.
    let mut query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in "kubernetes.default.svc.cluster.local".split('.') {
        query.push(label.len().try_into().unwrap());
        query.extend(label.as_bytes());
    }
    query.extend(b"\x00\x00\x01\x00\x01");
    let answer = node
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.send_to(&query, (server.as_str(), 53)).unwrap();
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).unwrap();
            answer[..length].to_vec()
        })
        .unwrap();
    assert_eq!(answer[..2], [0, 7], "the query's id");
    assert_eq!(answer[3] & 0x0f, 0, "no error");
    assert!(answer.ends_with(&[10, 96, 0, 1]), "{answer:?}");
}
