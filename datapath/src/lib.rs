//! Loads the eBPF programs of a node and owns their maps.
//!
//! [`Datapath::load`] brings the programs into the kernel and pins their maps
//! and links below a folder of bpffs, so that policy is enforced whether or not
//! the loading process lives. Handles to single maps ([`PolicyMap`],
//! [`Ipcache`], [`Services`], [`Conntrack`], [`Events`]) are independent of
//! each other and may be moved to where they are used.
//!
//! Everything here is synchronous, speaks host byte order and `std::net`
//! addresses, and needs root.

#![deny(unsafe_code)]

mod config;
mod conntrack;
mod endpoints;
mod error;
mod event;
mod events;
mod ipcache;
mod links;
mod loader;
mod node;
mod pending;
mod pins;
mod policy;
mod resize;
mod services;
mod sys;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{Aggregation, Config, Marks, TableSizes};
pub use conntrack::{Conntrack, Flow, GcReport};
pub use endpoints::Endpoint;
pub use error::Error;
pub use event::{Action, Direction, Event, EventKind};
pub use events::Events;
pub use ipcache::{Address, Ipcache};
pub use loader::Datapath;
pub use node::{NodeSettings, PROXY_RULE_PREFERENCE, PROXY_TABLE};
pub use pins::{ensure_bpffs, uninstall};
pub use policy::{PolicyEntry, PolicyMap, Verdict};
pub use services::{Service, Services};
pub use tables::TableUse;
pub use weft_datapath_common::{
    CLOSED_PORT, DropReason, IPCACHE_ENTRIES, LAYOUT_VERSION, MatchType, POLICY_ENTRIES,
    TracePoint, XlatePoint, identity,
};

/// How many entries of a map changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Entries that are new.
    pub added: usize,
    /// Entries that got another value.
    pub updated: usize,
    /// Entries that are gone.
    pub removed: usize,
}

impl Difference {
    /// An entry was written over what was there before.
    pub(crate) fn wrote<V>(&mut self, before: Option<V>) {
        match before {
            Some(_) => self.updated += 1,
            None => self.added += 1,
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
