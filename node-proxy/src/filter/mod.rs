//! Users' filters on this node: which there are, and the versions of them that
//! are in force.

mod attributes;
pub mod drive;
pub mod exchange;
mod fetch;
mod half;
pub mod hub;
mod inbox;
pub mod node_filter;
pub mod registry;
pub mod run;
mod stage;

pub use node_filter::NodeFilter;
pub use registry::Registry;
