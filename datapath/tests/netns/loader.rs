//! The real loader as a process of its own, which strace kills at any call.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::{env, fs};

use weft_datapath::{Datapath, Endpoint, LAYOUT_VERSION, TableSizes};

use crate::cluster::config;
use crate::support::Namespace;

const ORDER: &str = "WEFT_TEST_LOADER";
/// The number of the kernel's signal.
const SIGKILL: i32 = 9;
/// Calls that change what outlives the process.
const CHANGES: [&str; 7] = [
    "BPF_OBJ_PIN",
    "BPF_LINK_CREATE",
    "BPF_LINK_UPDATE",
    "BPF_MAP_UPDATE_ELEM",
    "BPF_MAP_UPDATE_BATCH",
    "BPF_MAP_DELETE_ELEM",
    "BPF_MAP_DELETE_BATCH",
];

/// Where the pins of this version's layout are.
pub fn layout(pins: &Path) -> PathBuf {
    pins.join(format!("v{LAYOUT_VERSION}"))
}

/// Every pin, by its path below the folder, in order.
pub fn pinned(pins: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in [layout(pins), layout(pins).join("links")] {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(pins).unwrap().display().to_string());
        }
    }
    found.sort();
    found
}

/// What a loader does after it has loaded the programs of node 0.
#[derive(Clone, Copy)]
pub enum Then {
    Nothing,
    Attach(Endpoint),
    Detach(Endpoint),
}

/// What a loader is to do.
pub struct Order<'a> {
    /// The test that starts it; the same function is the loader in the process
    /// that is started.
    pub test: &'static str,
    /// Name of the node's namespace.
    pub namespace: &'a str,
    pub pins: &'a Path,
    pub tables: TableSizes,
    pub then: Then,
}

/// A call before which the loader is killed.
#[derive(Clone, Debug)]
pub struct Point {
    call: String,
    number: usize,
    /// What the call would have done, as far as its name says so.
    pub what: String,
}

impl Order<'_> {
    /// Runs it to its end.
    pub fn run(&self) {
        let status = self.command(&[]).status().unwrap();
        assert!(status.success(), "the loader failed: {status}");
    }

    /// Runs it to its end and returns the calls that changed something.
    pub fn trace(&self) -> Vec<Point> {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("calls");
        let status = self
            .command(&["-o", log.to_str().unwrap()])
            .status()
            .expect("strace (`make setup` installs it)");
        assert!(status.success(), "the loader failed: {status}");
        changes(&fs::read_to_string(log).unwrap())
    }

    /// Runs it until this call; whether it came so far.
    pub fn killed_at(&self, point: &Point) -> bool {
        let inject = format!("inject={}:signal=KILL:when={}", point.call, point.number);
        let status = self
            .command(&["-o", "/dev/null", "-e", &inject])
            .status()
            .unwrap();
        assert!(
            was_killed(status) || status.success(),
            "{point:?}: {status}"
        );
        was_killed(status)
    }

    fn command(&self, strace: &[&str]) -> Command {
        let own = env::current_exe().unwrap();
        let mut command = match strace {
            [] => Command::new(own),
            options => {
                let mut command = Command::new("strace");
                // Where there is no unlink(2) there is the other.
                command.args(["-f", "-qq", "-e", "trace=bpf,?unlink,?unlinkat"]);
                command.args(options).arg(own);
                command
            }
        };
        let TableSizes { conntrack, nat } = self.tables;
        let then = match self.then {
            Then::Nothing => String::new(),
            Then::Attach(endpoint) => format!("attach {}", written(&endpoint)),
            Then::Detach(endpoint) => format!("detach {}", written(&endpoint)),
        };
        command.args(["--exact", self.test, "--quiet"]).env(
            ORDER,
            format!(
                "{} {} {conntrack} {nat} {then}",
                self.namespace,
                self.pins.display(),
            ),
        );
        // Its harness's own words are nobody's news.
        command.stdout(Stdio::null());
        command
    }
}

/// strace ends as the process that it traced.
fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL) || status.code() == Some(128 + SIGKILL)
}

fn changes(log: &str) -> Vec<Point> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for line in log.lines() {
        // The number of the thread, the call, its arguments.
        let Some((call, arguments)) = line
            .split_once(char::is_whitespace)
            .and_then(|(_, call)| call.trim_start().split_once('('))
        else {
            continue;
        };
        let number = numbers.entry(call.to_owned()).or_default();
        *number += 1;
        let command = arguments.split(',').next().unwrap_or_default();
        if call != "bpf" || CHANGES.contains(&command) {
            found.push(Point {
                call: call.to_owned(),
                number: *number,
                what: if call == "bpf" { command } else { call }.to_owned(),
            });
        }
    }
    found
}

fn written(endpoint: &Endpoint) -> String {
    format!(
        "{} {} {} {} {}",
        endpoint.id, endpoint.identity, endpoint.addr, endpoint.ifindex, endpoint.policed
    )
}

/// The loader, in a process that [`Order`] started: does what it was told, and
/// says so. Elsewhere it does nothing.
pub fn is_the_loader() -> bool {
    let Ok(order) = env::var(ORDER) else {
        return false;
    };
    let words: Vec<&str> = order.split_whitespace().collect();
    let [namespace, pins, conntrack, nat, then @ ..] = &words[..] else {
        panic!("{order}");
    };
    Namespace::join(namespace);
    let mut config = config(0);
    config.tables = TableSizes {
        conntrack: conntrack.parse().unwrap(),
        nat: nat.parse().unwrap(),
    };
    let mut datapath = Datapath::load(Path::new(pins), &config).unwrap();
    match then {
        ["attach", endpoint @ ..] => datapath.attach_endpoint(&read(endpoint)).unwrap(),
        ["detach", endpoint @ ..] => {
            datapath.detach_endpoint(read(endpoint).addr).unwrap();
            datapath.conntrack().unwrap().forget().unwrap();
        }
        _ => {}
    }
    true
}

fn read(words: &[&str]) -> Endpoint {
    let [id, identity, addr, ifindex, policed] = words else {
        panic!("{words:?}");
    };
    let id: u32 = id.parse().unwrap();
    let policed = policed.parse().unwrap();
    Endpoint {
        id,
        identity: identity.parse().unwrap(),
        addr: addr.parse().unwrap(),
        ifindex: ifindex.parse().unwrap(),
        mac: [2, 0, 0, 0, 0, id as u8],
        host_mac: [2, 1, 0, 0, 0, id as u8],
        default_deny_ingress: policed,
        default_deny_egress: policed,
        policed,
    }
}

#[test]
fn changes_are_told_from_questions() {
    let log = "\
41 bpf(BPF_OBJ_GET, {pathname=\"/x\", bpf_fd=0, file_flags=0}, 148) = 3
41 bpf(BPF_OBJ_PIN, {pathname=\"/x\", bpf_fd=4, file_flags=0}, 148) = 0
42 unlink(\"/x\") = 0
41 bpf(BPF_LINK_UPDATE, {link_fd=5}, 148) = 0
41 +++ exited with 0 +++
";
    let points: Vec<_> = changes(log)
        .into_iter()
        .map(|point| (point.call, point.number, point.what))
        .collect();
    let point = |call: &str, number, what: &str| (call.to_owned(), number, what.to_owned());
    assert_eq!(
        points,
        [
            point("bpf", 2, "BPF_OBJ_PIN"),
            point("unlink", 1, "unlink"),
            point("bpf", 3, "BPF_LINK_UPDATE"),
        ]
    );
}
