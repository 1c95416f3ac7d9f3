//! The manager's thread: one filter at a time, from what is wanted to what is
//! in force.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::filter::FilterSpec;
use weft_wasm_host::clock::{Clock, SystemClock};
use weft_wasm_host::shared::queue::Queues;
use weft_wasm_host::{Digest, Filter, Module, ReloadError, giving_way};

use super::engine::{Engine, Lookup, unless_it_panics};
use super::entry::{Entry, Progress};
use super::look_back::LookBack;
use super::{Message, Setup, Wishes};
use crate::control::client;
use crate::filter::build::{self, Surroundings};
use crate::filter::failure::Failure;
use crate::filter::last_good::LastGood;
use crate::filter::listing::Listing;
use crate::filter::modules::Source;

/// How often values that are over are removed, and lines that were dropped are
/// told of.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a version that is made gives way to requests.
const PATIENCE: Duration = Duration::from_millis(500);
/// Values of one filter that are removed at once, in each of its shards.
const SWEPT: usize = 1024;
/// Modules are checked and started behind requests; what compiles them is a
/// process of its own, further still.
const NICE: i32 = 10;
/// Until there is something to do.
const LONG: Duration = Duration::from_secs(3600);

/// The thread.
pub(super) struct Keeper {
    setup: Setup,
    inbox: mpsc::Receiver<Message>,
    own: mpsc::Sender<Message>,
    listing: watch::Sender<Arc<Listing>>,
    /// In the order of the snapshot.
    pub(super) entries: Vec<Entry>,
    /// Attempts so far, and with which one each namespace had its last turn.
    turns: u64,
    turn_of: HashMap<Box<str>, u64>,
    version: String,
    /// Names of the node and of its cluster.
    node: (String, String),
    pub(super) engine: Engine,
    pub(super) good: LastGood,
    queues: HashMap<(Box<str>, Box<str>), Weak<Queues>>,
    /// The module that the agent is asked for.
    asked: Option<Digest>,
    swept: Instant,
    pub(super) news: bool,
    prune: bool,
    stopping: bool,
}

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        inbox: mpsc::Receiver<Message>,
        own: mpsc::Sender<Message>,
        listing: watch::Sender<Arc<Listing>>,
    ) -> Self {
        let engine = Engine::new(&setup, own.clone());
        let good = LastGood::load(setup.state.clone());
        Self {
            setup,
            inbox,
            own,
            listing,
            entries: Vec::new(),
            turns: 0,
            turn_of: HashMap::new(),
            version: String::new(),
            node: (String::new(), String::new()),
            engine,
            good,
            queues: HashMap::new(),
            asked: None,
            swept: Instant::now(),
            news: false,
            prune: false,
            stopping: false,
        }
    }

    pub(super) fn run(mut self) {
        // Requests come first. Where it is not allowed it goes on as it is.
        let _refused = rustix::process::setpriority_process(None, NICE);
        while !self.stopping {
            self.read_inbox();
            self.tell();
            let now = Instant::now();
            self.sweep(now);
            if let Some(at) = self.next(now) {
                self.work(at);
                continue;
            }
            self.ask(now);
            self.tidy();
            match self.inbox.recv_timeout(self.pause(Instant::now())) {
                Ok(message) => self.take(message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
        self.good.save();
    }

    /// Takes what has come meanwhile: what is not wanted any more is not made.
    pub(super) fn read_inbox(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
    }

    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Wishes(wishes) => self.want(wishes),
            Message::Fetched { digest, result } => self.fetched(digest, result),
            Message::Compiled { digest, result } => self.engine.bring_compiled(digest, result),
            // Its sender is dropped when that is done.
            Message::Drain(_done) => self.engine.stop_compiling(),
            Message::Stop => self.stopping = true,
        }
    }

    fn want(&mut self, wishes: Wishes) {
        self.version = wishes.version;
        self.node = (wishes.node, wishes.cluster);
        let entries = std::mem::take(&mut self.entries).into_iter();
        let mut before: HashMap<u64, Entry> =
            entries.map(|entry| (entry.wish.filter.id, entry)).collect();
        let wanted = wishes.filters.into_iter();
        self.entries = wanted
            .map(|wish| match before.remove(&wish.filter.id) {
                Some(mut entry) => {
                    entry.renew(wish);
                    entry
                }
                None => Entry::new(wish),
            })
            .collect();
        let keys = self.entries.iter().map(|entry| &entry.spec().key).collect();
        self.good.retain(&keys);
        let there: HashSet<_> = keys.iter().map(|key| &*key.namespace).collect();
        self.turn_of
            .retain(|namespace, _turn| there.contains(&**namespace));
        self.engine.modules.look();
        self.give_up_unwanted();
        self.news = true;
        self.prune = true;
    }

    /// What is compiled for nobody is not compiled to its end.
    fn give_up_unwanted(&self) {
        let wants = |digest| {
            let mut wanted = self.entries.iter().filter_map(Entry::module);
            wanted.any(|it| it == digest) || self.good.modules().any(|it| it == digest)
        };
        self.engine.compiling.give_up_unless(wants);
    }

    fn fetched(&mut self, digest: Digest, result: Result<Vec<u8>, String>) {
        self.asked = None;
        let found = result.and_then(|module| match Digest::of(&module) {
            found if found == digest => Ok(module),
            found => Err(format!("the agent sent {found} instead")),
        });
        let now = Instant::now();
        let waiting = self.entries.iter_mut().filter(|entry| {
            matches!(entry.progress, Progress::Ask(_)) && entry.module() == Some(digest)
        });
        match found {
            Ok(module) => {
                waiting.for_each(Entry::enqueue);
                self.engine.bring(digest, module.into());
            }
            Err(why) => {
                let failure = Failure::fetch(format!("no module {digest}: {why}"));
                for entry in waiting {
                    if entry.not_fetched(failure.clone(), now) {
                        warn(entry, &failure);
                        self.news = true;
                    }
                }
            }
        }
    }

    /// The next filter that something can be done for. One attempt may take ten
    /// seconds, so namespaces take turns, and in each the one that has waited
    /// longest comes first: nobody's filters keep those of others from loading.
    pub(super) fn next(&self, now: Instant) -> Option<usize> {
        let due = self.entries.iter().enumerate().filter_map(|(at, entry)| {
            let since = entry.due(now)?;
            if let Progress::AwaitCompiler(module) = entry.progress
                && !self.engine.has_turn(module)
            {
                return None;
            }
            let turn = self.turn_of.get(&entry.spec().key.namespace);
            Some((turn.copied().unwrap_or_default(), since, at))
        });
        due.min().map(|(_turn, _since, at)| at)
    }

    pub(super) fn work(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at) else {
            return;
        };
        let (id, namespace) = (entry.wish.filter.id, entry.spec().key.namespace.clone());
        self.attempt(at);
        // To find the compiler busy with another module is no turn.
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.wish.filter.id == id);
        let waits = entry.is_some_and(|entry| match entry.progress {
            Progress::AwaitCompiler(module) => self.engine.compiling.module() != Some(module),
            _ => false,
        });
        if !waits {
            self.turns += 1;
            self.turn_of.insert(namespace, self.turns);
        }
    }

    fn attempt(&mut self, at: usize) {
        if let LookBack::Waits(module) = self.look_back(at) {
            return self.wait(at, Progress::AwaitCompiler(module));
        }
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        if entry.is_in_force()
            && let Some(current) = entry.wish.filter.published.current()
        {
            entry.succeeded(current);
            self.news = true;
            return;
        }
        let (id, spec) = (entry.wish.filter.id, Arc::clone(entry.spec()));
        let Some(digest) = entry.module() else {
            let problem = spec.problem.as_deref();
            return self.failed(at, Failure::fetch(problem.unwrap_or("it has no module")));
        };
        let module = match self.engine.module(digest) {
            Ok(Lookup::Ready(module)) => module,
            Ok(Lookup::Missing) => return self.wait(at, Progress::Ask(Instant::now())),
            Ok(Lookup::Compiling) => return self.wait(at, Progress::AwaitCompiler(digest)),
            Err(failure) => return self.failed(at, failure),
        };
        // To start it may take long: not for what nobody wants any more.
        self.read_inbox();
        let Some(at) = self.entries.iter().position(|entry| {
            entry.wish.filter.id == id && build::same(entry.spec(), &spec) && !self.stopping
        }) else {
            return;
        };
        match self.version(at, module, &spec) {
            Ok(filter) => self.succeeded(at, filter),
            Err(failure) => self.failed(at, failure),
        }
    }

    fn wait(&mut self, at: usize, progress: Progress) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.progress = progress;
        }
    }

    fn succeeded(&mut self, at: usize, filter: Arc<Filter>) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        let module = filter.module();
        tracing::info!(
            filter = &*entry.wish.filter.name,
            module = %module.digest(),
            abi = %module.abi(),
            milliseconds = module.took().as_millis(),
            cached = module.cached(),
            "filter in force"
        );
        entry.succeeded(filter);
        self.good.set(&entry.wish.wire, &entry.wish.spec);
        self.give_up_unwanted();
        self.news = true;
    }

    fn failed(&mut self, at: usize, failure: Failure) {
        // A folder is looked at when the proxy is told to.
        let again = matches!(self.setup.source, Source::Agent(_))
            || !matches!(failure.error, ReloadError::Fetch(_));
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        // Without a module there is nothing to try.
        let again = again && entry.module().is_some();
        if entry.failed(failure.clone(), Instant::now(), again) {
            warn(entry, &failure);
            self.news = true;
        }
    }

    pub(super) fn version(
        &mut self,
        at: usize,
        module: Arc<Module>,
        spec: &FilterSpec,
    ) -> Result<Arc<Filter>, Failure> {
        let around = Surroundings {
            node: self.setup.node.clone().unwrap_or(self.node.0.clone()),
            cluster: self.node.1.clone(),
            queues: self.queues(at, spec),
        };
        let runtime = Arc::clone(self.engine.loader()?.runtime());
        let Some(entry) = self.entries.get(at) else {
            return Err(Failure::fetch("it is not wanted any more"));
        };
        let filter = &entry.wish.filter;
        let log = Arc::clone(&entry.log);
        let version = || build::version(&runtime, module, spec, filter, around, log);
        let ready = || {
            let version = version()?;
            version.make_ready(self.setup.workers);
            Ok(version)
        };
        giving_way(PATIENCE, || unless_it_panics(ready))?
    }

    /// Filters of a namespace that name the same `vm_id` have their queues in
    /// common.
    pub(super) fn queues(&mut self, at: usize, spec: &FilterSpec) -> Arc<Queues> {
        if spec.plugin.vm_id.is_empty()
            && let Some(entry) = self.entries.get(at)
        {
            return Arc::clone(&entry.wish.filter.shared.queues);
        }
        self.queues.retain(|_vm, queues| queues.strong_count() > 0);
        let vm = (spec.key.namespace.clone(), spec.plugin.vm_id.clone());
        if let Some(queues) = self.queues.get(&vm).and_then(Weak::upgrade) {
            return queues;
        }
        let queues = Arc::default();
        self.queues.insert(vm, Arc::downgrade(&queues));
        queues
    }

    /// Asks the agent for the next module that is missing.
    fn ask(&mut self, now: Instant) {
        let Source::Agent(socket) = &self.setup.source else {
            return;
        };
        if self.asked.is_some() || !self.engine.takes_modules() {
            return;
        }
        let missing = self
            .entries
            .iter()
            .filter_map(|entry| match entry.progress {
                Progress::Ask(at) if at <= now => Some((at, entry.module()?)),
                _ => None,
            });
        // Whose turn was first, and not who is first in the snapshot: each may take long to fail.
        let Some((_at, digest)) = missing.min_by_key(|(at, _digest)| *at) else {
            return;
        };
        self.asked = Some(digest);
        let (socket, own) = (socket.clone(), self.own.clone());
        self.setup.control.spawn(async move {
            let result = client::module(&socket, digest.hex()).await;
            let _stopped = own.send(Message::Fetched { digest, result });
        });
    }

    /// What can wait until nothing else is to be done.
    fn tidy(&mut self) {
        self.engine.rest(self.entries.is_empty());
        self.good.save();
        if std::mem::take(&mut self.prune) {
            let wanted = self.entries.iter().filter_map(Entry::module);
            let mut used: HashSet<_> = wanted.chain(self.good.modules()).collect();
            used.extend(self.entries.iter().filter_map(|entry| {
                let current = entry.wish.filter.published.current()?;
                Some(current.module().digest())
            }));
            self.engine.modules.prune(&used);
        }
    }

    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let clock = SystemClock.monotonic();
        for entry in &self.entries {
            entry.wish.filter.shared.kv.sweep(clock, SWEPT);
            entry.log.flush();
        }
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        if self.entries.is_empty() {
            return LONG;
        }
        let attempts = self
            .entries
            .iter()
            .filter_map(|entry| match entry.progress {
                Progress::Again(at) => Some(at),
                Progress::Ask(at) if self.asked.is_none() && self.engine.takes_modules() => {
                    Some(at)
                }
                _ => None,
            });
        let next = attempts.chain([self.swept + SWEEP]).min();
        next.map_or(LONG, |next| next.saturating_duration_since(now))
    }

    pub(super) fn tell(&mut self) {
        if std::mem::take(&mut self.news) {
            let listing = Listing {
                version: self.version.clone(),
                filters: self.entries.iter().map(Entry::state).collect(),
            };
            self.listing.send_replace(Arc::new(listing));
        }
    }
}

fn warn(entry: &Entry, failure: &Failure) {
    tracing::warn!(
        filter = &*entry.wish.filter.name,
        error = %failure.text,
        "filter not in force as it is wanted"
    );
}
