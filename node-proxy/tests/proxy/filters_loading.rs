//! How versions of filters come into force: from the agent or a folder, and
//! what serves while they do not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_api::node::{Filter, FilterPhase, FilterReport, FilterReports};
use weft_proxy::app::{Options, Proxy};
use weft_wasm_host::Compiler;

use crate::compiler::script;
use crate::support::agent::Agent;
use crate::support::client::Client;
use crate::support::guests::{digest, filter, probe, step};
use crate::support::process::{Process, write};
use crate::support::server::Server;
use crate::support::until;
use crate::support::wat::{marking, refusing};
use crate::support::world::{Rules, open, options, start, start_as};

/// One filter at the deathstar's door.
fn at_the_door(filter: Filter) -> Rules {
    Rules {
        filters: vec![filter],
        ingress_chain: vec![step(FilterPhase::AfterPolicy, 0)],
        ..open()
    }
}

pub fn version(module: &[u8]) -> Rules {
    at_the_door(filter("marking", module, ""))
}

/// A proxy with an agent of its own.
struct Node {
    directory: tempfile::TempDir,
    agent: Agent,
    proxy: Proxy,
    server: Server,
}

impl Node {
    async fn new(rules: &Rules, modules: &[&[u8]]) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let server = Server::landing().await;
        let agent = Agent::start(directory.path(), Some(rules.snapshot(server.address)));
        for module in modules {
            agent.offer_module(&digest(module), module.to_vec());
        }
        let proxy = start(&directory, &agent, None).await;
        Self {
            directory,
            agent,
            proxy,
            server,
        }
    }

    /// The first module is in force, and a later version is refused.
    async fn with_a_broken_version_after(good: &[u8]) -> Self {
        let refusing = refusing("two");
        let mut node = Self::new(&version(good), &[good, &refusing]).await;
        node.in_force(good).await;
        node.send(version(&refusing), "2");
        node.report(|it| it.loaded && !it.error.is_empty()).await;
        assert_eq!(node.agent.answer("2").await.error, "");
        node
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    fn send(&self, rules: Rules, version: &str) {
        let snapshot = rules.version(version).snapshot(self.server.address);
        self.agent.send(snapshot);
    }

    /// The first report on the only filter that is so.
    async fn report(&mut self, so: impl Fn(&FilterReport) -> bool) -> FilterReport {
        let one = |reports: &FilterReports| match &reports.filters[..] {
            [report] => so(report),
            _ => false,
        };
        self.agent.reports(one).await.filters.remove(0)
    }

    async fn in_force(&mut self, module: &[u8]) -> FilterReport {
        let wanted = digest(module);
        self.report(|it| it.configured && it.sha256 == wanted).await
    }

    /// The mark of the filter that a request meets.
    async fn mark(&self) -> String {
        let until_ready = async || self.proxy.status().ready;
        until(until_ready).await;
        let address = self.proxy.status().listeners["http"];
        let mut client = Client::connect(address).await;
        let answer = client.get("GET", "/").await;
        assert_eq!(answer.status, 200);
        let head = self.server.next().await;
        let mark = head
            .lines()
            .find_map(|line| line.strip_prefix("x-version: "));
        mark.unwrap_or("none").to_owned()
    }

    /// The proxy ends and comes back, with the agent or without it.
    async fn restart(self, with: Option<Rules>) -> Self {
        let Self {
            directory,
            mut agent,
            proxy,
            server,
        } = self;
        proxy.stop(Duration::ZERO).await;
        let socket = agent.socket.clone();
        drop(agent);
        let _gone = fs::remove_file(&socket);
        agent = match with {
            Some(rules) => Agent::start(directory.path(), Some(rules.snapshot(server.address))),
            None => {
                let elsewhere = tempfile::tempdir().expect("a folder");
                let mut away = Agent::start(elsewhere.path(), None);
                away.socket = socket;
                away
            }
        };
        let proxy = start(&directory, &agent, None).await;
        Self {
            directory,
            agent,
            proxy,
            server,
        }
    }

    async fn page(&self) -> Value {
        page(&self.directory.path().join("admin.sock")).await
    }
}

/// What the admin page says of the first filter.
async fn page(socket: &Path) -> Value {
    let answer = crate::support::process::get(socket, "/filters").await;
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let page: Value = serde_json::from_str(body).expect("JSON");
    page["filters"][0].clone()
}

#[tokio::test]
async fn a_module_comes_from_the_agent_and_is_reported() {
    let one = marking("one");
    let mut node = Node::new(&version(&one), &[&one]).await;
    let report = node.in_force(&one).await;
    assert_eq!(
        (&*report.kind, &*report.namespace, &*report.name),
        ("WeftFilter", "default", "marking")
    );
    assert_eq!(
        (report.loaded, &*report.error, &*report.abi),
        (true, "", "proxy-wasm 0.2.1")
    );
    assert_eq!(node.mark().await, "one");
    let kept = node.state().join(format!("modules/{}.wasm", digest(&one)));
    assert_eq!(fs::read(&kept).expect("kept"), one);
    let mode = fs::metadata(&kept).expect("there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else's");
    let page = node.page().await;
    assert_eq!(page["state"], "in force");
    assert_eq!(page["in_force"]["module"], digest(&one));
    assert_eq!(page["in_force"]["compiled_before"], false);
}

#[tokio::test]
async fn a_snapshot_is_acknowledged_while_its_module_is_not_there() {
    let one = marking("one");
    let mut node = Node::new(&version(&one), &[]).await;
    assert_eq!(node.agent.answer("1").await.error, "");
    let report = node.report(|it| !it.error.is_empty()).await;
    assert_eq!((report.loaded, &*report.sha256), (false, ""));
    assert!(
        report.error.contains("the agent does not have it yet"),
        "{}",
        report.error
    );
    let mut client = Client::connect(node.proxy.status().listeners["http"]).await;
    assert_eq!(client.get("GET", "/").await.status, 503);
    node.agent.offer_module(&digest(&one), one.clone());
    let report = node.in_force(&one).await;
    assert_eq!(report.error, "");
    assert_eq!(node.mark().await, "one");
}

#[tokio::test]
async fn what_is_not_the_module_is_not_run() {
    let (one, other) = (marking("one"), marking("other"));
    let mut node = Node::new(&version(&one), &[]).await;
    node.agent.offer_module(&digest(&one), other.clone());
    let report = node.report(|it| it.error.contains("instead")).await;
    assert!(report.error.contains(&digest(&other)), "{}", report.error);
    assert!(!report.loaded);
    node.agent.offer_module(&digest(&one), one.clone());
    node.in_force(&one).await;
}

#[tokio::test]
async fn a_configuration_is_refused_by_its_path() {
    let probe = probe();
    let of = |config| at_the_door(filter("probe", &probe, config));
    let mut node = Node::new(&of(r#"{"header": 5}"#), &[&probe]).await;
    let report = node.report(|it| !it.error.is_empty()).await;
    assert_eq!(report.error, r#"config.header: it is not of type "string""#);
    assert_eq!((report.loaded, report.configured), (true, false));
    // What only the filter itself can say.
    node.send(of(r#"{"header": "refused"}"#), "2");
    let report = node
        .report(|it| it.error.contains("this one is refused"))
        .await;
    assert!(!report.configured);
    node.send(of(r#"{"header": "x-do"}"#), "3");
    let report = node.in_force(&probe).await;
    assert_eq!(report.abi, "weft:filter@0.1.0");
    assert!(
        report.filter_version.starts_with("probe "),
        "{}",
        report.filter_version
    );
}

#[tokio::test]
async fn a_broken_version_leaves_the_last_good_one_in_force() {
    let (one, nonsense, two) = (marking("one"), b"#!/bin/sh".to_vec(), marking("two"));
    let refusing = refusing("three");
    let mut node = Node::new(&version(&one), &[&one, &nonsense, &refusing, &two]).await;
    node.in_force(&one).await;
    node.send(version(&nonsense), "2");
    let report = node.report(|it| !it.error.is_empty()).await;
    assert_eq!((report.loaded, &report.sha256), (false, &digest(&one)));
    assert!(
        report.error.contains("no WebAssembly module"),
        "{}",
        report.error
    );
    assert_eq!(node.mark().await, "one");
    assert_eq!(
        node.page().await["state"],
        "last good version in force",
        "the page says so too"
    );
    node.send(version(&refusing), "3");
    let report = node.report(|it| it.loaded && !it.error.is_empty()).await;
    assert_eq!((report.configured, &report.sha256), (false, &digest(&one)));
    assert_eq!(node.mark().await, "one");
    // Taken back, it is what is in force already.
    node.send(version(&one), "4");
    let report = node.in_force(&one).await;
    assert_eq!((report.loaded, &*report.error), (true, ""));
    node.send(version(&two), "5");
    node.in_force(&two).await;
    assert_eq!(node.mark().await, "two");
}

#[tokio::test]
async fn limits_beyond_what_a_node_allows_are_refused_by_name() {
    let one = marking("one");
    let mut rules = version(&one);
    rules.filters[0].limits = Some(weft_api::node::FilterLimits {
        memory: Some(1 << 40),
        ..Default::default()
    });
    let mut node = Node::new(&rules, &[&one]).await;
    let report = node.report(|it| !it.error.is_empty()).await;
    assert!(
        report.error.starts_with("limits.memory is 1099511627776"),
        "{}",
        report.error
    );
}

#[tokio::test]
async fn a_filter_without_a_module_says_what_its_object_lacks() {
    let lacking = Filter {
        sha256: String::new(),
        problem: "spec.module: no such ConfigMap".into(),
        ..filter("marking", b"", "")
    };
    let mut node = Node::new(&at_the_door(lacking), &[]).await;
    let report = node.report(|it| !it.error.is_empty()).await;
    assert_eq!(report.error, "spec.module: no such ConfigMap");
}

#[tokio::test]
async fn without_its_agent_the_proxy_starts_with_the_filters_that_it_had() {
    let one = marking("one");
    let mut node = Node::new(&version(&one), &[&one]).await;
    node.in_force(&one).await;
    let node = node.restart(None).await;
    until(async || node.page().await["state"] == "in force").await;
    assert_eq!(node.page().await["in_force"]["compiled_before"], true);
    assert_eq!(node.mark().await, "one");
}

#[tokio::test]
async fn after_a_restart_the_last_good_version_serves_for_a_broken_one() {
    let one = marking("one");
    let node = Node::with_a_broken_version_after(&one).await;
    let node = node.restart(None).await;
    until(async || node.page().await["state"] == "last good version in force").await;
    assert_eq!(node.mark().await, "one");
    // One that the agent never sent does not hold it up either.
    let absent = marking("absent");
    let mut node = node.restart(Some(version(&absent).version("3"))).await;
    let report = node
        .report(|it| it.error.contains("does not have it yet"))
        .await;
    assert_eq!(report.sha256, digest(&one));
    assert_eq!(node.mark().await, "one");
}

#[tokio::test]
async fn the_last_good_version_is_compiled_again_where_that_is_gone() {
    let one = marking("one");
    let node = Node::with_a_broken_version_after(&one).await;
    // Of the wanted one, which is refused at once, it is still there.
    let compiled = fs::read_dir(node.state().join("compiled")).expect("a folder");
    for path in compiled.flatten().map(|entry| entry.path()) {
        if path.to_string_lossy().contains(&digest(&one)) {
            fs::remove_file(path).expect("it was there");
        }
    }
    let node = node.restart(None).await;
    until(async || node.page().await["state"] == "last good version in force").await;
    assert_eq!(node.page().await["in_force"]["compiled_before"], false);
    assert_eq!(node.mark().await, "one");
}

#[tokio::test]
async fn a_module_that_has_rotted_is_fetched_anew() {
    let one = marking("one");
    let mut node = Node::new(&version(&one), &[&one]).await;
    node.in_force(&one).await;
    let kept = node.state().join(format!("modules/{}.wasm", digest(&one)));
    fs::write(&kept, marking("other")).expect("written");
    let mut node = node.restart(Some(version(&one))).await;
    node.report(|it| it.error.contains("does not have it yet"))
        .await;
    node.agent.offer_module(&digest(&one), one.clone());
    node.in_force(&one).await;
    assert_eq!(fs::read(&kept).expect("kept"), one);
}

#[tokio::test]
async fn an_agent_that_comes_back_is_told_everything_again() {
    let one = marking("one");
    let mut node = Node::new(&version(&one), &[&one]).await;
    node.in_force(&one).await;
    let snapshot = version(&one).snapshot(node.server.address);
    node.agent = Agent::start(node.directory.path(), Some(snapshot));
    let report = node.in_force(&one).await;
    assert_eq!(report.error, "");
    // And hears when the filter is gone.
    node.send(open(), "2");
    node.agent
        .reports(|reports| reports.filters.is_empty() && reports.version == "2")
        .await;
}

#[tokio::test]
async fn a_compiler_that_is_away_harms_nobody_and_is_missed_until_it_is_back() {
    let directory = tempfile::tempdir().expect("a folder");
    let compiler = script(directory.path(), "printf 'no room'; exit 4");
    let (one, server) = (marking("one"), Server::landing().await);
    let snapshot = version(&one).snapshot(server.address);
    let agent = Agent::start(directory.path(), Some(snapshot));
    agent.offer_module(&digest(&one), one.clone());
    let options = Options {
        compiler: Compiler::Apart(compiler),
        ..options(&directory, &agent, None, None)
    };
    let proxy = start_as(options).await;
    let mut node = Node {
        directory,
        agent,
        proxy,
        server,
    };
    let report = node.report(|it| !it.error.is_empty()).await;
    assert!(!report.loaded);
    assert!(
        report.error.ends_with("does not work: no room"),
        "{}",
        report.error
    );
    let mut client = Client::connect(node.proxy.status().listeners["http"]).await;
    assert_eq!(client.get("GET", "/").await.status, 503);
    // It is not the module that is to blame, so it is tried again.
    let program = env!("CARGO_BIN_EXE_weft-proxy");
    script(node.directory.path(), &format!("exec {program} \"$@\""));
    let report = node.in_force(&one).await;
    assert_eq!(report.error, "");
    assert_eq!(node.mark().await, "one");
}

#[tokio::test]
async fn a_proxy_that_is_alone_has_its_modules_in_a_folder() {
    let (one, two) = (marking("one"), marking("two"));
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("any.wasm"), &one).expect("written");
    let server = Server::landing().await;
    let snapshot = version(&one).snapshot(server.address);
    let text = serde_json::to_string(&snapshot).expect("JSON");
    let folder_name = folder.path().to_str().expect("text");
    let arguments = ["--workers", "1", "--module-dir", folder_name];
    let process = Process::run(&text, &arguments, &[]);
    let filters = async || process.admin("/filters").await;
    until(async || filters().await.contains(r#""state":"in force""#)).await;
    let mut client = Client::connect(process.address().await).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
    assert!(server.next().await.contains("x-version: one"));
    // What is not there is named, and the old one serves.
    let snapshot = version(&two).version("2").snapshot(server.address);
    write(&process.file(), &snapshot);
    process.signal("-HUP");
    let missing = format!(
        "no file in {folder_name} is the module sha256:{}: put it there and send SIGHUP",
        digest(&two)
    );
    until(async || filters().await.contains(&missing)).await;
    assert_eq!(client.get("GET", "/").await.status, 200);
    assert!(server.next().await.contains("x-version: one"));
    fs::write(folder.path().join(format!("{}.wasm", digest(&two))), &two).expect("written");
    process.signal("-HUP");
    until(async || {
        let now = filters().await;
        now.contains(r#""state":"in force""#) && now.contains(&digest(&two))
    })
    .await;
    assert_eq!(client.get("GET", "/").await.status, 200);
    assert!(server.next().await.contains("x-version: two"));
}

#[tokio::test]
async fn a_proxy_without_filters_has_no_thread_for_them() {
    let one = marking("one");
    let server = Server::landing().await;
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    let text = serde_json::to_string(&open().snapshot(server.address)).expect("JSON");
    let folder_name = folder.path().to_str().expect("text");
    let process = Process::run(&text, &["--module-dir", folder_name], &[]);
    let threads = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.child.id()));
        let names = tasks.expect("threads").flatten();
        names
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect()
    };
    process.address().await;
    let of_filters = |name: &String| name == "filters" || name.starts_with("wasm");
    assert!(!threads().iter().any(of_filters), "{:?}", threads());
    let snapshot = version(&one).version("2").snapshot(server.address);
    write(&process.file(), &snapshot);
    process.signal("-HUP");
    until(async || threads().iter().any(|name| name == "filters")).await;
}
