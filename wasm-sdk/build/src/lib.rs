//! Builds filters: runs cargo for `wasm32-unknown-unknown` and makes components of the modules.
#![forbid(unsafe_code)]

mod component;
mod describe;
pub mod template;
mod toolchain;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

pub use component::{Abi, Finished, finish};
pub use toolchain::{TARGET, Toolchain};

/// What to build.
#[derive(Debug, Clone)]
pub struct Build {
    /// Folder with the crate, or with a crate in each of its folders.
    pub folder: PathBuf,
    /// Only these packages; all of them if empty.
    pub packages: Vec<String>,
    /// Where the filters go, as `NAME.wasm`; `filter-` before a package's name is left out. The
    /// folder `filters` in cargo's target folder if it is not said.
    pub out: Option<PathBuf>,
}

/// A filter that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its name.
    pub name: String,
    /// What it is.
    pub abi: Abi,
    /// Where it is.
    pub file: PathBuf,
    /// Its length.
    pub bytes: usize,
    /// What it is not, though it is a filter: one line for its author.
    pub remark: Option<String>,
}

impl Build {
    /// Builds them.
    ///
    /// # Errors
    /// Where there is no compiler for filters, no filter, one that cargo cannot build, or one that
    /// is none.
    pub fn run(&self, toolchain: &Toolchain) -> Result<Vec<Built>> {
        let folder = self
            .folder
            .canonicalize()
            .with_context(|| format!("the folder {}", self.folder.display()))?;
        let workspaces = workspaces(&folder, toolchain)?;
        self.are_there(&folder, &workspaces)?;
        toolchain.check()?;
        let mut built: Vec<Built> = Vec::new();
        for workspace in &workspaces {
            for one in self.build(&folder, workspace, toolchain)? {
                if let Some(same) = built.iter().find(|other| other.name == one.name) {
                    bail!(
                        "two filters are called {}: their modules would be one file, {}",
                        one.name,
                        same.file.display()
                    );
                }
                built.push(one);
            }
        }
        Ok(built)
    }

    /// Those of one workspace.
    fn build(
        &self,
        folder: &Path,
        metadata: &Metadata,
        toolchain: &Toolchain,
    ) -> Result<Vec<Built>> {
        let packages = self.wanted(folder, metadata);
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let target_dir = metadata.target_directory.join("guest");
        let profile = metadata.profile();
        let mut arguments: Vec<OsString> = vec![
            "build".into(),
            "--profile".into(),
            profile.into(),
            "--target-dir".into(),
            target_dir.clone().into(),
            "--manifest-path".into(),
            metadata.workspace_root.join("Cargo.toml").into(),
        ];
        for package in &packages {
            arguments.extend(["--package".into(), package.name.clone().into()]);
        }
        // There, for a crate may have settings of cargo beside it.
        let status = toolchain
            .cargo_build(&arguments)
            .current_dir(packages[0].folder())
            .status()
            .context("starting cargo")?;
        if !status.success() {
            bail!("cargo could not build the filters: see above");
        }
        let folder = target_dir.join(TARGET).join(profile);
        let out = match &self.out {
            Some(out) => out.clone(),
            None => metadata.target_directory.join("filters"),
        };
        fs::create_dir_all(&out).with_context(|| format!("making the folder {}", out.display()))?;
        packages
            .iter()
            .map(|package| package.finish(&folder, &out))
            .collect()
    }

    fn wanted<'a>(&self, folder: &Path, metadata: &'a Metadata) -> Vec<&'a Package> {
        let mut packages = metadata.filters(folder);
        if !self.packages.is_empty() {
            packages.retain(|package| self.packages.contains(&package.name));
        }
        packages
    }

    /// Whether there is something to build, and all that is asked for.
    fn are_there(&self, folder: &Path, workspaces: &[Metadata]) -> Result<()> {
        let filters = workspaces.iter().flat_map(|one| one.filters(folder));
        let names: Vec<&str> = filters.map(|package| package.name.as_str()).collect();
        if let Some(unknown) = self
            .packages
            .iter()
            .find(|name| !names.contains(&name.as_str()))
        {
            bail!("{unknown} is no filter in {}", self.folder.display());
        }
        if names.is_empty() {
            bail!(
                "no filter in {}: a filter is a library with crate-type = [\"cdylib\"]",
                self.folder.display()
            );
        }
        Ok(())
    }
}

/// What cargo says of a workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// The workspaces of all crates in a folder: a crate that stands alone is one itself.
fn workspaces(folder: &Path, toolchain: &Toolchain) -> Result<Vec<Metadata>> {
    let mut workspaces: Vec<Metadata> = Vec::new();
    for manifest in manifests_in(folder)? {
        let known = workspaces.iter().flat_map(|one| &one.packages);
        if !known.into_iter().any(|one| one.manifest_path == manifest) {
            workspaces.push(Metadata::of(&manifest, toolchain)?);
        }
    }
    Ok(workspaces)
}

impl Metadata {
    /// The filters that are in a folder.
    fn filters(&self, folder: &Path) -> Vec<&Package> {
        let packages = self.packages.iter();
        packages
            .filter(|package| package.manifest_path.starts_with(folder))
            .filter(|package| package.module().is_some())
            .collect()
    }

    fn of(manifest: &Path, toolchain: &Toolchain) -> Result<Self> {
        let folder = manifest.parent().context("it is in a folder")?;
        let output = toolchain
            .cargo()
            .args([
                "metadata",
                "--format-version",
                "1",
                "--no-deps",
                "--manifest-path",
            ])
            .arg(manifest)
            .current_dir(folder)
            .output()
            .context("starting cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("reading cargo's metadata")
    }

    /// A workspace may have a profile for filters; cargo has no other way to ask.
    fn profile(&self) -> &'static str {
        let root = fs::read_to_string(self.workspace_root.join("Cargo.toml")).unwrap_or_default();
        if root.lines().any(|line| line.trim() == "[profile.filter]") {
            "filter"
        } else {
            "release"
        }
    }
}

/// The folder's own manifest, or those of the crates in it.
fn manifests_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let own = folder.join("Cargo.toml");
    if own.is_file() {
        return Ok(vec![own]);
    }
    let mut below: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("the folder {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("Cargo.toml")))
        .filter(|manifest| manifest.is_file())
        .collect();
    if below.is_empty() {
        bail!("no Cargo.toml in {} or below it", folder.display());
    }
    below.sort();
    Ok(below)
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new(""))
    }

    /// File name of the module that cargo makes of it.
    fn module(&self) -> Option<String> {
        let target = self
            .targets
            .iter()
            .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))?;
        Some(format!("{}.wasm", target.name.replace('-', "_")))
    }

    fn finish(&self, folder: &Path, out: &Path) -> Result<Built> {
        let module = folder.join(self.module().context("it has a module")?);
        let bytes = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
        let finished = finish(bytes).with_context(|| format!("{} is no filter", self.name))?;
        // In a workspace the filters' packages stand beside others.
        let name = self.name.strip_prefix("filter-").unwrap_or(&self.name);
        let file = out.join(format!("{name}.wasm"));
        write(&file, &finished.bytes)?;
        Ok(Built {
            name: name.to_owned(),
            abi: finished.abi,
            file,
            bytes: finished.bytes.len(),
            remark: finished.remark,
        })
    }
}

/// Writes a file in one step, and only if it changes: who watches it reads all of it or none.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let new = file.with_extension("wasm.new");
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests;
