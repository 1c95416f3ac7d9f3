//! A lab of a test's own, gone with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A lab that is taken down with the test, whatever its end.
pub struct TestLab {
    pub name: String,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub output: String,
    pub errors: String,
}

impl TestLab {
    /// A name that no other test has; nothing is up yet.
    pub fn named() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("t{}-{number}", std::process::id()),
        }
    }

    /// A lab without the mesh.
    pub fn up(arguments: &[&str]) -> Self {
        let lab = Self::named();
        let mut words = vec!["up", "--no-mesh"];
        words.extend(arguments);
        lab.must(&words);
        lab
    }

    /// Runs `weft-lab` on this lab.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    /// As [`Self::run`], with something to read.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        use std::io::Write;
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-lab"))
            .args(["--name", &self.name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that reads nothing may have ended.
        let _ = pipe.write_all(input.as_bytes());
        drop(pipe);
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Runs `weft-lab` and expects it to go well; returns its output.
    pub fn must(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.errors);
        ran.output
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> String {
        let ran = self.run_with(&["apply", "-f", "-"], manifests);
        assert_eq!(ran.code, 0, "{}", ran.errors);
        ran.output
    }

    /// An object as JSON.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let output = self.must(&["get", kind, name, "-o", "json"]);
        serde_json::from_str(&output).unwrap()
    }

    /// Pods with a label, as JSON.
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        let output = self.must(&["get", "pods", "-l", selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&output).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// A deployment of one image, complete. `spec` goes into its containers.
    pub fn deploy(&self, name: &str, replicas: usize, container: &str) {
        self.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n\
             spec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n\
             \x20 template:\n    metadata: {{labels: {{app: {name}}}}}\n\
             \x20   spec: {{containers: [{{name: main, {container}}}]}}\n"
        ));
        self.must(&[
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--timeout",
            "20s",
        ]);
    }

    /// Runs a command in the first pod of a deployment.
    pub fn exec(&self, deployment: &str, command: &[&str]) -> Ran {
        let target = format!("deploy/{deployment}");
        let mut words = vec!["exec", target.as_str(), "--"];
        words.extend(command);
        self.run(&words)
    }

    /// Where the lab keeps its state.
    pub fn state(&self) -> PathBuf {
        Path::new("/run/weft-lab").join(&self.name)
    }

    /// Names of the lab's namespaces.
    pub fn namespaces(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name);
        let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    /// The lab's daemon.
    pub fn daemon(&self) -> i32 {
        let text = std::fs::read(self.state().join("daemon.json")).unwrap();
        let daemon: Value = serde_json::from_slice(&text).unwrap();
        daemon["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Nothing of the lab may be on the machine.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.namespaces(), Vec::<String>::new());
        assert!(!self.state().exists(), "state is left");
        let cgroup = weft_lab::teardown::cgroup_of(&self.name).unwrap();
        assert!(!cgroup.exists(), "cgroups are left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(&format!("/{}-", self.name)),
            "mounts are left"
        );
        let mark = format!("/run/weft-lab/{}/", self.name);
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains(&mark), "a process is left: {line}");
        }
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        let ran = self.run(&["down"]);
        if !std::thread::panicking() {
            assert_eq!(ran.code, 0, "{}", ran.errors);
            self.assert_nothing_left();
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Address of a pod.
pub fn ip_of(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().unwrap()
}

/// Asks again until the answer is as wanted; ten seconds are plenty for
/// anything that a lab does by itself.
pub fn eventually<T>(mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(std::time::Instant::now() < deadline, "{why}"),
        }
        // Leaves the processor to what is waited for.
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}
