//! A lab of a test's own: unlike any other, gone with the test.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::watch::{Client, until};

/// Where labs keep their state.
const STATE: &str = "/run/weft-lab";
/// Lines of a log that are shown when a test failed.
const SHOWN: usize = 40;

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    /// Where weft, weft-lab and the rest of it are.
    programs: PathBuf,
    kubectl: bool,
    relay: String,
    /// What `up` said.
    told: Ran,
    /// Working directory of shell lines, with the manifests of the story; goes
    /// with the lab.
    directory: PathBuf,
}

/// What a command came to.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to its standard output.
    pub output: String,
    /// What it wrote to its standard error.
    pub errors: String,
}

impl Ran {
    /// The output, when it went well.
    ///
    /// # Errors
    /// With its last words when it did not.
    pub fn well(self) -> anyhow::Result<String> {
        ensure!(
            self.code == 0,
            "exit code {}: {}{}",
            self.code,
            self.output,
            self.errors
        );
        Ok(self.output)
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

impl Lab {
    /// Brings a lab up; `arguments` go to `weft-lab up`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::up_with(arguments, &[])
    }

    /// The same with these variables, which the mesh's processes get too.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up_with(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("i{}-{number}", std::process::id());
        let weft_lab = crate::programs::find("weft-lab")?;
        let programs = weft_lab
            .parent()
            .context("no directory of programs")?
            .to_path_buf();
        let directory = Path::new(STATE).join(&name).join("story");
        let mut lab = Self {
            name,
            programs,
            kubectl: weft_lab::kubectl::is_recent(),
            relay: String::new(),
            told: Ran::default(),
            directory,
        };
        let mut words = vec!["up"];
        words.extend(arguments);
        let mut command = lab.command("weft-lab");
        command.args(&words).envs(variables.iter().copied());
        lab.told = run(&mut command, "");
        lab.told.clone().well().context("bring a lab up")?;
        lay_out(&lab.directory)?;
        let info: Value = serde_json::from_slice(&fs::read(lab.state().join("lab.json"))?)?;
        info["relay"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut lab.relay);
        Ok(lab)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// What `up` said.
    #[must_use]
    pub fn told(&self) -> &Ran {
        &self.told
    }

    /// Address of the observer that has all nodes' flows.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// Where shell lines run.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the story's lines run through kubectl.
    #[must_use]
    pub fn has_kubectl(&self) -> bool {
        self.kubectl
    }

    /// Has shell lines run as where there is no kubectl.
    pub fn do_without_kubectl(&mut self) {
        self.kubectl = false;
    }

    /// Runs `weft-lab` on this lab.
    #[must_use]
    pub fn lab(&self, arguments: &[&str]) -> Ran {
        run(self.command("weft-lab").args(arguments), "")
    }

    /// A program of the workspace that is to work on this lab.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.surround(&mut command);
        command
    }

    /// Runs a shell line as users type it. Where there is no kubectl that is
    /// recent enough, the line runs with `weft-lab` in its place.
    #[must_use]
    pub fn sh(&self, line: &str) -> Ran {
        let line = match self.kubectl {
            true => line.to_owned(),
            false => line.replace("kubectl ", "weft-lab "),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        self.surround(&mut command);
        run(command.current_dir(&self.directory), "")
    }

    fn surround(&self, command: &mut Command) {
        let mut path = self.programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/bin".into()));
        command
            .env("PATH", path)
            .env("KUBECONFIG", self.state().join("kubeconfig"))
            .env("WEFT_LAB_NAME", &self.name)
            .env("WEFT_SERVER", &self.relay)
            .env_remove("RUST_LOG");
    }

    /// Creates or changes objects.
    ///
    /// # Errors
    /// When one is refused.
    pub fn apply(&self, objects: &[Value]) -> anyhow::Result<String> {
        let text: Vec<_> = objects.iter().map(Value::to_string).collect();
        let mut command = self.command("weft-lab");
        run(command.args(["apply", "-f", "-"]), &text.join("\n---\n")).well()
    }

    /// An object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let output = self.lab(&["get", kind, name, "-o", "json"]).well()?;
        Ok(serde_json::from_str(&output)?)
    }

    /// Waits until a policy is called valid, or invalid; what else is said of it.
    ///
    /// # Errors
    /// When it is not within the usual time.
    pub fn until_valid(&self, policy: &str, wanted: bool) -> anyhow::Result<String> {
        until(|| {
            let object = self.get("cnp", policy).map_err(|error| error.to_string())?;
            let conditions = object["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            match conditions.find(|condition| condition["type"] == "Valid") {
                Some(valid) if (valid["status"] == "True") == wanted => {
                    Ok(valid["message"].as_str().unwrap_or_default().to_owned())
                }
                _ => Err(object.to_string()),
            }
        })
    }

    /// Waits until these pods are ready and returns their addresses.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn ready<const N: usize>(&self, pods: [&str; N]) -> anyhow::Result<[Ipv4Addr; N]> {
        let mut addresses = [Ipv4Addr::UNSPECIFIED; N];
        for (name, address) in pods.iter().zip(&mut addresses) {
            *address = until(|| {
                let pod = self.get("pod", name).map_err(|error| error.to_string())?;
                ready_address(&pod).ok_or_else(|| format!("{name}: {}", pod["status"]))
            })?;
        }
        Ok(addresses)
    }

    /// Pods with a label.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn pods(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        let output = self
            .lab(&["get", "pods", "-l", selector, "-o", "json"])
            .well()?;
        let mut list: Value = serde_json::from_str(&output)?;
        match list["items"].take() {
            Value::Array(pods) => Ok(pods),
            other => bail!("no list: {other}"),
        }
    }

    /// Runs a command in a pod.
    #[must_use]
    pub fn exec(&self, pod: &str, command: &[&str]) -> Ran {
        let mut words = vec!["exec", pod, "--"];
        words.extend(command);
        self.lab(&words)
    }

    /// Runs a client of `weft-load` in a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn client(&self, pod: &str, load: &Path, arguments: &[&str]) -> anyhow::Result<Client> {
        let mut command = self.command("weft-lab");
        Client::start(command.args(["exec", pod, "--"]).arg(load).args(arguments))
    }

    /// Runs a command in a node's network namespace.
    #[must_use]
    pub fn node(&self, node: &str, command: &[&str]) -> Ran {
        let mut words = vec!["node", node, "--"];
        words.extend(command);
        self.lab(&words)
    }

    /// Flows that `weft observe` shows for these arguments, as JSON.
    ///
    /// # Errors
    /// When it fails.
    pub fn flows(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let mut command = self.command("weft");
        let output = run(
            command.args(["observe", "-o", "jsonpb"]).args(arguments),
            "",
        )
        .well()?;
        let mut flows = Vec::new();
        for line in output.lines() {
            let mut answer: Value = serde_json::from_str(line)?;
            if answer.get("flow").is_some() {
                flows.push(answer["flow"].take());
            }
        }
        Ok(flows)
    }

    /// Waits until there are flows as wanted.
    ///
    /// # Errors
    /// When there are none in time.
    pub fn until_flows<T>(
        &self,
        arguments: &[&str],
        mut ask: impl FnMut(&[Value]) -> Option<T>,
    ) -> anyhow::Result<T> {
        until(|| {
            let flows = self
                .flows(arguments)
                .map_err(|error| format!("{error:#}"))?;
            ask(&flows).ok_or_else(|| {
                let shown: Vec<_> = flows.iter().rev().take(5).map(Value::to_string).collect();
                format!("{} flows, at last {}", flows.len(), shown.join("\n"))
            })
        })
    }

    /// Number of the process that has these words in its command line, of
    /// those that belong to this lab.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn process(&self, program: &str, node: &str) -> anyhow::Result<u32> {
        let mark = format!("{}/{node}/", self.state().display());
        let found: Vec<_> = processes()
            .filter(|(_, words)| {
                let is = |word: &String| word.rsplit('/').next() == Some(program);
                words.first().is_some_and(is) && words.iter().any(|word| word.starts_with(&mark))
            })
            .collect();
        match found.as_slice() {
            [(pid, _)] => Ok(*pid),
            other => bail!("not one {program} on {node}: {other:?}"),
        }
    }

    /// [`traces`] of this lab.
    ///
    /// # Errors
    /// When the machine cannot be asked.
    pub fn traces(&self) -> anyhow::Result<Vec<String>> {
        traces(&self.name)
    }

    /// The end of all logs of the mesh.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for (node, part) in [
            ("kind-worker", "agent"),
            ("kind-worker", "proxy"),
            ("kind-worker2", "agent"),
            ("kind-worker2", "proxy"),
            ("", "operator"),
            ("", "relay"),
        ] {
            let ran = self.lab(&["logs", node, part, "--tail", &SHOWN.to_string()]);
            text += &format!("---- {part} {node}\n{}", ran.output);
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        let down = self.lab(&["down"]);
        if down.code != 0 {
            eprintln!("lab {} is not taken down: {}", self.name, down.errors);
        }
    }
}

/// Everything that a lab has on the machine. Empty after `down`.
///
/// # Errors
/// When the machine cannot be asked.
pub fn traces(lab: &str) -> anyhow::Result<Vec<String>> {
    let prefix = format!("{lab}-");
    let mut traces = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut places = vec!["/run/netns".into(), "/sys/fs/bpf/weft".into(), STATE.into()];
    places.extend(cgroup2(&mounts).map(|root| root.join("weft-lab")));
    for place in places {
        for entry in fs::read_dir(&place).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == lab || name.starts_with(&prefix) {
                traces.push(place.join(name).display().to_string());
            }
        }
    }
    let state = format!("{STATE}/{lab}/");
    for (pid, words) in processes() {
        if words.iter().any(|word| word.contains(&state)) {
            traces.push(format!("process {pid}: {}", words.join(" ")));
        }
    }
    let of_lab = |line: &&str| line.contains(&format!("/{prefix}")) || line.contains(&state);
    traces.extend(mounts.lines().filter(of_lab).map(str::to_owned));
    Ok(traces)
}

/// Address of a pod that is ready.
fn ready_address(pod: &Value) -> Option<Ipv4Addr> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let ready = conditions
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    pod["status"]["podIP"]
        .as_str()
        .filter(|_| ready)?
        .parse()
        .ok()
}

/// Where cgroup2 is mounted.
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The story's manifests under the names that its lines use.
fn lay_out(directory: &Path) -> anyhow::Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/starwars");
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(examples.canonicalize()?)? {
        let entry = entry?;
        symlink(entry.path(), directory.join(entry.file_name()))?;
    }
    Ok(())
}

fn run(command: &mut Command, input: &str) -> Ran {
    let ran = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            if let Some(mut pipe) = child.stdin.take() {
                // A command that reads nothing may have ended.
                let _ended = pipe.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
    ran.map_or_else(
        |error| Ran {
            code: -1,
            output: String::new(),
            errors: error.to_string(),
        },
        Ran::from,
    )
}

fn processes() -> impl Iterator<Item = (u32, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0);
        Some((
            pid,
            words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        ))
    })
}
