//! The process that compiles: what it may do, when it runs, how it ends.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_wasm_host::{
    COMPILE, Compiler, LoadError, Loader, Module, Order, Runtime, RuntimeSettings,
};

use crate::filters_loading::version;
use crate::support::process::Process;
use crate::support::server::Server;
use crate::support::until as until_async;
use crate::support::wat::marking;

const PROXY: &str = env!("CARGO_BIN_EXE_weft-proxy");
const LONG: Duration = Duration::from_secs(120);
/// So long a compiler is, whatever else there is to do.
const HELD_BACK: Duration = Duration::from_secs(60);

fn loader(program: impl Into<PathBuf>) -> Loader {
    let runtime = Runtime::new(RuntimeSettings { instances: 4 }).expect("an engine");
    Loader::new(Arc::new(runtime)).with_compiler(Compiler::Apart(program.into()))
}

fn load(program: impl Into<PathBuf>, module: &[u8]) -> Result<Arc<Module>, LoadError> {
    loader(program).load(module, None)
}

/// A compiler that does something else. Another process writes it: nobody can start a file that this
/// one has open, and what it starts meanwhile has it open for a moment, too.
pub fn script(folder: &Path, text: &str) -> PathBuf {
    let (text_file, path) = (folder.join("compiler.txt"), folder.join("compiler"));
    fs::write(&text_file, format!("#!/bin/sh\n{text}\n")).expect("written");
    let mut install = Command::new("install");
    let installed = install.args(["-m", "755"]).arg(&text_file).arg(&path);
    assert!(installed.status().expect("it starts").success());
    path
}

fn until<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(there) = there() {
            return there;
        }
        assert!(begin.elapsed() < LONG, "it comes");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What proc(5) says of a process after its name.
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_name, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn state(process: u32) -> Option<String> {
    stat(process)?.into_iter().next()
}

/// The process number that a script has left.
fn number(file: &Path) -> u32 {
    until(|| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[test]
fn it_says_what_this_process_would_say() {
    let here = |module: &[u8]| {
        let runtime = Runtime::new(RuntimeSettings { instances: 4 }).expect("an engine");
        Loader::new(Arc::new(runtime)).load(module, None)
    };
    let whole = marking("one");
    let module = load(PROXY, &whole).expect("a module");
    assert!(!module.cached());
    assert_eq!(module.abi(), here(&whole).expect("a module").abi());

    let loops = format!("{}{}", "(loop ".repeat(200), ")".repeat(200));
    let deep = wat::parse_str(format!("(module (func {loops}))")).expect("valid text");
    for module in [&whole[..whole.len() / 2], b"\0asm\x0d\0\x01\0\x0a", &deep] {
        let refused = load(PROXY, module).expect_err("refused");
        assert_eq!(refused, here(module).expect_err("refused"));
    }
    let refused = load(PROXY, &deep).expect_err("refused");
    assert!(matches!(refused, LoadError::TooComplex { .. }), "{refused}");
}

#[test]
fn one_that_stumbles_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    for (text, said) in [
        ("kill -SEGV $$", "stumbled over it (signal: 11"),
        ("kill -XCPU $$", "not done after ten minutes"),
        ("kill -XFSZ $$", "more than 1 GiB"),
        ("exit 1", "stumbled over it (exit status: 1)"),
        ("echo what; exit 3", "stumbled over it (exit status: 3)"),
        ("echo what", "of another version"),
    ] {
        let refused = load(script(folder.path(), text), &marking("one")).expect_err("no code");
        assert!(matches!(refused, LoadError::Compile(_)), "{refused:?}");
        assert!(refused.to_string().contains(said), "{text}: {refused}");
    }
}

#[test]
fn one_that_cannot_work_says_nothing_of_the_module() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = |program| load(program, &marking("one")).expect_err("no code");
    let absent = load(folder.path().join("none"));
    assert!(matches!(absent, LoadError::NoCompiler(_)), "{absent:?}");
    let unable = load(script(folder.path(), "printf 'no room'; exit 4"));
    assert_eq!(unable, LoadError::NoCompiler("no room".to_owned()));
    let killed = load(script(folder.path(), "kill -KILL $$"));
    assert_eq!(killed, LoadError::CompilerKilled);
}

#[test]
fn one_that_nobody_waits_for_is_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = folder.path().join("number");
    let text = format!("echo $$ > {}\nexec /bin/sleep 600", said.display());
    let loader = loader(script(folder.path(), &text));
    let order = Order::now();
    thread::scope(|scope| {
        let waits = || loader.load_ordered(&marking("one"), None, &order);
        let waits = scope.spawn(waits);
        let process = number(&said);
        assert!(state(process).is_some());
        order.give_up();
        let result = waits.join().expect("no panic");
        assert_eq!(result.expect_err("no code"), LoadError::GivenUp);
        assert_eq!(state(process), None);
    });
}

#[test]
fn it_stands_still_while_this_process_has_much_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = folder.path().join("number");
    let text = format!("echo $$ > {}\nwhile :; do :; done", said.display());
    let loader = loader(script(folder.path(), &text));
    let begin = Instant::now();
    let (busy, order) = (AtomicBool::new(true), Order::now());
    thread::scope(|scope| {
        let waits = scope.spawn(|| loader.load_ordered(&marking("one"), None, &order));
        let works = scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let process = number(&said);
        let stopped = || state(process).is_some_and(|state| state == "T");
        until(|| stopped().then_some(()));
        let looks = (0..100).filter(|_look| {
            thread::sleep(Duration::from_millis(5));
            stopped()
        });
        let looks = looks.count();
        busy.store(false, Ordering::Relaxed);
        works.join().expect("no panic");
        // Now this process has nothing to do, but for a look now and then.
        let goes_on = || {
            (0..10).all(|_look| {
                thread::sleep(Duration::from_millis(200));
                !stopped()
            })
        };
        while !goes_on() && begin.elapsed() < HELD_BACK {}
        let took = begin.elapsed();
        // Before anything else: it would go on for ever.
        order.give_up();
        let result = waits.join().expect("no panic");
        assert_eq!(result.expect_err("no code"), LoadError::GivenUp);
        assert!(looks > 50, "stopped when one looks {looks} times of 100");
        assert!(took < HELD_BACK, "it is not held back any more");
    });
}

/// The real one, which waits for a module that does not come.
fn waiting() -> Child {
    let child = Command::new(PROXY)
        .arg(COMPILE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    // The last thing that it gives up.
    until(|| is_confined(child.id()).then_some(()));
    child
}

fn is_confined(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    let wanted = ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"];
    status.is_ok_and(|status| wanted.iter().all(|line| status.contains(line)))
}

#[test]
fn it_comes_last_and_may_do_nothing() {
    const SCHED_IDLE: &str = "5";
    let mut child = waiting();
    let read = |name| fs::read_to_string(format!("/proc/{}/{name}", child.id())).expect("there");
    let status = read("status");
    for line in ["CapPrm:\t0000000000000000", "CapInh:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let limits = read("limits");
    for (name, limit) in [
        ("Max cpu time", "600"),
        ("Max file size", "1073741824"),
        ("Max core file size", "0"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let limited = line.and_then(|line| line.split_whitespace().next());
        assert_eq!(limited, Some(limit), "{limits}");
    }
    assert_eq!(stat(child.id()).expect("there")[38], SCHED_IDLE);
    child.kill().expect("it is there");
    child.wait().expect("it ends");
}

#[test]
fn it_ends_with_who_started_it() {
    let mut child = thread::spawn(waiting).join().expect("no panic");
    // What it reads is still open here: it does not end for that.
    let status = until(|| child.try_wait().expect("it is this one's"));
    assert_eq!(status.signal(), Some(9));
}

/// It takes a compiler longer than a proxy to end.
fn large() -> Vec<u8> {
    let body: String = (0..40)
        .map(|n| format!("(local.set 0 (i32.mul (i32.load (local.get 0)) (i32.const {n})))"))
        .collect();
    let functions: String = (0..20_000)
        .map(|_n| format!("(func (param i32) (result i32) {body} (local.get 0))"))
        .collect();
    let text = format!(
        r#"(module (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1")) {functions})"#
    );
    wat::parse_str(text).expect("valid text")
}

#[tokio::test]
async fn told_to_stop_while_it_compiles_it_does_not_blame_the_module() {
    let (folder, large) = (tempfile::tempdir().expect("a folder"), large());
    fs::write(folder.path().join("large.wasm"), &large).expect("written");
    let server = Server::landing().await;
    let snapshot = version(&large).snapshot(server.address);
    let text = serde_json::to_string(&snapshot).expect("JSON");
    let (modules, state) = (folder.path(), folder.path().join("state"));
    let name = |path: &Path| path.to_str().expect("text").to_owned();
    let (modules, state_name) = (name(modules), name(&state));
    let arguments = ["--module-dir", &modules, "--state-dir", &state_name];
    let mut process = Process::run(&text, &arguments, &[]);
    let marks = || fs::read_dir(state.join("compiling")).map_or(0, Iterator::count);
    until_async(async || marks() == 1).await;
    process.signal("-TERM");
    until_async(async || {
        process
            .child
            .try_wait()
            .expect("it is this one's")
            .is_some()
    })
    .await;
    assert_eq!(marks(), 0);
    let compiled = fs::read_dir(state.join("compiled")).map_or(0, Iterator::count);
    assert_eq!(compiled, 0, "it was not done yet");
}
