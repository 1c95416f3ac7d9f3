//! Coming up and going down.

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
    for sysctl in [
        "net/ipv4/ip_forward",
        "net/ipv4/tcp_early_demux",
        "net/ipv4/conf/all/rp_filter",
    ] {
        let value = std::fs::read_to_string(format!("/proc/sys/{sysctl}")).unwrap_or_default();
        found.push(format!("{sysctl} = {}", value.trim()));
    }
    found
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
