//! Stock kubectl against the API: the command lines that users of the mesh type.

use serde_json::{Value, json};

use crate::harness::Kubectl;
use crate::hook::{Hook, Reply};

const SHIPS: &str = include_str!("ships.yaml");
const RULES: &str = include_str!("rules.yaml");
const SYSTEM: &str = include_str!("system.yaml");

/// The columns before AGE, of every line.
fn columns(table: &str, count: usize) -> Vec<String> {
    table
        .lines()
        .map(|l| {
            l.split_whitespace()
                .take(count)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[tokio::test]
async fn ships_are_applied_shown_and_entered() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    k.file("ships.yaml", SHIPS);
    assert_eq!(
        k.run("apply -f ships.yaml").await,
        "service/deathstar created\ndeployment.apps/deathstar created\npod/tiefighter created\npod/xwing created\n"
    );
    assert_eq!(
        k.run("rollout status deployment/deathstar")
            .await
            .lines()
            .last(),
        Some("deployment \"deathstar\" successfully rolled out")
    );
    let all = k.run("get all").await;
    let count = |prefix: &str| all.lines().filter(|l| l.starts_with(prefix)).count();
    assert_eq!(count("pod/deathstar-"), 2, "{all}");
    assert_eq!(count("replicaset.apps/deathstar-"), 1, "{all}");
    assert!(
        all.contains("service/kubernetes   ClusterIP   10.96.0.1 "),
        "{all}"
    );
    k.run("wait --for=condition=Ready pod/xwing --timeout=20s")
        .await;
    assert_eq!(
        columns(&k.run("get pod xwing").await, 4),
        ["NAME READY STATUS RESTARTS", "xwing 1/1 Running 0"]
    );
    let (code, told) = k
        .fail("exec xwing -- sh -c 'echo on $POD >&2; exit 28'")
        .await;
    assert_eq!(
        (code, told.as_str()),
        (28, "on xwing\ncommand terminated with exit code 28")
    );
    assert_eq!(
        k.feed("exec -i tiefighter -- tr a-z A-Z", "ship landed\n")
            .await,
        "SHIP LANDED\n"
    );
    assert!(
        k.run("exec deploy/deathstar -- sh -c 'echo $POD'")
            .await
            .starts_with("deathstar-")
    );
    assert_eq!(
        k.run("exec xwing -- head -c 3000000 /dev/zero").await.len(),
        3_000_000
    );
    let (code, told) = k.fail("exec xwing -- /not/there").await;
    assert!(code == 1 && told.contains("/not/there"), "{code} {told}");
    let labels = k
        .run("get pods -n default --show-labels -o wide -l class=xwing")
        .await;
    assert!(labels.contains("class=xwing,org=alliance"), "{labels}");
    let nodes = k
        .run("get po -l class=deathstar -o jsonpath='{.items[*].spec.nodeName}'")
        .await;
    let mut nodes: Vec<&str> = nodes.split(' ').collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["kind-worker", "kind-worker2"]);
    let described = k.run("describe pod xwing").await;
    assert!(
        described.contains("Successfully assigned default/xwing to kind-worker"),
        "{described}"
    );
    assert_eq!(k.run("delete pod xwing").await, "pod \"xwing\" deleted\n");
    let (_, told) = k.fail("get pod xwing").await;
    assert_eq!(
        told,
        "Error from server (NotFound): pods \"xwing\" not found"
    );
}

#[tokio::test]
async fn manifests_are_applied_again_without_harm() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    k.file("ships.yaml", SHIPS);
    k.run("apply -f ships.yaml").await;
    let unchanged = k.run("apply -f ships.yaml").await;
    assert_eq!(unchanged.lines().count(), 4, "{unchanged}");
    assert!(
        unchanged.lines().all(|l| l.ends_with(" unchanged")),
        "{unchanged}"
    );
    k.run("diff -f ships.yaml").await;
    let before: Value =
        serde_json::from_str(&k.run("get deploy deathstar -o json").await).expect("JSON");
    k.file(
        "more.yaml",
        &SHIPS
            .replace("value: two", "value: three")
            .replace("replicas: 2", "replicas: 3"),
    );
    let changed = k.run("apply -f more.yaml").await;
    assert!(
        changed.contains("deployment.apps/deathstar configured"),
        "{changed}"
    );
    let after: Value =
        serde_json::from_str(&k.run("get deploy deathstar -o json").await).expect("JSON");
    let mut expected = before["spec"].clone();
    expected["replicas"] = 3.into();
    expected["template"]["spec"]["containers"][0]["env"][1]["value"] = "three".into();
    assert_eq!(after["spec"], expected);
    assert!(!after["spec"].to_string().contains('$'));
    let address = k
        .run("get svc deathstar -o jsonpath={.spec.clusterIP}")
        .await;
    let served = k
        .run("apply --server-side -f ships.yaml --force-conflicts")
        .await;
    assert_eq!(served.lines().count(), 4, "{served}");
    assert!(
        served.lines().all(|l| l.ends_with(" serverside-applied")),
        "{served}"
    );
    let back: Value =
        serde_json::from_str(&k.run("get deploy deathstar -o json").await).expect("JSON");
    assert_eq!(back["spec"], before["spec"]);
    assert_eq!(
        k.run("get svc deathstar -o jsonpath={.spec.clusterIP}")
            .await,
        address
    );
    let typo = SHIPS.replace("image:", "imagee:");
    k.file("typo.yaml", &typo);
    let (_, told) = k.fail("apply -f typo.yaml").await;
    assert!(
        told.contains("unknown field \"spec.containers[0].imagee\""),
        "{told}"
    );
    k.run("delete -f ships.yaml --wait=true").await;
    assert_eq!(
        columns(&k.run("get all").await, 1),
        ["NAME", "service/kubernetes"]
    );
}

#[tokio::test]
async fn policies_come_back_as_they_were_given() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    let (definitions, policy) = RULES.split_once("---\n# the policy\n").expect("two parts");
    k.file("crds.yaml", definitions);
    k.file("rule.yaml", policy);
    assert_eq!(
        k.run("apply -f crds.yaml").await.lines().next(),
        Some(
            "customresourcedefinition.apiextensions.k8s.io/ciliumnetworkpolicies.cilium.io created"
        )
    );
    k.run("wait --for=condition=Established crd --all --timeout=20s")
        .await;
    assert_eq!(
        k.run("apply -f rule.yaml").await,
        "ciliumnetworkpolicy.cilium.io/rule1 created\n"
    );
    let spec = "{\"description\":\"ships\",\"endpointSelector\":{\"matchLabels\":{\"class\":\"deathstar\"}},\"unknown\":{\"a\":[1,{\"c\":2}],\"z\":\"80\"}}";
    for name in ["ciliumnetworkpolicy", "cnp"] {
        assert_eq!(
            k.run(&format!("get {name} rule1 -o jsonpath={{.spec}}"))
                .await,
            spec
        );
    }
    assert_eq!(
        k.run("apply -f rule.yaml").await,
        "ciliumnetworkpolicy.cilium.io/rule1 unchanged\n"
    );
    assert_eq!(columns(&k.run("get cnp").await, 1), ["NAME", "rule1"]);
    assert_eq!(k.run("get ccec -o name").await, "");
    k.file("rule.yaml", &policy.replace("ships", "more ships"));
    assert_eq!(
        k.run("apply -f rule.yaml").await,
        "ciliumnetworkpolicy.cilium.io/rule1 configured\n"
    );
    assert_eq!(
        k.run("get cnp rule1 -o jsonpath={.spec.description}").await,
        "more ships"
    );
    k.run("patch cnp rule1 --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/unknown\"}]'")
        .await;
    assert_eq!(k.run("get cnp rule1 -o jsonpath={.spec.unknown}").await, "");
    k.run("delete cnp rule1").await;
    let (_, told) = k.fail("get cnp rule1").await;
    assert_eq!(
        told,
        "Error from server (NotFound): ciliumnetworkpolicies.cilium.io \"rule1\" not found"
    );
}

#[tokio::test]
async fn objects_are_created_marked_and_deleted() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    assert_eq!(
        k.run("create namespace grpc").await,
        "namespace/grpc created\n"
    );
    assert_eq!(
        k.run("create ns circuit-break").await,
        "namespace/circuit-break created\n"
    );
    k.run("-n grpc create cm settings --from-literal=a=b").await;
    k.run("-n grpc create sa bob").await;
    k.run("-n grpc create secret generic hidden --from-literal=x=y")
        .await;
    assert_eq!(
        k.run("-n grpc get cm settings -o jsonpath={.data.a}").await,
        "b"
    );
    assert_eq!(
        k.run("-n grpc get secret hidden -o jsonpath={.data.x}")
            .await,
        "eQ=="
    );
    let run = k
        .run("-n grpc run --image nicolaka/netshoot proxy-client --command sleep infinity")
        .await;
    assert_eq!(run, "pod/proxy-client created\n");
    k.run("-n grpc wait --for=condition=Ready pod/proxy-client --timeout=20s")
        .await;
    let command = k
        .run("-n grpc get po proxy-client -o jsonpath='{.spec.containers[0].command}'")
        .await;
    assert_eq!(command, "[\"sleep\",\"infinity\"]");
    k.run("create -f - <<'EOF'\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\nEOF").await;
    assert_eq!(
        k.run("annotate svc/web service.cilium.io/lb-l7=enabled")
            .await,
        "service/web annotated\n"
    );
    assert_eq!(k.run("label svc web a=b").await, "service/web labeled\n");
    assert_eq!(
        k.run("get svc -l a=b -o jsonpath='{.items[*].metadata.annotations}'")
            .await,
        "{\"service.cilium.io/lb-l7\":\"enabled\"}"
    );
    let (_, told) = k.fail("annotate svc/none a=b").await;
    assert_eq!(
        told,
        "Error from server (NotFound): services \"none\" not found"
    );
    let (_, told) = k.fail("create ns grpc").await;
    assert_eq!(
        told,
        "Error from server (AlreadyExists): namespaces \"grpc\" already exists"
    );
    let (_, told) = k.fail("create ns Grpc").await;
    assert!(
        told.contains("The Namespace \"Grpc\" is invalid: metadata.name: Invalid value"),
        "{told}"
    );
    assert_eq!(
        k.run("delete ns grpc").await,
        "namespace \"grpc\" deleted\n"
    );
    assert!(
        k.api
            .store
            .get_object(&weft_lab::api::resource::PODS, "grpc", "proxy-client")
            .is_err()
    );
    let (_, told) = k.fail("-n grpc get po proxy-client").await;
    assert!(told.contains("NotFound"), "{told}");
}

#[tokio::test]
async fn the_mesh_shows_as_pods_of_the_system() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    k.file("system.yaml", SYSTEM);
    k.run("apply -f system.yaml").await;
    k.run("-n kube-system rollout status ds/cilium-envoy --timeout=20s")
        .await;
    let name = k
        .run("-n kube-system get po -l k8s-app=cilium-envoy --field-selector spec.nodeName=kind-worker -o name")
        .await;
    assert!(
        name.starts_with("pod/cilium-envoy-") && name.trim().lines().count() == 1,
        "{name}"
    );
    let line = format!(
        "-n kube-system exec {} -c cilium-envoy -- sh -c 'echo $CONTAINER'",
        name.trim()
    );
    assert_eq!(k.run(&line).await, "cilium-envoy\n");
    let logs = k.run("-n kube-system logs daemonsets/cilium-envoy").await;
    assert_eq!(logs, "cilium-envoy first\ncilium-envoy second\n");
    assert_eq!(
        k.run("-n kube-system logs ds/cilium-envoy --tail=1").await,
        "cilium-envoy second\n"
    );
    for line in ["deployment cilium-operator", "daemonset cilium-envoy"] {
        let restarted = k
            .run(&format!("-n kube-system rollout restart {line}"))
            .await;
        assert!(restarted.ends_with(" restarted\n"), "{restarted}");
    }
    k.run("-n kube-system rollout status deploy/cilium-operator --timeout=20s")
        .await;
    k.run("-n kube-system rollout status ds/cilium-envoy --timeout=20s")
        .await;
    let (_, told) = k.fail(&format!("-n kube-system get {}", name.trim())).await;
    assert!(
        told.contains("NotFound"),
        "restarted pods have new names: {told}"
    );
    assert_eq!(
        k.run("-n kube-system scale deploy/cilium-operator --replicas=2")
            .await,
        "deployment.apps/cilium-operator scaled\n"
    );
    k.run("-n kube-system wait --for=jsonpath='{.status.readyReplicas}'=2 deploy/cilium-operator --timeout=20s").await;
    let nodes = k.run("get nodes").await;
    assert_eq!(
        columns(&nodes, 2),
        ["NAME STATUS", "kind-worker Ready", "kind-worker2 Ready"]
    );
}

#[tokio::test]
async fn a_webhook_refuses_what_is_applied() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    let hook = Hook::start(|request| match request["object"]["data"]["k"].as_str() {
        Some("bad") => Reply::Deny(json!({
            "code": 422, "reason": "Invalid", "message": "data.k: must not be bad",
        })),
        _ => Reply::Allow(&["careful"]),
    })
    .await;
    let mut configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "judge" },
        "webhooks": [{
            "name": "judge.test.dev", "clientConfig": hook.client(), "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "rules": [{
                "operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"],
                // Without it kubectl itself finds the whole list changed, each time.
                "scope": "*",
            }],
        }],
    });
    k.file("judge.yaml", &configuration.to_string());
    let name = "validatingwebhookconfiguration.admissionregistration.k8s.io/judge";
    for word in ["created", "unchanged"] {
        let applied = k.run("apply -f judge.yaml").await;
        assert_eq!(applied, format!("{name} {word}\n"));
    }
    configuration["webhooks"][0]["timeoutSeconds"] = json!(5);
    k.file("judge.yaml", &configuration.to_string());
    let applied = k.run("apply -f judge.yaml").await;
    assert_eq!(applied, format!("{name} configured\n"));
    let shown = k.run("get validatingwebhookconfigurations").await;
    let expected = ["NAME WEBHOOKS AGE", "judge 1"];
    let lines = columns(&shown, 3);
    assert_eq!(lines[0], expected[0], "{shown}");
    assert!(
        lines[1].starts_with(expected[1]) && lines.len() == 2,
        "{shown}"
    );
    let map = |value: &str| {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "k": value },
        });
        map.to_string()
    };
    k.file("m.yaml", &map("good"));
    k.run("apply -f m.yaml").await;
    k.file("m.yaml", &map("bad"));
    for line in [
        "apply -f m.yaml",
        "apply --server-side -f m.yaml --force-conflicts",
    ] {
        let (code, told) = k.fail(line).await;
        let words =
            "admission webhook \"judge.test.dev\" denied the request: data.k: must not be bad";
        assert!(code == 1 && told.contains(words), "{line}: {told}");
    }
    assert_eq!(k.run("get cm m -o jsonpath={.data.k}").await, "good");
    k.run("delete -f judge.yaml").await;
    k.run("apply -f m.yaml").await;
}
