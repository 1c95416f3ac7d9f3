//! Stock kubectl against the API: the command lines that users of the mesh type.
//!
//! Needs kubectl 1.31 or newer in the path (older ones exec over SPDY); says so and
//! passes where there is none.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::TestApi;

const DEADLINE: Duration = Duration::from_secs(60);
const SHIPS: &str = include_str!("ships.yaml");
const RULES: &str = include_str!("rules.yaml");
const SYSTEM: &str = include_str!("system.yaml");

struct Kubectl {
    api: TestApi,
    home: TempDir,
}

impl Kubectl {
    /// `None`, loudly, where there is no kubectl that is new enough.
    async fn start() -> Option<Self> {
        let found = Command::new("kubectl")
            .args(["version", "--client", "-o", "json"])
            .output()
            .await;
        let version: Value = match found {
            Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let minor = version["clientVersion"]["minor"].as_str().unwrap_or("0");
        let minor: u32 = minor.trim_end_matches('+').parse().unwrap_or(0);
        if minor < 31 {
            eprintln!("SKIPPED: no kubectl >= 1.31 in the path (found minor version {minor})");
            return None;
        }
        let api = TestApi::start().await;
        let home = TempDir::new().expect("a directory");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: t, contexts: [{{name: t, context: {{cluster: t, user: t}}}}], users: [{{name: t, user: {{}}}}], clusters: [{{name: t, cluster: {{server: {:?}}}}}]}}",
            api.url
        );
        fs::write(home.path().join("config"), config).expect("written");
        Some(Self { api, home })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec kubectl {line}")])
            .current_dir(self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn output(&self, line: &str, input: &str) -> Output {
        let mut child = self.command(line).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        let both = async {
            // A command that reads nothing closes its end.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await.expect("an exit")
        };
        tokio::time::timeout(DEADLINE, both)
            .await
            .unwrap_or_else(|_| panic!("kubectl {line} hangs"))
    }

    /// The output of a command that must succeed.
    async fn run(&self, line: &str) -> String {
        self.feed(line, "").await
    }

    async fn feed(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {line}: {}\n{}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Exit code and error output of a command that must fail.
    async fn fail(&self, line: &str) -> (i32, String) {
        let output = self.output(line, "").await;
        assert!(!output.status.success(), "kubectl {line} succeeds");
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).expect("written");
        path
    }
}

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
async fn ports_are_forwarded() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    k.run("run server --image x").await;
    k.run("wait --for=condition=Ready pod/server --timeout=20s")
        .await;
    // Takes everything until the end of input, and sends it back.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let echo = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("reads");
            stream.write_all(&all).await.expect("writes");
        }
    });
    let line = format!("port-forward --address 127.0.0.1 pod/server :{port}");
    let mut child = k.command(&line).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let told = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    let told = told.expect("in time").expect("readable").expect("a line");
    let address = told
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split_once(" -> "))
        .map(|(address, _)| address.to_owned())
        .unwrap_or_else(|| panic!("{told}"));
    for size in [1, 500_000, 7] {
        let sent = vec![b'x'; size];
        let round = async {
            let stream = TcpStream::connect(&address).await.expect("connects");
            let (mut read, mut write) = stream.into_split();
            let mut back = Vec::new();
            write.write_all(&sent).await.expect("writes");
            write.shutdown().await.expect("shuts down");
            read.read_to_end(&mut back).await.expect("reads");
            back
        };
        let back = tokio::time::timeout(DEADLINE, round)
            .await
            .expect("in time");
        assert_eq!(back.len(), size);
    }
    child.kill().await.expect("killed");
    echo.abort();
}
