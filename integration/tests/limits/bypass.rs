//! Ways round.

use serde_json::{Value, json};
use weft_integration::lab::Ran;
use weft_integration::watch::until;

use crate::world::{CLIENTS, LOAD, SERVERS, World};

/// Sends bytes to the server's port with rules; what came back, and how it ended.
fn raw(world: &World, pod: &str, port: u16, text: &str) -> (String, String) {
    let to = format!("{}:{port}", world.server);
    let output = world
        .lab
        .exec(pod, &[LOAD, "raw", &to, text])
        .well()
        .unwrap();
    let (answer, end) = output
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", output.trim_end()));
    let end = end.split(' ').nth(1).unwrap_or_default();
    (answer.to_owned(), end.to_owned())
}

#[test]
fn other_protocols_do_not_pass_a_port_with_http_rules() {
    let world = World::policed();
    for pod in ["friend", "neighbour"] {
        for (what, text) in [
            ("TLS", r"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"),
            ("SSH", r"SSH-2.0-OpenSSH_9.2\r\n"),
            ("zeros", r"\0\0\0\0\0\0\0\0"),
            ("a request of another age", r"GET /\r\n\r\n"),
        ] {
            let (answer, end) = raw(&world, pod, 8080, text);
            // The server itself would answer 200 to almost anything.
            assert!(!answer.contains("200 OK"), "{what} from {pod}: {answer}");
            assert!(
                ["closed", "reset"].contains(&&*end),
                "{what} from {pod} ends with {end:?}"
            );
        }
        let from = format!("default/{pod}");
        let l7 = [
            "--from-pod",
            &from,
            "--type",
            "l7",
            "--verdict",
            "DROPPED",
            "--last",
            "200",
        ];
        let refused = world
            .lab
            .until_flows(&l7, |flows| {
                let flows = flows
                    .iter()
                    .filter(|flow| flow["l7"]["http"]["method"] != "POST");
                let refused: Vec<_> = flows.cloned().collect();
                (refused.len() >= 4).then_some(refused)
            })
            .unwrap();
        for flow in refused {
            eprintln!("{pod}: {}", flow["Summary"]);
            assert_eq!(flow["source"]["pod_name"], pod, "{flow}");
            assert_eq!(flow["destination"]["pod_name"], "http", "{flow}");
            assert_ne!(flow["Summary"], "", "{flow}");
            // A request has headers; what is none is not shown as one.
            let http = &flow["l7"]["http"];
            assert!(http.is_null() || http["headers"].is_array(), "{flow}");
        }
        // The kernel's port takes any bytes.
        let (answer, _) = raw(&world, pod, 8081, r"NONSENSE / HTTP/1.1\r\n\r\n");
        assert!(answer.contains("200 OK"), "{answer}");
    }
}

/// Ports that only forged packets are sent from: below those that the kernel picks.
const FORGERS: std::ops::Range<u64> = 2000..2100;

/// Flows of forged packets with this verdict, whoever they are said to be from.
fn forgeries(flows: &[Value], verdict: &str) -> Vec<Value> {
    let forged = |flow: &&Value| {
        let port = flow["l4"]["TCP"]["source_port"].as_u64();
        port.is_some_and(|port| FORGERS.contains(&port)) && flow["verdict"] == verdict
    };
    flows.iter().filter(forged).cloned().collect()
}

#[test]
fn a_forged_source_is_dropped() {
    let world = World::policed();
    let friend = world.friend.to_string();
    let forgers = format!("{}-{}", FORGERS.start, FORGERS.end - 1);
    let tries = [
        (&*friend, "8080"),
        (&*friend, "8081"),
        ("10.244.2.200", "8081"),
        ("172.18.0.3", "8081"),
    ];
    for (forged, port) in tries {
        let address = format!("{forged}/32");
        world
            .lab
            .exec(
                "stranger",
                &["ip", "addr", "replace", &address, "dev", "lo"],
            )
            .well()
            .unwrap();
        let url = format!("http://{}:{port}/", world.server);
        let curl = [
            "curl",
            "-s",
            "--max-time",
            "0.5",
            "--interface",
            forged,
            "--local-port",
            &forgers,
            &url,
        ];
        let ran = world.lab.exec("stranger", &curl);
        assert_eq!(
            (ran.code, &*ran.output),
            (28, ""),
            "{forged} {}",
            ran.errors
        );
    }
    // The packets were dropped where they were sent, each with its reason.
    for (forged, port) in tries {
        let words = ["--from-ip", forged, "--to-port", port, "--last", "1000"];
        let dropped = world
            .lab
            .until_flows(&words, |flows| forgeries(flows, "DROPPED").pop())
            .unwrap();
        assert_eq!(
            dropped["drop_reason_desc"], "INVALID_SOURCE_IP",
            "{dropped}"
        );
        assert_eq!(dropped["IP"]["source"], forged, "{dropped}");
        // And none went on, on this node or the server's.
        let flows = world.lab.flows(&words).unwrap();
        assert_eq!(forgeries(&flows, "FORWARDED"), Vec::<Value>::new());
    }
}

#[test]
fn ipv6_is_no_way_round() {
    let world = World::open();
    let node = |command: &[&str]| world.lab.node(SERVERS, command).well().unwrap();
    node(&["sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1"]);
    // A way by IPv6 between two pods of a node.
    for (pod, address) in [("http", "fd00::a"), ("neighbour", "fd00::b")] {
        let [ip] = world.lab.ready([pod]).unwrap();
        let route = node(&["ip", "-o", "route", "get", &ip.to_string()]);
        let veth = route
            .split(" dev ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .unwrap();
        let inside = |command: &[&str]| world.lab.exec(pod, command).well().unwrap();
        let prefixed = format!("{address}/128");
        inside(&["ip", "-6", "addr", "add", &prefixed, "dev", "eth0", "nodad"]);
        node(&[
            "ip",
            "-6",
            "addr",
            "replace",
            "fe80::1/64",
            "dev",
            veth,
            "nodad",
        ]);
        inside(&[
            "ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "eth0",
        ]);
        node(&["ip", "-6", "route", "replace", address, "dev", veth]);
    }
    let ask = |port: &str| -> Ran {
        let url = format!("http://[fd00::a]:{port}/");
        world
            .lab
            .exec("neighbour", &["curl", "-s", "--max-time", "1", &url])
    };
    let before = ask("8081");
    assert_eq!(
        before.output, "0\n",
        "without a policy it is a way: {before:?}"
    );
    let ports = [(8080, Some("GET")), (8081, None)];
    let rules = weft_integration::pods::policy("http", ("app", "http"), ("side", "friend"), &ports);
    world.lab.apply(&[rules]).unwrap();
    world.until_curl("friend", 8080, &["-X", "POST"], "Access denied");
    for port in ["8080", "8081"] {
        let after = ask(port);
        assert_eq!((after.code, &*after.output), (28, ""), "{after:?}");
    }
    let flow = world.until_dropped(&[], "UNSUPPORTED_L3_PROTOCOL");
    assert_eq!(flow["IP"]["ipVersion"], "IPv6", "{flow}");
    // And by IPv4 it is what it was.
    world.until_curl("neighbour", 8080, &[], "0\n");
}

#[test]
fn pods_cannot_use_the_meshs_own_ports() {
    let world = World::policed();
    // A packet as from another node, which would be believed.
    let inject = "echo forged > /dev/udp/172.18.0.3/8472";
    world
        .lab
        .exec("stranger", &["bash", "-c", inject])
        .well()
        .unwrap();
    world.until_dropped(
        &["--from-pod", "default/stranger"],
        "ENCAPSULATION_TRAFFIC_IS_PROHIBITED",
    );
    // The proxy's listener, from a pod of its node.
    for to in ["172.18.0.3:15001", "127.0.0.1:15001"] {
        let output = world
            .lab
            .exec("stranger", &[LOAD, "raw", to, r"GET / HTTP/1.1\r\n\r\n"])
            .well()
            .unwrap();
        let end = output.trim_end().rsplit(' ').next().unwrap_or_default();
        assert!(
            ["refused", "timeout", "reset"].contains(&end),
            "{to}: {output}"
        );
    }
}

#[test]
fn flows_are_not_for_pods() {
    let world = World::open();
    let weft = weft_integration::programs::find("weft").unwrap();
    let weft = weft.to_str().unwrap();
    for observed in [SERVERS, CLIENTS] {
        let node = world.lab.get("node", observed).unwrap();
        let address = node["status"]["addresses"][0]["address"].as_str().unwrap();
        let status = [weft, "status", "--server", &format!("{address}:4244")];
        for node in [SERVERS, CLIENTS] {
            world.lab.node(node, &status).well().unwrap();
        }
        // One of them comes with the address of its node.
        for pod in ["friend", "neighbour"] {
            let asked = world.lab.exec(pod, &status);
            assert_ne!(asked.code, 0, "{pod} of {observed}: {}", asked.output);
            assert!(!asked.output.contains("Flows"), "{pod}: {}", asked.output);
        }
        let admin = world.lab.state().join(observed).join("agent-admin.sock");
        let mut curl = std::process::Command::new("curl");
        let curl = curl.args(["-s", "http://agent/metrics", "--unix-socket"]);
        let counted = curl.arg(admin).output().unwrap().stdout;
        let counted = String::from_utf8(counted).unwrap();
        for reason in ["pod", "masqueraded"] {
            let line = format!("refused_peers_total{{reason=\"{reason}\"}}");
            assert!(counted.contains(&line), "{line} in {counted}");
        }
    }
    // Nor by way of the proxy, which comes with the address of its node.
    let rules = json!([{
        "ports": [{"port": "4244", "protocol": "TCP"}], "rules": {"http": [{}]},
    }]);
    let policy = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "ask"},
        "spec": {
            "endpointSelector": {"matchLabels": {"side": "friend"}},
            "egress": [{"toEntities": ["host", "remote-node"], "toPorts": rules}],
        },
    });
    world.lab.apply(&[policy]).unwrap();
    for observed in [SERVERS, CLIENTS] {
        let node = world.lab.get("node", observed).unwrap();
        let address = node["status"]["addresses"][0]["address"].as_str().unwrap();
        let status = [weft, "status", "--server", &format!("{address}:4244")];
        let from = [
            "--from-pod",
            "default/friend",
            "--type",
            "l7",
            "--last",
            "200",
        ];
        until(|| {
            let asked = world.lab.exec("friend", &status);
            assert_ne!(asked.code, 0, "{observed}: {}", asked.output);
            let flows = world.lab.flows(&from).map_err(|error| error.to_string())?;
            let refused = flows.iter().any(|flow| {
                let summary = flow["Summary"].as_str().unwrap_or_default();
                summary.contains("not for pods") && flow["IP"]["destination"] == address
            });
            refused
                .then_some(())
                .ok_or_else(|| format!("{asked:?}, {flows:?}"))
        })
        .unwrap();
    }
}
