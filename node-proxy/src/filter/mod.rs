//! Users' filters on this node: which there are, and the versions of them that
//! are in force.

pub mod node_filter;
pub mod registry;

pub use node_filter::NodeFilter;
pub use registry::Registry;
