//! What serves after a restart until the version that is wanted does: the last
//! good one.

use std::sync::Arc;

use weft_core::filter::FilterSpec;
use weft_wasm_host::{Digest, Module};

use super::engine::Lookup;
use super::entry::Entry;
use super::keeper::Keeper;
use crate::filter::build;
use crate::filter::failure::Failure;

/// Whether the last good version was looked for.
pub(super) enum LookBack {
    /// What there is of it is in force.
    Done,
    /// Its module is to be compiled first.
    Waits(Digest),
}

impl Keeper {
    /// Puts the last good version of a filter in force, if none is and it is
    /// another than the one that is wanted. That is tried once.
    pub(super) fn look_back(&mut self, at: usize) -> LookBack {
        if !self.entries.get(at).is_some_and(Entry::looks_back) {
            return LookBack::Done;
        }
        if let Some((good, digest)) = self.good_of(at) {
            match self.engine.module(digest) {
                Ok(Lookup::Compiling) => return LookBack::Waits(digest),
                Ok(Lookup::Ready(module)) => self.put_back(at, module, good),
                Ok(Lookup::Missing) => {}
                Err(failure) => self.not_put_back(at, &failure),
            }
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.looked_back = true;
        }
        LookBack::Done
    }

    /// The last good version of a filter, if it is not the one that is wanted.
    fn good_of(&self, at: usize) -> Option<(Arc<FilterSpec>, Digest)> {
        let wanted = self.entries.get(at)?.spec();
        let good = self.good.get(&wanted.key)?;
        let digest = good.module?.to_string().parse().ok()?;
        (!build::same(good, wanted)).then(|| (Arc::clone(good), digest))
    }

    fn not_put_back(&self, at: usize, failure: &Failure) {
        if let Some(entry) = self.entries.get(at) {
            let (filter, error) = (&*entry.wish.filter.name, &*failure.text);
            tracing::warn!(filter, error, "the last good version does not start");
        }
    }

    fn put_back(&mut self, at: usize, module: Arc<Module>, good: Arc<FilterSpec>) {
        let filter = match self.version(at, module, &good) {
            Ok(filter) => filter,
            Err(failure) => return self.not_put_back(at, &failure),
        };
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        tracing::info!(
            filter = &*entry.wish.filter.name,
            "the last good version serves until the wanted one does"
        );
        entry.wish.filter.publish(Ok(filter));
        entry.in_force = Some(good);
        self.news = true;
        self.tell();
    }
}
