//! Custom resources: their types, their definitions, and what they mean.
//!
//! The types in [`spec`] are the one source: the schemas of the definitions
//! that are installed are generated from them, objects are checked against
//! the same schemas, and what passes becomes [`weft_core::policy::Rule`]s. The
//! definitions keep unknown fields instead of pruning them, so that a mistyped
//! field is seen here and refused with its path.

mod convert;
mod crd;
mod error;
pub mod filter;
mod identity;
mod policy;
mod schema;
pub mod spec;
mod status;
mod strict;

pub use crd::crds;
pub use error::{FieldError, FieldErrors};
pub use identity::CiliumIdentity;
pub use policy::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, PolicyObject};
pub use status::{Condition, PolicyStatus};
