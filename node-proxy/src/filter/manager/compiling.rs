//! Modules that are compiled, one at a time and on a thread of its own: what is
//! compiled already does not wait for it.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use weft_wasm_host::{Digest, LoadError, Loader, Module, Order};

use super::Message;
use super::engine::unless_it_panics;
use crate::filter::failure::Failure;

/// What came of compiling a module.
pub(super) type Compiled = Result<Arc<Module>, Failure>;

/// The compiler, as the manager sees it.
#[derive(Debug)]
pub(super) struct Compiling {
    own: mpsc::Sender<Message>,
    /// What is being compiled.
    under_way: Option<(Digest, Arc<Order>)>,
    /// What came of those before, for whoever has waited for it.
    results: HashMap<Digest, Compiled>,
    /// Since when there has been something to compile without a break.
    busy_since: Option<Instant>,
    stopped: bool,
}

impl Compiling {
    /// What comes of it is told to `own`.
    pub(super) fn new(own: mpsc::Sender<Message>) -> Self {
        Self {
            own,
            under_way: None,
            results: HashMap::new(),
            busy_since: None,
            stopped: false,
        }
    }

    /// Whether something can be compiled now.
    pub(super) const fn is_free(&self) -> bool {
        self.under_way.is_none() && !self.stopped
    }

    /// The module that is being compiled.
    pub(super) fn module(&self) -> Option<Digest> {
        self.under_way.as_ref().map(|(digest, _order)| *digest)
    }

    /// What has come of it, if it was compiled just now.
    pub(super) fn result(&self, digest: Digest) -> Option<&Compiled> {
        self.results.get(&digest)
    }

    /// Begins, if it is free.
    pub(super) fn start(
        &mut self,
        loader: Arc<Loader>,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), LoadError> {
        tracing::info!(module = %digest, size = bytes.len(), "compiling");
        let since = *self.busy_since.get_or_insert_with(Instant::now);
        let order = Arc::new(Order::since(since));
        let (own, ordered) = (self.own.clone(), Arc::clone(&order));
        let work = move || {
            let load = || loader.load_ordered(&bytes, Some(digest), &ordered);
            let result = unless_it_panics(load).and_then(|loaded| Ok(loaded?));
            // Nobody may be there any more.
            let _told = own.send(Message::Compiled { digest, result });
        };
        let thread = thread::Builder::new().name("compiling".to_owned());
        thread
            .spawn(work)
            .map_err(|error| LoadError::NoCompiler(error.to_string()))?;
        self.under_way = Some((digest, order));
        Ok(())
    }

    /// It is done.
    pub(super) fn end(&mut self, digest: Digest, result: Compiled) {
        let given_up = self.under_way.take();
        let given_up = given_up.is_some_and(|(_digest, order)| order.is_given_up());
        // What was given up may be wanted again since, and is compiled then.
        if result.is_ok() || !given_up {
            self.results.insert(digest, result);
        }
    }

    /// Nobody waits for anything that could be done now.
    pub(super) fn rest(&mut self) {
        self.results.clear();
        if self.under_way.is_none() {
            self.busy_since = None;
        }
    }

    /// Gives up what is being compiled unless somebody wants it.
    pub(super) fn give_up_unless(&self, wanted: impl FnOnce(Digest) -> bool) {
        if let Some((digest, order)) = &self.under_way
            && !wanted(*digest)
        {
            order.give_up();
        }
    }

    /// From here on nothing is compiled.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.give_up_unless(|_digest| false);
    }
}
