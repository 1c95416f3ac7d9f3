//! Flags about the modules of filters.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::filter;

/// Where modules of filters may come from.
#[derive(Debug, Clone, Args)]
pub struct OriginArgs {
    /// Directory of the modules that filters name as file://NAME; nothing outside
    /// of it is read.
    #[arg(long, env = "WEFT_MODULE_DIR", default_value = "/var/lib/weft-modules")]
    pub module_dir: PathBuf,
    /// Fetch modules from private, loopback and link-local addresses too. Whoever
    /// may write a filter can then have the agent ask what is on these networks.
    #[arg(long, env = "WEFT_MODULE_ALLOW_PRIVATE")]
    pub module_allow_private: bool,
    /// File of certificates (PEM) that servers of modules may be vouched for by,
    /// beside those that this machine trusts.
    #[arg(long, env = "WEFT_MODULE_CA")]
    pub module_ca: Option<PathBuf>,
}

impl OriginArgs {
    /// As what reads them has it.
    #[must_use]
    pub fn origins(&self) -> filter::Origins {
        filter::Origins {
            directory: self.module_dir.clone(),
            allow_private: self.module_allow_private,
            authorities: self.module_ca.clone(),
        }
    }
}

/// Where modules of filters come from, and how often that is looked at.
#[derive(Debug, Clone, Args)]
pub struct ModuleArgs {
    /// Where from.
    #[command(flatten)]
    pub origins: OriginArgs,
    /// Seconds between two looks at images that are named by a tag and not pinned.
    #[arg(
        long,
        env = "WEFT_MODULE_REFRESH",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub module_refresh: u32,
}

impl ModuleArgs {
    /// As the agent of this node has it.
    #[must_use]
    pub fn settings(&self, node: &str, state_dir: &Path) -> filter::Settings {
        filter::Settings {
            node: node.to_owned(),
            state_dir: state_dir.to_owned(),
            origins: self.origins.origins(),
            refresh: Duration::from_secs(self.module_refresh.into()),
        }
    }
}
