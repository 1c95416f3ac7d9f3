use super::*;
use serde_json::json;

fn program(container: serde_json::Value) -> Result<Program, UnknownImage> {
    let plan = Plan::new("weft", 2, Routing::Vxlan).unwrap();
    let state = StateDir::of("weft");
    let machine = Machine {
        plan: &plan,
        state: &state,
        exe: Path::new("/bin/weft-lab"),
        bin_dir: Path::new("/bin"),
        relay: "127.0.0.1:4245".parse().unwrap(),
    };
    let container = serde_json::from_value(container).unwrap();
    machine.program(&container, &plan.nodes[1])
}

fn argv(container: serde_json::Value) -> String {
    match program(container).unwrap() {
        Program::Process { argv, .. } => argv
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" "),
        Program::Dns => "dns".to_owned(),
    }
}

#[test]
fn registries_and_tags_do_not_matter() {
    assert_eq!(short_name("quay.io/cilium/starwars:v2.1"), "starwars");
    assert_eq!(short_name("localhost:5000/fortio@sha256:00"), "fortio");
    assert_eq!(
        argv(json!({"name": "c", "image": "docker.io/cilium/starwars"})),
        "/bin/weft-lab app deathstar --listen 0.0.0.0:80"
    );
}

#[test]
fn ports_come_from_the_manifest() {
    let ports = json!([{"containerPort": 9090}]);
    assert_eq!(
        argv(json!({"name": "c", "image": "json-mock", "ports": ports})),
        "/bin/weft-lab app echo --listen 0.0.0.0:9090"
    );
    let env = json!([{"name": "PORT", "value": "7000"}]);
    assert_eq!(
        argv(json!({"name": "c", "image": "json-mock", "ports": ports, "env": env})),
        "/bin/weft-lab app echo --listen 0.0.0.0:7000"
    );
}

#[test]
fn commands_run_as_they_are_and_unknown_images_are_refused() {
    let container = json!({"name": "c", "image": "x/y", "command": ["sh", "-c"], "args": ["true"]});
    assert_eq!(argv(container), "sh -c true");
    assert_eq!(
        argv(json!({"name": "c", "image": "curlimages/curl", "args": ["sleep", "9"]})),
        "sleep 9"
    );
    let unknown = program(json!({"name": "c", "image": "x/y:1"}));
    assert_eq!(unknown, Err(UnknownImage("x/y:1".to_owned())));
}

#[test]
fn a_probe_says_when_a_container_is_ready() {
    let ready = |container| match program(container).unwrap() {
        Program::Process { ready, .. } => ready,
        Program::Dns => panic!("not a process"),
    };
    let http = json!({
        "name": "c", "image": "json-mock", "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ok", "port": "web"}},
    });
    let path = Some("/ok".to_owned());
    assert_eq!(ready(http), ReadyWhen::Serves { port: 8080, path });
    let tcp = json!({
        "name": "c", "image": "x", "command": ["nc"],
        "readinessProbe": {"tcpSocket": {"port": 9}},
    });
    assert_eq!(
        ready(tcp),
        ReadyWhen::Serves {
            port: 9,
            path: None
        }
    );
    let none = json!({"name": "c", "image": "x", "command": ["nc"]});
    assert_eq!(ready(none), ReadyWhen::Started);
}

#[test]
fn what_has_no_effect_is_named() {
    let pod = |spec| Pod {
        spec: serde_json::from_value(spec).unwrap(),
        ..Pod::default()
    };
    let plain = pod(json!({"containers": [{"name": "c"}]}));
    assert!(not_provided(&plain).is_empty());
    let odd = pod(json!({
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "c", "readinessProbe": {"exec": {"command": ["x"]}}}],
    }));
    assert_eq!(
        not_provided(&odd),
        ["initContainers", "exec and gRPC readinessProbe"]
    );
}

#[test]
fn the_agent_gets_everything_of_its_node() {
    let line = argv(json!({"name": "cilium-agent", "image": AGENT_IMAGE}));
    for part in [
        "/bin/weft-agent run --node kind-worker2 --kubeconfig /run/weft-lab/weft/kubeconfig",
        "--pin-dir /sys/fs/bpf/weft/weft-kind-worker2 ",
        "--control-socket /run/weft-lab/weft/kind-worker2/control.sock",
        "--module-dir /filters",
        "--uplink eth0",
        "--conntrack-entries 16384 --nat-entries 8192 --overlay weft_vxlan",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn the_operator_judges_with_the_modules_that_agents_load() {
    let line = argv(json!({"name": "cilium-operator", "image": OPERATOR_IMAGE}));
    assert_eq!(
        line,
        "/bin/weft-agent operator --kubeconfig /run/weft-lab/weft/kubeconfig \
         --module-dir /filters"
    );
}

#[test]
fn only_the_relay_is_on_the_machine() {
    let on = |image: &str, host: bool| {
        let containers = json!([{"name": "c", "image": image}]);
        host_network(&Pod {
            spec: serde_json::from_value(json!({"hostNetwork": host, "containers": containers}))
                .unwrap(),
            ..Pod::default()
        })
    };
    assert_eq!(on(RELAY_IMAGE, true), Some(HostNetwork::Machine));
    for image in [AGENT_IMAGE, PROXY_IMAGE, OPERATOR_IMAGE] {
        assert_eq!(on(image, true), Some(HostNetwork::Node), "{image}");
    }
    assert_eq!(on(RELAY_IMAGE, false), None);
}
