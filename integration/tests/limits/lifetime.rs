//! Coming up and going down.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use weft_integration::lab::Lab;
use weft_integration::watch::until;

/// Longest that a lab may take to be up, on a machine that runs other tests:
/// alone it takes two seconds.
const SLOWEST: f64 = 30.0;

/// What the machine itself has, apart from any lab: of its settings those of the
/// network, the only ones that the lab and the mesh know how to change.
fn machine() -> BTreeSet<String> {
    let commands: [&[&str]; 3] = [
        &["-br", "link"],
        &["rule"],
        &["route", "show", "table", "all"],
    ];
    let mut found = BTreeSet::new();
    for command in commands {
        let output = Command::new("ip").args(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        found.extend(text.lines().map(str::to_owned));
    }
    for part in ["core", "ipv4", "ipv6", "netfilter"] {
        settings(&Path::new("/proc/sys/net").join(part), &mut found);
    }
    found
}

/// Waits until the machine is as it was: others may be at work on it, and what
/// is theirs comes and goes.
fn until_as(before: &BTreeSet<String>) {
    until(|| {
        let now = machine();
        let new: Vec<_> = now.difference(before).collect();
        let gone: Vec<_> = before.difference(&now).collect();
        match new.is_empty() && gone.is_empty() {
            true => Ok(()),
            false => Err(format!("new: {new:#?}, gone: {gone:#?}")),
        }
    })
    .unwrap();
}

/// Every setting below a directory, but for what the kernel changes by itself and what
/// an interface of its own has.
fn settings(directory: &Path, found: &mut BTreeSet<String>) {
    const BY_ITSELF: &str = "nf_conntrack_count";
    let per_interface = ["conf", "neigh"]
        .map(OsStr::new)
        .contains(&directory.file_name().unwrap());
    let names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != BY_ITSELF)
        .filter(|name| !per_interface || name == "all" || name == "default");
    for name in names {
        let path = directory.join(&name);
        if path.is_dir() {
            settings(&path, found);
        } else if let Ok(value) = std::fs::read_to_string(&path) {
            found.insert(format!("{} = {}", path.display(), value.trim()));
        }
    }
}

fn busy_lab() -> Lab {
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    lab.sh("kubectl apply -f sw-pods.yaml -f l7-policy.yaml")
        .well()
        .unwrap();
    lab.ready(["tiefighter", "xwing"]).unwrap();
    until(|| {
        let put = "kubectl exec tiefighter -- curl -s --max-time 1 -X PUT deathstar.default.svc.cluster.local/v1/exhaust-port";
        match lab.sh(put).output.trim_end() {
            "Access denied" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .unwrap();
    lab
}

#[test]
fn down_leaves_nothing() {
    let before = machine();
    let lab = busy_lab();
    let traces = lab.traces().unwrap();
    for kind in [
        "/run/netns/",
        "/sys/fs/bpf/weft/",
        "/run/weft-lab/",
        "/sys/fs/cgroup/",
        "process ",
    ] {
        assert!(
            traces.iter().any(|trace| trace.starts_with(kind)),
            "no {kind} in {traces:#?}"
        );
    }
    lab.lab(&["down"]).well().unwrap();
    assert_eq!(lab.traces().unwrap(), Vec::<String>::new());
    until_as(&before);
    let again = lab.lab(&["down"]).well().unwrap();
    assert!(again.contains("was not up"), "{again}");
}

#[test]
fn down_after_a_crash_leaves_nothing() {
    let before = machine();
    let lab = busy_lab();
    let daemon = std::fs::read_to_string(lab.state().join("daemon.json")).unwrap();
    let daemon: serde_json::Value = serde_json::from_str(&daemon).unwrap();
    let pid = daemon["pid"].as_u64().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    lab.lab(&["down"]).well().unwrap();
    assert_eq!(lab.traces().unwrap(), Vec::<String>::new());
    until_as(&before);
}

#[test]
fn up_returns_when_all_is_ready_and_says_where_it_is() {
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    // At once: nothing is waited for.
    let status = lab.lab(&["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    for node in ["kind-worker", "kind-worker2"] {
        let words = [node, "ready", "ready"];
        let ready = |line: &str| line.split_whitespace().take(3).eq(words);
        assert!(status.output.lines().any(ready), "{node}: {status:?}");
    }
    let state = lab.state().display().to_string();
    let where_it_is = format!(
        "\
lab {} is up: kind-worker 172.18.0.2, kind-worker2 172.18.0.3 (vxlan routing)
kubeconfig  {state}/kubeconfig
observer    {} (all nodes)
            unix://{state}/kind-worker/hubble.sock (kind-worker)
            unix://{state}/kind-worker2/hubble.sock (kind-worker2)
",
        lab.name(),
        lab.relay()
    );
    let told = lab.told();
    assert_eq!(told.output, where_it_is);
    assert!(status.output.starts_with(&where_it_is), "{status:?}");
    // Who asks for a log without saying which is told what there is.
    let usage = lab.lab(&["logs"]).errors;
    for said in [
        "agent|proxy|relay|operator",
        "Nodes: kind-worker, kind-worker2",
    ] {
        assert!(usage.contains(said), "{usage}");
    }
    let nowhere = lab.lab(&["logs", "kind", "agent"]).errors;
    assert!(
        nowhere.contains("no node kind, only kind-worker, kind-worker2"),
        "{nowhere}"
    );
    let took = told.errors.lines().find_map(|line| {
        let seconds = line.strip_prefix("  ready after ")?.strip_suffix(" s")?;
        seconds.parse::<f64>().ok()
    });
    let took = took.unwrap();
    eprintln!("up after {took} s");
    assert!(took < SLOWEST, "{took} s");
}

#[test]
fn up_again_changes_nothing() {
    let lab = busy_lab();
    let daemon = || std::fs::read_to_string(lab.state().join("daemon.json")).unwrap();
    let pods = || {
        lab.sh("kubectl get pods -A -o jsonpath='{.items[*].metadata.uid}'")
            .well()
            .unwrap()
    };
    let (first, then) = (daemon(), pods());
    let again = lab.lab(&["up", "--nodes", "2"]).well().unwrap();
    assert!(
        again.contains("is up: kind-worker 172.18.0.2, kind-worker2 172.18.0.3"),
        "{again}"
    );
    assert_eq!(daemon(), first);
    assert_eq!(pods(), then);
    let other = lab.lab(&["up", "--nodes", "3"]);
    assert_ne!(other.code, 0, "a lab of another size is not this one");
    assert_eq!(daemon(), first);
}
