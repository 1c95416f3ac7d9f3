//! The manager's thread, step by step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_api::node as wire;
use weft_core::filter::{FailPolicy, FilterSpec, Isolation, OnError};
use weft_wasm_host::budget::BudgetLimits;
use weft_wasm_host::{Compiler, ConfigureError, Digest, LoadError};

use super::entry::{Entry, Progress};
use super::keeper::Keeper;
use super::{Message, Setup, Wish, Wishes};
use crate::control::convert;
use crate::filter::Registry;
use crate::filter::failure::Failure;
use crate::filter::listing::Listing;
use crate::filter::modules::Source;

/// A module that is told from others by its text.
fn module(text: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
  (memory (export "memory") 1)
  (data (i32.const 0) "{text}")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 1024)))"#
    );
    wat::parse_str(text).expect("valid text")
}

/// One whose start takes far longer than one for each request may take.
fn slow_module(text: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
  (memory (export "memory") 1)
  (data (i32.const 0) "{text}")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 1024))
  (func (export "_initialize") (local i32)
    (loop
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if 0 (i32.lt_u (local.get 0) (i32.const 50000000))))))"#
    );
    wat::parse_str(text).expect("valid text")
}

fn spec(name: &str, module: &[u8], vm_id: &str) -> (wire::Filter, Arc<FilterSpec>) {
    spec_in("default", name, module, vm_id, Isolation::Worker)
}

fn spec_in(
    namespace: &str,
    name: &str,
    module: &[u8],
    vm_id: &str,
    isolation: Isolation,
) -> (wire::Filter, Arc<FilterSpec>) {
    let wire = wire::Filter {
        kind: "WasmPlugin".into(),
        namespace: namespace.into(),
        name: name.into(),
        isolated: isolation == Isolation::Request,
        sha256: Digest::of(module).hex(),
        plugin: Some(wire::FilterPlugin {
            vm_id: vm_id.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let snapshot = wire::Snapshot {
        filters: vec![wire.clone()],
        ..Default::default()
    };
    let mut specs = convert::filters(&snapshot).expect("valid");
    (wire, specs.remove(0))
}

/// A compiler that is never done. Another process writes it, or it might not be
/// startable yet.
fn endless(folder: &Path) -> PathBuf {
    let (text, path) = (folder.join("compiler.txt"), folder.join("compiler"));
    fs::write(&text, "#!/bin/sh\nexec /bin/sleep 600\n").expect("written");
    let mut install = Command::new("install");
    let installed = install.args(["-m", "755"]).arg(&text).arg(&path);
    assert!(installed.status().expect("it starts").success());
    path
}

/// A manager without its thread.
struct Bench {
    keeper: Keeper,
    inbox: mpsc::Sender<Message>,
    registry: Registry,
    _control: tokio::runtime::Runtime,
}

impl Bench {
    /// With the modules of a folder.
    fn new(folder: &Path) -> Self {
        Self::with(folder, |_setup| ())
    }

    fn with(folder: &Path, change: impl FnOnce(&mut Setup)) -> Self {
        let control = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let mut setup = Setup {
            source: Source::Folder(Some(folder.to_owned())),
            state: None,
            node: None,
            compiler: Compiler::Here,
            workers: 1,
            control: control.handle().clone(),
        };
        change(&mut setup);
        let (sender, receiver) = mpsc::channel();
        let listing = watch::Sender::<Arc<Listing>>::default();
        let keeper = Keeper::new(setup, receiver, sender.clone(), listing);
        Self {
            keeper,
            inbox: sender,
            registry: Registry::new(BudgetLimits::default(), 1),
            _control: control,
        }
    }

    /// All that can be done for a filter.
    fn work(&mut self, at: usize) {
        self.keeper.work(at);
        while let Progress::AwaitCompiler(_module) = self.keeper.entries[at].progress {
            self.compiled(at);
            self.keeper.work(at);
        }
    }

    /// Until a filter that waits for the compiler can go on.
    fn compiled(&mut self, at: usize) {
        let begin = Instant::now();
        while self.waits(at) {
            assert!(begin.elapsed() < Duration::from_secs(60), "it compiles");
            thread::sleep(Duration::from_millis(1));
            self.keeper.read_inbox();
        }
    }

    fn waits(&self, at: usize) -> bool {
        match self.keeper.entries[at].progress {
            Progress::AwaitCompiler(module) => !self.keeper.engine.has_turn(module),
            _ => false,
        }
    }

    fn wishes(&mut self, filters: Vec<(wire::Filter, Arc<FilterSpec>)>) -> Wishes {
        let specs: Vec<_> = filters
            .iter()
            .map(|(_wire, spec)| Arc::clone(spec))
            .collect();
        let known = self.registry.resolve(&specs);
        let filters = filters.into_iter().zip(&known);
        Wishes {
            filters: filters
                .map(|((wire, spec), filter)| Wish {
                    wire: Arc::new(wire),
                    spec,
                    filter: Arc::clone(filter),
                })
                .collect(),
            ..Wishes::default()
        }
    }
}

#[test]
fn what_is_superseded_does_not_come_into_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (module("one"), module("two"));
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    fs::write(folder.path().join("two.wasm"), &two).expect("written");
    let mut bench = Bench::new(folder.path());
    let first = bench.wishes(vec![spec("a", &one, "")]);
    let second = bench.wishes(vec![spec("a", &two, "")]);
    let filter = Arc::clone(&first.filters[0].filter);
    bench.keeper.take(Message::Wishes(first));
    bench.keeper.work(0);
    bench.compiled(0);
    // It comes when the first one is about to be started.
    bench.inbox.send(Message::Wishes(second)).expect("heard");
    bench.keeper.work(0);
    assert!(filter.published.current().is_none());
    bench.work(0);
    let current = filter.published.current().expect("in force");
    assert_eq!(current.module().digest(), Digest::of(&two));
    assert_eq!(filter.published.condition().generation, 1);
}

#[test]
fn what_nobody_wants_any_more_is_not_compiled_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (module("one"), module("two"));
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    fs::write(folder.path().join("two.wasm"), &two).expect("written");
    let compiler = endless(folder.path());
    let mut bench = Bench::with(folder.path(), |setup| {
        setup.compiler = Compiler::Apart(compiler);
    });
    let [first, second, again] =
        [&one, &two, &one].map(|module| bench.wishes(vec![spec("a", module, "")]));
    bench.keeper.take(Message::Wishes(first));
    bench.keeper.work(0);
    for next in [second, again] {
        bench.keeper.take(Message::Wishes(next));
        bench.keeper.work(0);
        // Until its turn has come: the compiler would work for ever on the one before.
        bench.compiled(0);
        assert_eq!(bench.keeper.entries[0].state().error, None);
        bench.keeper.work(0);
        assert!(bench.waits(0), "another one is compiled");
    }
}

#[test]
fn a_proxy_that_stops_does_not_blame_the_module() {
    let folder = tempfile::tempdir().expect("a folder");
    let one = module("one");
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    let compiler = endless(folder.path());
    let state = folder.path().join("state");
    let mut bench = Bench::with(folder.path(), |setup| {
        setup.state = Some(state.clone());
        setup.compiler = Compiler::Apart(compiler);
    });
    let wishes = bench.wishes(vec![spec("a", &one, "")]);
    bench.keeper.take(Message::Wishes(wishes));
    bench.keeper.work(0);
    assert!(bench.waits(0));
    let marks = || fs::read_dir(state.join("compiling")).map_or(0, Iterator::count);
    assert_eq!(marks(), 1);
    drop(bench);
    assert_eq!(marks(), 0);
}

#[test]
fn what_is_compiled_already_does_not_wait_for_the_compiler() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (module("one"), module("two"));
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    fs::write(folder.path().join("two.wasm"), &two).expect("written");
    let mut bench = Bench::new(folder.path());
    let wishes = bench.wishes(vec![spec("a", &one, "")]);
    bench.keeper.take(Message::Wishes(wishes));
    bench.work(0);
    let filters = vec![
        spec("a", &one, ""),
        spec("new", &two, ""),
        spec("b", &one, ""),
    ];
    let wishes = bench.wishes(filters);
    bench.keeper.take(Message::Wishes(wishes));
    bench.keeper.work(1);
    assert!(bench.waits(1));
    bench.keeper.work(2);
    assert!(bench.keeper.entries[2].is_in_force());
    assert!(!bench.keeper.entries[1].is_in_force());
}

#[test]
fn a_module_that_many_filters_have_is_loaded_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let one = module("one");
    fs::write(folder.path().join("one.wasm"), &one).expect("written");
    let mut bench = Bench::new(folder.path());
    let wishes = bench.wishes(vec![spec("a", &one, "vm"), spec("b", &one, "vm")]);
    let filters: Vec<_> = wishes
        .filters
        .iter()
        .map(|it| Arc::clone(&it.filter))
        .collect();
    bench.keeper.take(Message::Wishes(wishes));
    bench.keeper.work(0);
    bench.keeper.work(1);
    assert!(bench.waits(1));
    bench.work(0);
    bench.work(1);
    let module = |at: usize| {
        let current = filters[at].published.current().expect("in force");
        Arc::clone(current.module())
    };
    assert!(Arc::ptr_eq(&module(0), &module(1)));
}

#[test]
fn filters_that_name_one_machine_have_their_queues_in_common() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(folder.path());
    let one = module("one");
    let filters = ["vm", "vm", "other", "", ""]
        .iter()
        .zip(["a", "b", "c", "d", "e"]);
    let filters: Vec<_> = filters.map(|(vm, name)| spec(name, &one, vm)).collect();
    let specs: Vec<_> = filters
        .iter()
        .map(|(_wire, spec)| Arc::clone(spec))
        .collect();
    let wishes = bench.wishes(filters);
    bench.keeper.take(Message::Wishes(wishes));
    let queues: Vec<_> = specs
        .iter()
        .enumerate()
        .map(|(at, spec)| bench.keeper.queues(at, spec))
        .collect();
    assert!(Arc::ptr_eq(&queues[0], &queues[1]));
    for (one, other) in [(0, 2), (0, 3), (3, 4)] {
        assert!(!Arc::ptr_eq(&queues[one], &queues[other]), "{one} {other}");
    }
}

#[test]
fn what_may_pass_is_tried_again_after_longer_and_longer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(folder.path());
    let mut wishes = bench.wishes(vec![spec("a", b"", "")]);
    let mut entry = Entry::new(wishes.filters.remove(0));
    let now = Instant::now();
    let absent = Failure::fetch("not here");
    let mut waits = Vec::new();
    for attempt in 0..8 {
        let news = entry.failed(absent.clone(), now, true);
        assert_eq!(news, attempt == 0, "the same is said once");
        let Progress::Again(at) = entry.progress else {
            panic!("{:?}", entry.progress);
        };
        waits.push((at - now).as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(entry.state().error.as_deref(), Some("not here"));
    // What it is made of does not change by itself.
    let broken = LoadError::Compile("no".to_owned());
    assert!(entry.failed(broken.into(), now, true));
    assert_eq!(entry.progress, Progress::Over);
}

#[test]
fn a_filter_is_made_anew_where_its_version_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(folder.path());
    let mut wish = |change: &dyn Fn(&mut FilterSpec)| {
        let (wire, spec) = spec("a", b"", "");
        let mut changed = (*spec).clone();
        change(&mut changed);
        bench
            .wishes(vec![(wire, Arc::new(changed))])
            .filters
            .remove(0)
    };
    let mut entry = Entry::new(wish(&|_spec| ()));
    entry.progress = Progress::Over;
    entry.renew(wish(&|spec| {
        spec.callouts = Arc::from([Box::from("authz:80")])
    }));
    assert_eq!(entry.progress, Progress::Over, "that is the pipeline's");
    let changes: [&dyn Fn(&mut FilterSpec); 5] = [
        &|spec| spec.config = Arc::from(&b"{}"[..]),
        &|spec| spec.module = None,
        &|spec| spec.limits.memory = Some(1),
        &|spec| spec.on_error = OnError::all(FailPolicy::Open),
        &|spec| spec.isolation = Isolation::Request,
    ];
    for change in changes {
        entry.progress = Progress::Over;
        entry.renew(wish(change));
        assert_eq!(entry.progress, Progress::ToDo);
    }
}

#[test]
fn filters_that_start_too_slowly_hold_up_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (slow, slower, good) = (slow_module("a"), slow_module("b"), module("good"));
    for (name, module) in [("a", &slow), ("b", &slower), ("c", &good)] {
        fs::write(folder.path().join(format!("{name}.wasm")), module).expect("written");
    }
    let mut bench = Bench::new(folder.path());
    let isolated =
        |name: &str, module: &[u8]| spec_in("default", name, module, "", Isolation::Request);
    let filters = vec![
        isolated("a", &slow),
        isolated("b", &slower),
        spec("c", &good, ""),
    ];
    let wishes = bench.wishes(filters.clone());
    let filter = Arc::clone(&wishes.filters[2].filter);
    bench.keeper.take(Message::Wishes(wishes));
    // As late as it is when each of them has taken ten seconds.
    let later = Instant::now() + Duration::from_secs(60);
    for expected in 0..3 {
        let at = bench.keeper.next(later).expect("something to do");
        assert_eq!(at, expected);
        bench.work(at);
    }
    assert!(filter.published.current().is_some());
    assert_eq!(bench.keeper.next(later), None, "they fail again as before");
    let wishes = bench.wishes(filters);
    bench.keeper.take(Message::Wishes(wishes));
    assert_eq!(
        bench.keeper.next(later),
        None,
        "nor does a snapshot change that"
    );
    let much_later = later + Duration::from_secs(600);
    assert_eq!(bench.keeper.next(much_later), Some(0));
}

#[test]
fn namespaces_take_turns_and_in_each_the_one_that_waits_longest() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(folder.path());
    let namespaces = ["many", "many", "many", "few", "other"];
    let filters = namespaces.iter().zip(["a", "b", "c", "d", "e"]);
    let filters: Vec<_> = filters
        .map(|(namespace, name)| {
            let module = module(name);
            fs::write(folder.path().join(format!("{name}.wasm")), &module).expect("written");
            spec_in(namespace, name, &module, "", Isolation::Worker)
        })
        .collect();
    let wishes = bench.wishes(filters);
    bench.keeper.take(Message::Wishes(wishes));
    let now = Instant::now();
    let mut in_force = Vec::new();
    while in_force.len() < namespaces.len() {
        let Some(at) = bench.keeper.next(now) else {
            let all = 0..namespaces.len();
            let waiting: Vec<_> = all.filter(|at| bench.waits(*at)).collect();
            bench.compiled(waiting[0]);
            continue;
        };
        bench.keeper.work(at);
        if bench.keeper.entries[at].is_in_force() {
            in_force.push(at);
        }
    }
    // To find the compiler busy is no turn.
    assert_eq!(in_force, [0, 3, 4, 1, 2]);
}

#[test]
fn without_a_place_for_modules_none_is_asked_for_before_its_turn() {
    let folder = tempfile::tempdir().expect("a folder");
    let compiler = endless(folder.path());
    let mut bench = Bench::with(folder.path(), |setup| {
        setup.source = Source::Agent("/nowhere".into());
        setup.compiler = Compiler::Apart(compiler);
    });
    let (one, two) = (module("one"), module("two"));
    let wishes = bench.wishes(vec![spec("a", &one, ""), spec("b", &two, "")]);
    bench.keeper.take(Message::Wishes(wishes));
    bench.keeper.work(0);
    let (digest, result) = (Digest::of(&one), Ok(one));
    bench.keeper.take(Message::Fetched { digest, result });
    bench.keeper.work(0);
    assert!(bench.waits(0));
    bench.keeper.work(1);
    let asks = matches!(bench.keeper.entries[1].progress, Progress::Ask(_));
    assert!(asks, "{:?}", bench.keeper.entries[1].progress);
    let pause = bench.keeper.pause(Instant::now());
    assert!(
        pause > Duration::from_secs(1),
        "it does not spin: {pause:?}"
    );
}

#[test]
fn what_is_tried_again_waits_behind_what_was_not_tried_yet() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(folder.path());
    let mut wishes = bench.wishes(vec![spec("a", b"", ""), spec("b", b"", "")]);
    let mut tried = Entry::new(wishes.filters.remove(0));
    let waiting = Entry::new(wishes.filters.remove(0));
    let now = Instant::now();
    tried.failed(Failure::fetch("not here"), now, true);
    let later = now + Duration::from_secs(60);
    assert!(waiting.due(later) < tried.due(later));
    let slow = ConfigureError::TooSlow {
        cost: Duration::from_secs(9),
    };
    tried.failed(slow.into(), now, true);
    assert_eq!(tried.due(later), None);
}
