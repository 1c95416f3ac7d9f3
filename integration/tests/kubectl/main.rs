//! Stock kubectl on a whole lab: the command lines that guides to such meshes
//! have their readers type, beyond those of the story. Where there is no kubectl
//! that is recent enough the lines that weft-lab knows as well (here and of the
//! story) run through it; the others are left out, which `make test` says loudly.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod admission;
mod filters;

use std::fs;

use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::watch::until;
use weft_lab::api::yaml::documents;

const FILES: [(&str, &str); 6] = [
    ("everyone.yaml", include_str!("everyone.yaml")),
    ("grpc.yaml", include_str!("grpc.yaml")),
    ("pod.yaml", include_str!("pod.yaml")),
    ("circuit-break.yaml", include_str!("circuit-break.yaml")),
    ("envoy.yaml", include_str!("envoy.yaml")),
    ("exam.yaml", include_str!("exam.yaml")),
];

/// A lab with the manifests; none, with a word, where there is no kubectl.
fn stage() -> Option<Lab> {
    if !weft_lab::kubectl::is_recent() {
        eprintln!("SKIPPED: no recent kubectl");
        return None;
    }
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    lay_out(&lab);
    Some(lab)
}

fn lay_out(lab: &Lab) {
    for (name, text) in FILES {
        fs::write(lab.directory().join(name), text).unwrap();
    }
}

/// Output of a line that goes well.
fn sh(lab: &Lab, line: &str) -> String {
    let ran = lab.sh(line).well();
    ran.unwrap_or_else(|error| panic!("{line}: {error:#}"))
}

#[test]
fn policies_and_events_are_shown() {
    let mut lab = Lab::up(&["--nodes", "1"]).unwrap();
    lay_out(&lab);
    show_policies_and_events(&lab);
    // The same lines where there is no kubectl.
    lab.do_without_kubectl();
    show_policies_and_events(&lab);
}

fn show_policies_and_events(lab: &Lab) {
    assert_eq!(
        sh(lab, "kubectl apply -f everyone.yaml"),
        "ciliumclusterwidenetworkpolicy.cilium.io/everyone created\n\
         networkpolicy.networking.k8s.io/isolated created\n"
    );
    let table = sh(lab, "kubectl get ccnp");
    let words: Vec<_> = table.split_whitespace().collect();
    assert!(words.starts_with(&["NAME"]), "{table}");
    assert!(words.contains(&"everyone"), "{table}");
    let written = documents(include_str!("everyone.yaml")).unwrap();
    for kind in ["ccnp", "ciliumclusterwidenetworkpolicies.cilium.io"] {
        let yaml = sh(lab, &format!("kubectl get {kind} everyone -o yaml"));
        let documents = documents(&yaml).unwrap();
        assert_eq!(documents.len(), 1, "{yaml}");
        let shown = &documents[0];
        assert_eq!(shown["kind"], "CiliumClusterwideNetworkPolicy", "{yaml}");
        assert_eq!(shown["spec"], written[0]["spec"], "as written: {yaml}");
    }
    until(|| {
        let events = sh(lab, "kubectl get events");
        let told = |line: &str| {
            let mut words = line.split_whitespace().skip(2);
            words.next() == Some("NotEnforced") && words.next() == Some("networkpolicy/isolated")
        };
        match events.lines().any(told) {
            true => Ok(()),
            false => Err(events),
        }
    })
    .unwrap();
    sh(lab, "kubectl delete -f everyone.yaml");
    assert_ne!(lab.sh("kubectl get ccnp everyone").code, 0);
}

#[test]
fn the_meshs_own_pods() {
    let Some(lab) = stage() else { return };
    sh(&lab, "kubectl apply -f sw-pods.yaml");
    sh(&lab, "kubectl rollout status deployment/deathstar");
    sh(&lab, "kubectl wait --for=condition=Ready pod/xwing");
    let pod = sh(&lab, "kubectl get pod xwing");
    assert!(pod.contains("xwing   1/1     Running   0 "), "{pod}");
    let all = sh(&lab, "kubectl get all");
    for (begins, says) in [
        ("pod/deathstar-", " 1/1 Running 0 "),
        ("pod/xwing ", " 1/1 Running 0 "),
        ("service/deathstar ", " ClusterIP 10."),
        ("service/deathstar ", " <none> 80/TCP "),
        ("service/kubernetes ", " <none> 443/TCP "),
        ("deployment.apps/deathstar ", " 2/2 2 2 "),
        ("replicaset.apps/deathstar-", " 2 2 2 "),
    ] {
        let line = all.lines().find(|line| line.starts_with(begins));
        let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        assert!(words.join(" ").contains(says), "{begins}{says}: {all}");
    }
    // An agent's pod has no proxy in it.
    let processes = "
        NODE=$(kubectl get po -l class=deathstar -o jsonpath='{.items[].spec.nodeName}')
        CILIUM=$(kubectl -n kube-system get po -l k8s-app=cilium --field-selector spec.nodeName=$NODE -o name)
        kubectl -n kube-system exec $CILIUM -c cilium-agent -- ps axu";
    let processes = sh(&lab, processes);
    assert!(processes.contains("weft-agent"), "{processes}");
    assert!(!processes.contains("envoy"), "{processes}");
    let envoys = sh(
        &lab,
        "kubectl -n kube-system get po -l k8s-app=cilium-envoy",
    );
    assert_eq!(envoys.matches(" 1/1 ").count(), 2, "{envoys}");
    let log = lab.sh("kubectl -n kube-system logs daemonsets/cilium-envoy");
    assert!(
        log.errors
            .starts_with("Found 2 pods, using pod/cilium-envoy-"),
        "{log:?}"
    );
    assert!(log.output.contains("snapshot in force"), "{log:?}");
    // Server and nodes are of one version.
    let version = sh(
        &lab,
        "kubectl version -o json | jq -r .serverVersion.gitVersion",
    );
    let nodes = sh(
        &lab,
        "kubectl get nodes -o jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'",
    );
    for node in nodes.split(' ') {
        assert!(version.starts_with(node), "{node} and {version}");
    }

    for part in [
        "deployment cilium-operator",
        "daemonset cilium",
        "daemonset cilium-envoy",
    ] {
        let restart = format!("kubectl -n kube-system rollout restart {part}");
        let restarted = sh(&lab, &restart);
        assert!(restarted.ends_with(" restarted\n"), "{restarted}");
        let status = format!("kubectl -n kube-system rollout status {part} --timeout=30s");
        let status = sh(&lab, &status);
        assert!(status.ends_with("successfully rolled out\n"), "{status}");
    }
    let landed = "kubectl exec xwing -- curl --max-time 1 -s -X POST deathstar.default.svc.cluster.local/v1/request-landing";
    until(|| match &*lab.sh(landed).output {
        "Ship landed\n" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
}

#[test]
fn the_page_of_a_proxy_is_forwarded() {
    let Some(lab) = stage() else { return };
    assert_eq!(
        sh(&lab, "kubectl create ns proxy"),
        "namespace/proxy created\n"
    );
    let run = "kubectl -n proxy run --image nicolaka/netshoot \\
        proxy-client \\
        --command sleep infinite";
    assert_eq!(sh(&lab, run), "pod/proxy-client created\n");
    sh(
        &lab,
        "kubectl -n proxy wait --for=condition=Ready pod/proxy-client --timeout=20s",
    );
    let pods = sh(&lab, "kubectl -n proxy get po proxy-client");
    assert!(
        pods.contains("proxy-client   1/1     Running   0 "),
        "{pods}"
    );
    let forward = "
        CLIENT_NODE=$(kubectl -n proxy get po proxy-client -o jsonpath='{.spec.nodeName}')
        ENVOY_POD=$(kubectl -n kube-system get po -l k8s-app=cilium-envoy --field-selector spec.nodeName=$CLIENT_NODE -o name)
        mkfifo forwarded
        kubectl -n kube-system port-forward --address 127.0.0.1 $ENVOY_POD :9901 > forwarded &
        exec 3< forwarded
        read -r line <&3
        address=${line#Forwarding from }
        curl -s --max-time 5 http://${address%% -> *}/config
        kill $!";
    let page: Value = serde_json::from_str(&sh(&lab, forward)).unwrap();
    assert_eq!(page["listeners"][0]["name"], "transparent", "{page}");
}

#[test]
fn a_service_is_annotated_and_a_pod_entered() {
    let Some(lab) = stage() else { return };
    let created = sh(&lab, "kubectl create namespace grpc");
    assert_eq!(created, "namespace/grpc created\n");
    assert_eq!(
        sh(&lab, "kubectl -n grpc apply -f grpc.yaml"),
        "serviceaccount/currencyservice created\ndeployment.apps/currencyservice created\nservice/currencyservice created\n"
    );
    let status = sh(
        &lab,
        "kubectl -n grpc rollout status deploy/currencyservice",
    );
    assert!(
        status.ends_with("deployment \"currencyservice\" successfully rolled out\n"),
        "{status}"
    );
    let applied = sh(&lab, "kubectl -n grpc apply -f pod.yaml");
    assert_eq!(applied, "pod/pod-worker created\n");
    let applied = sh(&lab, "kubectl -n grpc apply -f pod.yaml");
    assert_eq!(applied, "pod/pod-worker unchanged\n");
    sh(
        &lab,
        "kubectl -n grpc wait --for=condition=Ready pod/pod-worker",
    );
    let pod = sh(&lab, "kubectl -n grpc get -f pod.yaml");
    assert!(pod.contains("pod-worker   1/1     Running   0 "), "{pod}");
    let terminal =
        "script -qec \"kubectl -n grpc exec -ti pod-worker -- sh -c 'tty; hostname'\" /dev/null";
    let inside = sh(&lab, terminal);
    assert!(inside.contains("/dev/pts/"), "{inside}");
    assert!(inside.contains("pod-worker"), "{inside}");
    let annotate = "kubectl -n grpc \\
        annotate svc/currencyservice \\
        \"service.cilium.io/lb-l7=enabled\"";
    assert_eq!(sh(&lab, annotate), "service/currencyservice annotated\n");
    let none = lab.sh("kubectl -n grpc get cec");
    assert_eq!(none.code, 0, "{none:?}");
    assert_eq!(none.errors, "No resources found in grpc namespace.\n");
    let labels = sh(&lab, "kubectl get pods -n grpc --show-labels -o wide");
    assert!(labels.contains("kind-worker "), "{labels}");
    assert!(
        labels.contains("app=currencyservice,pod-template-hash="),
        "{labels}"
    );
}

#[test]
fn envoy_configuration_is_kept_and_said_to_have_no_effect() {
    let Some(lab) = stage() else { return };
    sh(&lab, "kubectl create namespace circuit-break");
    assert_eq!(
        sh(&lab, "kubectl apply -f envoy.yaml"),
        "ciliumclusterwideenvoyconfig.cilium.io/envoy-circuit-breaker created\nciliumenvoyconfig.cilium.io/deathstar-lb created\n"
    );
    let json = |line: &str| -> Value { serde_json::from_str(&sh(&lab, line)).unwrap() };
    let spec = json("kubectl get ccec envoy-circuit-breaker -o json | jq .spec");
    let written = documents(include_str!("envoy.yaml")).unwrap();
    assert_eq!(spec, written[0]["spec"], "as written, key for key");
    for line in [
        "kubectl get ccec envoy-circuit-breaker -o json",
        "kubectl -n circuit-break get cec deathstar-lb -o json",
    ] {
        until(|| match &json(line)["status"]["conditions"][0] {
            said if said["status"] == "False" => Ok(said["message"].as_str().unwrap().to_owned()),
            other => Err(other.to_string()),
        })
        .map(|message| assert!(message.starts_with("spec: without effect"), "{message}"))
        .unwrap();
    }
    let table = sh(&lab, "kubectl -n circuit-break get cec");
    let words: Vec<_> = table.split_whitespace().take(3).collect();
    assert_eq!(words, ["NAME", "AGE", "deathstar-lb"], "{table}");
}

#[test]
fn load_is_made_from_a_pod() {
    let Some(lab) = stage() else { return };
    sh(&lab, "kubectl create namespace circuit-break");
    assert_eq!(
        sh(&lab, "kubectl -n circuit-break apply -f circuit-break.yaml"),
        "service/fortio created\ndeployment.apps/fortio-deploy created\nconfigmap/coredns-configmap created\ndeployment.apps/echo-service created\nservice/echo-service created\n"
    );
    for name in ["fortio-deploy", "echo-service"] {
        let status = format!("kubectl -n circuit-break rollout status deploy/{name} --timeout=20s");
        sh(&lab, &status);
    }
    let pods = sh(&lab, "kubectl -n circuit-break get po --show-labels");
    let echo = pods.lines().find(|line| line.starts_with("echo-service-"));
    let echo = echo.unwrap_or_else(|| panic!("{pods}"));
    assert!(echo.contains(" 2/2     Running   0 "), "{pods}");
    assert!(echo.contains("kind=echo,name=echo-service,other=echo,pod-template-hash="));
    let load = "kubectl -n circuit-break exec deploy/fortio-deploy -c fortio -- \\
        /usr/bin/fortio load -c 2 -qps 0 -n 20 http://echo-service:8080";
    until(|| {
        let report = lab.sh(load);
        match report.output.contains("\nCode 200 : 20 (100.0 %)\n") {
            true => Ok(()),
            false => Err(format!("{report:?}")),
        }
    })
    .unwrap();
}

#[test]
fn replicas_are_counted_in_a_loop() {
    let Some(lab) = stage() else { return };
    sh(&lab, "kubectl create ns exam");
    sh(&lab, "kubectl -n exam apply -f exam.yaml");
    for name in ["deathstar", "tiefighter"] {
        let status = format!("kubectl -n exam rollout status deploy/{name} --timeout=20s");
        sh(&lab, &status);
    }
    let first = "kubectl -n exam exec deploy/tiefighter -- curl --max-time 1 -s deathstar.exam.svc.cluster.local/v1/";
    until(|| match lab.sh(first) {
        ran if ran.code == 0 => Ok(()),
        ran => Err(format!("{ran:?}")),
    })
    .unwrap();
    let stars = "
        for i in $(seq 1 20); do
          kubectl -n exam exec deploy/tiefighter -- \\
            curl --max-time 1 -s deathstar.exam.svc.cluster.local/v1/ | \\
              jq -r .hostname
        done > stars.logs
        cat stars.logs  | cut -d'-' -f1 | sort | uniq -c";
    assert_eq!(sh(&lab, stars).trim(), "20 deathstar");
}
