//! The part of `cargo metadata` that the dependency check reads.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A resolved workspace: its packages, which of them are its own, and who links what.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
}

/// One package with the dependencies that its manifest declares.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A dependency as declared; `path` is there when it is a folder of ours.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    /// `None` is a normal dependency.
    #[serde(default)]
    pub(crate) kind: Option<String>,
    /// There only with a feature.
    #[serde(default)]
    pub(crate) optional: bool,
    /// What it switches on in the other crate.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// The dependency graph with features and platforms resolved.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

/// A package in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Edge>,
}

/// An edge of the graph: one package, possibly used in several kinds.
#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// `None` is a normal dependency; `build` and `dev` end up in no binary of ours.
#[derive(Debug, Deserialize)]
pub(crate) struct EdgeKind {
    pub(crate) kind: Option<String>,
}

/// What cargo links into a crate of the workspace at `root` that is built by
/// itself: one package a line, its name first.
pub(crate) fn tree(root: &Path, package: &str) -> Result<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--edges=normal",
            "--prefix=none",
            "--package",
            package,
        ])
        .args(["--target=x86_64-unknown-linux-gnu", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        // Whoever unifies features to build quicker still ships one by one.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree of {package} failed");
    }
    String::from_utf8(output.stdout).context("output of cargo tree")
}

/// The names in what [`tree`] gives.
pub(crate) fn names(tree: &str) -> BTreeSet<&str> {
    tree.lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

impl Metadata {
    /// Asks cargo about the workspace that `manifest` belongs to.
    pub(crate) fn of(manifest: &Path) -> Result<Self> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--filter-platform"])
            .args(["x86_64-unknown-linux-gnu", "--manifest-path"])
            .arg(manifest)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata of {} failed", manifest.display());
        }
        serde_json::from_slice(&output.stdout).context("output of cargo metadata")
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Names of all packages linked into `package`, itself left out, and what its own features
    /// add: they are for tests, and the tests of other crates switch them on in this graph.
    pub(crate) fn linked_into(&self, package: &Package) -> BTreeSet<&str> {
        let added = |name: &str| {
            let declared = package.dependencies.iter();
            declared
                .filter(|d| d.name == name && d.kind.is_none())
                .any(|d| d.optional)
        };
        let nodes: HashMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|n| (n.id.as_str(), n))
            .collect();
        let names: HashMap<&str, &str> = self
            .packages
            .iter()
            .map(|p| (p.id.as_str(), p.name.as_str()))
            .collect();
        let mut seen = BTreeSet::new();
        let mut open = vec![package.id.as_str()];
        while let Some(next) = open.pop() {
            let edges = nodes
                .get(next)
                .map(|node| node.deps.as_slice())
                .unwrap_or_default();
            for edge in edges {
                let mut linked = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if next == package.id {
                    linked &= !names.get(edge.pkg.as_str()).is_some_and(|name| added(name));
                }
                if linked && seen.insert(edge.pkg.as_str()) {
                    open.push(&edge.pkg);
                }
            }
        }
        seen.into_iter()
            .filter_map(|id| names.get(id).copied())
            .collect()
    }
}
