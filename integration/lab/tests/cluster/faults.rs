//! Crashes, repeated commands, mistakes: nothing half-done is left.

use std::os::unix::fs::PermissionsExt;

use crate::support::TestLab;

/// A directory with programs of the test's own, gone with it.
struct Programs(std::path::PathBuf);

impl Programs {
    fn new(name: &str, scripts: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("weft-lab-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (program, script) in scripts {
            let path = dir.join(program);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn down_removes_what_a_killed_daemon_left() {
    let lab = TestLab::up(&["--nodes", "2"]);
    lab.deploy("ship", 2, "image: curlimages/curl");
    assert!(lab.namespaces().len() >= 6);
    let killed = std::process::Command::new("kill")
        .args(["-9", &lab.daemon().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    crate::support::eventually(|| match lab.run(&["status"]).output.contains("is broken") {
        true => Ok(()),
        false => Err("the daemon does not die".to_owned()),
    });
    assert_eq!(lab.must(&["down"]), format!("lab {} is gone\n", lab.name));
    lab.assert_nothing_left();
}

#[test]
fn up_after_a_crash_is_a_fresh_lab() {
    let lab = TestLab::up(&["--nodes", "1"]);
    lab.deploy("ship", 1, "image: curlimages/curl");
    let first = lab.daemon();
    let kill = std::process::Command::new("kill")
        .args(["-9", &first.to_string()])
        .status();
    assert!(kill.unwrap().success());
    crate::support::eventually(|| match lab.run(&["status"]).output.contains("is broken") {
        true => Ok(()),
        false => Err("the daemon does not die".to_owned()),
    });
    lab.must(&["up", "--no-mesh", "--nodes", "1"]);
    assert_ne!(lab.daemon(), first);
    assert_eq!(lab.pods("app=ship").len(), 0);
}

#[test]
fn up_twice_is_up_once() {
    let lab = TestLab::up(&["--nodes", "1"]);
    let daemon = lab.daemon();
    let again = lab.must(&["up", "--no-mesh", "--nodes", "1"]);
    assert!(again.contains("is up: kind-worker 172.18.0.2"), "{again}");
    assert_eq!(lab.daemon(), daemon);
    let other = lab.run(&["up", "--no-mesh", "--nodes", "2"]);
    assert_eq!(other.code, 1);
    assert!(
        other.errors.contains("take it down first"),
        "{}",
        other.errors
    );
    assert_eq!(lab.daemon(), daemon);
    assert_eq!(
        lab.must(&["kubeconfig"]).trim(),
        lab.state().join("kubeconfig").to_str().unwrap()
    );
}

#[test]
fn two_labs_do_not_know_each_other() {
    let (one, two) = (
        TestLab::up(&["--nodes", "1"]),
        TestLab::up(&["--nodes", "1"]),
    );
    one.deploy("ship", 1, "image: curlimages/curl");
    assert_eq!(two.pods("app=ship").len(), 0);
    drop(one);
    two.deploy("ship", 1, "image: curlimages/curl");
}

#[test]
fn missing_programs_are_named_and_nothing_is_left() {
    let (lab, empty) = (TestLab::named(), Programs::new("empty", &[]));
    let up = lab.run(&["up", "--bin-dir", empty.path()]);
    assert_eq!(up.code, 1);
    assert!(up.errors.contains("weft-agent is missing"), "{}", up.errors);
    lab.assert_nothing_left();
}

#[test]
fn a_dying_agent_is_shown_with_its_last_words() {
    let scripts = [
        ("weft-agent", "echo the map is on fire; exit 1"),
        ("weft-proxy", "exec sleep 60"),
    ];
    let (lab, broken) = (TestLab::named(), Programs::new("broken", &scripts));
    let up = lab.run(&["up", "--nodes", "1", "--bin-dir", broken.path()]);
    assert_eq!(up.code, 1);
    assert!(up.errors.contains("keeps dying"), "{}", up.errors);
    assert!(up.errors.contains("the map is on fire"), "{}", up.errors);
    lab.assert_nothing_left();
}

#[test]
fn down_without_a_lab_is_fine() {
    let lab = TestLab::named();
    assert_eq!(
        lab.must(&["down"]),
        format!("lab {} was not up\n", lab.name)
    );
    let status = lab.run(&["get", "pods"]);
    assert_eq!(status.code, 1);
    assert!(status.errors.contains("is not up"), "{}", status.errors);
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    // Agents that never get ready: up waits.
    let scripts = [
        ("weft-agent", "exec sleep 60"),
        ("weft-proxy", "exec sleep 60"),
    ];
    let (lab, idle) = (TestLab::named(), Programs::new("idle", &scripts));
    let mut up = std::process::Command::new(env!("CARGO_BIN_EXE_weft-lab"))
        .args(["--name", &lab.name, "up", "--bin-dir", idle.path()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::support::eventually(|| match lab.namespaces().len() {
        4.. => Ok(()),
        n => Err(format!("{n} namespaces")),
    });
    up.kill().unwrap();
    up.wait().unwrap();
    crate::support::eventually(|| match lab.state().exists() {
        false => Ok(()),
        true => Err("the daemon stays".to_owned()),
    });
    lab.assert_nothing_left();
}
