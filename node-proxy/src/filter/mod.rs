//! Users' filters on this node: which there are, the versions of them that are
//! in force, and requests that pass through them.
//!
//! What a snapshot names is found in the [`Registry`]; the [`manager`] makes the
//! versions that are wanted, off the workers, and [`report`] tells the agent
//! what became of them.

pub mod answer;
pub mod attempts;
mod attributes;
pub mod build;
pub mod drive;
pub mod exchange;
pub mod failure;
mod fetch;
pub mod glance;
mod half;
pub mod hub;
mod inbox;
pub mod last_good;
pub mod listing;
pub mod log;
pub mod manager;
pub mod modules;
pub mod node_filter;
mod queue;
pub mod registry;
pub mod report;
pub mod run;
mod stage;

pub use manager::Manager;
pub use node_filter::NodeFilter;
pub use registry::Registry;
