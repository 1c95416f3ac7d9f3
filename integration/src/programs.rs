//! The programs under test, built by the same profile as what starts them,
//! unless `WEFT_BIN_DIR` names another folder.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Path of one of the workspace's programs: the folder above that of the
/// running test or bench.
///
/// # Errors
/// When it was not built; says how to.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let named = std::env::var_os("WEFT_BIN_DIR").map(PathBuf::from);
    let folder = match &named {
        Some(folder) => folder,
        None => own
            .parent()
            .and_then(|deps| deps.parent())
            .context("this program is not where cargo puts it")?,
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{name} is not built: `cargo build --workspace --bins`, with the profile of this \
             program, puts it into {}",
            folder.display()
        );
    }
    Ok(path)
}
