//! The lab's network: namespaces, links, routes and the pods' wiring.
//!
//! Everything lives in namespaces of its own; not one link, route or sysctl of
//! the machine's namespace is touched, so deleting the namespaces undoes all.

pub mod ns;
pub mod plan;
pub mod pod;
pub mod rtnl;
pub mod topology;

pub use ns::NetNs;
pub use plan::{NodePlan, Plan, Routing};
