//! Coming up and going down.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use weft_integration::lab::Lab;
use weft_integration::watch::until;

/// What the machine itself has, apart from any lab.
fn machine() -> Vec<String> {
    let commands: [&[&str]; 3] = [
        &["-br", "link"],
        &["rule"],
        &["route", "show", "table", "all"],
    ];
    let mut found = Vec::new();
    for command in commands {
        let output = Command::new("ip").args(command).output().unwrap();
        found.extend(
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(str::to_owned),
        );
    }
    for part in [
        "net/core",
        "net/ipv4",
        "net/ipv6",
        "net/netfilter",
        "kernel",
        "vm",
    ] {
        settings(&Path::new("/proc/sys").join(part), &mut found);
    }
    found
}

/// Every setting below a directory, but for what the kernel changes by itself and what
/// an interface of its own has.
fn settings(directory: &Path, found: &mut Vec<String>) {
    const BY_ITSELF: [&str; 8] = [
        "random",
        "ns_last_pid",
        "pty",
        "nf_conntrack_count",
        "perf_event_max_sample_rate",
        "sched_domain",
        "stat_refresh",
        "tainted",
    ];
    let per_interface = ["conf", "neigh"]
        .map(OsStr::new)
        .contains(&directory.file_name().unwrap());
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !BY_ITSELF.contains(&name.as_str()))
        .filter(|name| !per_interface || name == "all" || name == "default")
        .collect();
    names.sort_unstable();
    for name in names {
        let path = directory.join(&name);
        if path.is_dir() {
            settings(&path, found);
        } else if let Ok(value) = std::fs::read_to_string(&path) {
            found.push(format!("{} = {}", path.display(), value.trim()));
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
    // Others may be at work on the machine: theirs come and go.
    until(|| match machine() == before {
        true => Ok(()),
        false => Err(format!("{:#?} instead of {before:#?}", machine())),
    })
    .unwrap();
    let again = lab.lab(&["down"]).well().unwrap();
    assert!(again.contains("was not up"), "{again}");
}

#[test]
fn down_after_a_crash_leaves_nothing() {
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
