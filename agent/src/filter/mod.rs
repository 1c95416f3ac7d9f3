//! Users' filters: the objects in force, and the modules that they name.

use std::sync::Arc;

use weft_core::filter::FilterSpec;

pub use weft_api::k8s::filter::{Attachment, Subject};

/// A filter in force, for the proxy of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedFilter {
    /// What it is. Its module is there once this node has it, and only then;
    /// why it is not stands beside it.
    pub spec: Arc<FilterSpec>,
    /// Whose requests meet it, and when.
    pub attachments: Arc<[Attachment]>,
}
