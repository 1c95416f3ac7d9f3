//! What a pod is: its processes, its files, its end.

use std::io::{BufRead, BufReader, Read, Write};

use crate::support::{TestLab, eventually, ip_of};

#[test]
fn a_command_in_a_pod_is_inside_in_every_way() {
    let lab = TestLab::up(&["--nodes", "1"]);
    lab.deploy(
        "ship",
        1,
        "image: curlimages/curl, env: [{name: COLOUR, value: red}]",
    );
    let pod = &lab.pods("app=ship")[0];
    let name = pod["metadata"]["name"].as_str().unwrap();

    assert_eq!(lab.exec("ship", &["hostname"]).output.trim(), name);
    assert_eq!(
        lab.exec("ship", &["sh", "-c", "echo $COLOUR"]).output,
        "red\n"
    );
    let addresses = lab
        .exec("ship", &["ip", "-br", "-4", "addr", "show", "eth0"])
        .output;
    assert!(addresses.contains(ip_of(pod)), "{addresses}");
    let resolver = lab.exec("ship", &["cat", "/etc/resolv.conf"]).output;
    assert!(resolver.contains("nameserver 10.96.0.10\n"), "{resolver}");
    assert!(resolver.contains("search default.svc.cluster.local svc.cluster.local"));
    let processes = lab.exec("ship", &["ls", "/proc"]).output;
    let numbers = processes.lines().filter(|name| name.parse::<u32>().is_ok());
    assert!(numbers.count() <= 4, "only the pod's own: {processes}");

    let input = lab.run_with(&["exec", "deploy/ship", "--", "tr", "a-z", "A-Z"], "hello");
    assert_eq!((input.code, input.output.as_str()), (0, "HELLO"));
    assert_eq!(lab.exec("ship", &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(lab.exec("ship", &["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(lab.exec("ship", &["no-such-program"]).code, 127);
    let nowhere = lab.run(&["exec", "nobody", "--", "true"]);
    assert!(nowhere.errors.contains("not found"), "{}", nowhere.errors);
}

#[test]
fn a_command_goes_to_the_pod_of_its_namespace() {
    let lab = TestLab::up(&["--nodes", "1"]);
    let ship = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: ship, namespace: {namespace}}}\nspec:\n\
             \x20 containers: [{{name: main, image: curlimages/curl, env: [{{name: SIDE, value: {namespace}}}]}}]\n"
        )
    };
    let rebels = "apiVersion: v1\nkind: Namespace\nmetadata: {name: rebels}\n";
    lab.apply(&[rebels, &ship("rebels"), &ship("default")].join("---\n"));
    let side = ["--", "sh", "-c", "echo $SIDE"];
    for (words, wanted) in [
        (&["exec", "-n", "rebels", "ship"][..], "rebels\n"),
        (&["exec", "--namespace", "default", "ship"], "default\n"),
        (&["exec", "ship"], "default\n"),
    ] {
        eventually(|| match lab.run(&[words, &side].concat()) {
            ran if ran.output == wanted => Ok(()),
            ran => Err(format!("{words:?}: {ran:?}")),
        });
    }
    let nowhere = lab.run(&["exec", "-n", "nobodys", "ship", "--", "true"]);
    assert_eq!(nowhere.code, 1);
    assert!(nowhere.errors.contains("not found"), "{}", nowhere.errors);
}

#[test]
fn a_deleted_pods_address_goes_to_the_next() {
    let lab = TestLab::up(&["--nodes", "1"]);
    lab.deploy("first", 1, "image: curlimages/curl");
    let before = lab.namespaces().len();
    let first = lab.pods("app=first")[0].clone();
    lab.must(&["delete", "deployment", "first"]);
    eventually(|| match lab.pods("app=first").len() {
        0 => Ok(()),
        _ => Err("the pod does not go".to_owned()),
    });
    assert_eq!(lab.namespaces().len(), before - 1, "its namespace is gone");
    let links = lab.must(&["node", "kind-worker", "--", "ip", "route"]);
    assert!(!links.contains(ip_of(&first)), "its route is gone: {links}");
    lab.deploy("second", 1, "image: curlimages/curl");
    assert_eq!(ip_of(&lab.pods("app=second")[0]), ip_of(&first));
}

#[test]
fn containers_start_again_as_their_policy_says() {
    let lab = TestLab::up(&["--nodes", "1"]);
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: once}\nspec:\n  restartPolicy: Never\n\
         \x20 containers: [{name: main, image: any, command: [sh, -c, 'echo done; exit 3']}]\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: again}\nspec:\n\
         \x20 containers: [{name: main, image: any, command: [sh, -c, 'exit 4']}]\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: unknown}\nspec:\n\
         \x20 containers: [{name: main, image: 'example.com/unknown:1'}]\n",
    );
    let container = |name: &str| {
        let pod = lab.get("pod", name);
        (
            pod["status"]["phase"].clone(),
            pod["status"]["containerStatuses"][0].clone(),
        )
    };
    let once = eventually(|| match container("once") {
        (phase, container) if phase == "Failed" => Ok(container),
        (phase, _) => Err(format!("once is {phase}")),
    });
    assert_eq!(once["state"]["terminated"]["exitCode"], 3);
    assert_eq!(once["restartCount"], 0);
    let again = eventually(|| match container("again").1 {
        container if container["restartCount"].as_i64() >= Some(1) => Ok(container),
        container => Err(format!("{container}")),
    });
    assert_eq!(again["lastState"]["terminated"]["exitCode"], 4);
    let unknown = eventually(
        || match container("unknown").1["state"]["waiting"].clone() {
            waiting if waiting["reason"] == "ErrImagePull" => Ok(waiting),
            waiting => Err(format!("{waiting}")),
        },
    );
    let message = unknown["message"].as_str().unwrap();
    assert!(message.contains("example.com/unknown:1"), "{message}");
}

#[test]
fn fortio_reports_on_the_echo_service() {
    let lab = TestLab::up(&["--nodes", "2"]);
    lab.deploy(
        "echo",
        1,
        "image: quay.io/cilium/json-mock, ports: [{containerPort: 8080}]",
    );
    lab.deploy("fortio", 1, "image: fortio/fortio");
    let url = format!("http://{}:8080", ip_of(&lab.pods("app=echo")[0]));
    let load = [
        "/usr/bin/fortio",
        "load",
        "-c",
        "2",
        "-qps",
        "0",
        "-n",
        "20",
        &url,
    ];
    let ran = lab.exec("fortio", &load);
    assert_eq!(ran.code, 0, "{}", ran.errors);
    assert!(
        ran.output.contains("\nCode 200 : 20 (100.0 %)\n"),
        "{}",
        ran.output
    );
    assert!(
        ran.output
            .contains("Sockets used: 2 (for perfect keepalive, would be 2)")
    );
    let failing = lab.exec(
        "fortio",
        &[
            "fortio",
            "load",
            "-c",
            "1",
            "-n",
            "4",
            "-qps",
            "0",
            &format!("{url}/status/503"),
        ],
    );
    assert!(
        failing.output.contains("Code 503 : 4 (100.0 %)"),
        "{}",
        failing.output
    );
}

#[test]
fn a_port_of_a_pod_is_reached_from_the_machine() {
    let lab = TestLab::up(&["--nodes", "1"]);
    lab.deploy(
        "star",
        1,
        "image: starwars, readinessProbe: {httpGet: {path: /v1/healthz, port: 80}}",
    );
    let answer = forwarded(&lab, "deploy/star", 80, "POST /v1/request-landing");
    assert!(answer.ends_with("Ship landed\n"), "{answer}");
}

#[test]
fn a_pod_in_its_nodes_network_is_reached_there() {
    let lab = TestLab::up(&["--nodes", "2"]);
    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: agent}\nspec:\n\
         \x20 selector: {app: agent}\n  ports: [{port: 443, targetPort: 8080}]\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: agent, labels: {app: agent}}\nspec:\n\
         \x20 hostNetwork: true\n  nodeName: kind-worker2\n\
         \x20 containers: [{name: main, image: json-mock, ports: [{containerPort: 8080}]}]\n",
    );
    eventually(|| {
        let status = lab.get("pod", "agent")["status"].take();
        match status["containerStatuses"][0]["ready"] == true {
            true => Ok(()),
            false => Err(format!("it does not serve: {status}")),
        }
    });
    let node = lab.get("pod", "agent")["status"]["hostIP"].take();
    eventually(|| {
        let subset = lab.get("endpoints", "agent")["subsets"][0].take();
        match subset["addresses"][0]["ip"] == node && subset["ports"][0]["port"] == 8080 {
            true => Ok(()),
            false => Err(format!("not the node's endpoint: {subset}")),
        }
    });
    let answer = forwarded(&lab, "agent", 8080, "GET /");
    assert!(answer.contains("\"hostname\":\"kind-worker2\""), "{answer}");
}

/// What a port of a pod answers to a request, through `weft-lab port-forward`.
fn forwarded(lab: &TestLab, target: &str, port: u16, request: &str) -> String {
    /// Ends the forwarding with the test.
    struct Forward(std::process::Child);
    impl Drop for Forward {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    let ports = format!("0:{port}");
    let mut forward = Forward(
        std::process::Command::new(env!("CARGO_BIN_EXE_weft-lab"))
            .args(["--name", &lab.name, "port-forward", target, &ports])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    let mut output = BufReader::new(forward.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let address = line.split(' ').nth(2).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head =
        format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
