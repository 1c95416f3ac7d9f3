//! What became of the filters of the snapshot in force, for reports and the
//! admin page.

use std::sync::Arc;

use weft_core::filter::ModuleDigest;

use super::NodeFilter;

/// All of them. Replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Version of the snapshot that names them.
    pub version: String,
    /// In its order.
    pub filters: Vec<FilterState>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct FilterState {
    /// The filter, with the version that is in force.
    pub filter: Arc<NodeFilter>,
    /// The module that the snapshot names.
    pub wanted: Option<ModuleDigest>,
    /// It is loaded.
    pub loaded: bool,
    /// It has taken the configuration that the snapshot names, and is in force.
    pub configured: bool,
    /// Why not; none while that is not known yet.
    pub error: Option<Arc<str>>,
}

/// The listing now, and news of it.
pub type Listings = tokio::sync::watch::Receiver<Arc<Listing>>;
