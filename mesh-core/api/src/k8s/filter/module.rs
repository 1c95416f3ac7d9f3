//! Where a module is: the URLs that filters name.

use weft_core::filter::ModuleDigest;

use super::super::error::{Errors, Path};

/// Most bytes of a URL.
const LONGEST_URL: usize = 2048;

/// Where a module comes from, and what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleSource {
    /// Where it is.
    pub location: Location,
    /// What it has to be, if that is said.
    pub sha256: Option<ModuleDigest>,
    /// Namespace and name of the Secret that opens its registry.
    pub pull_secret: Option<(String, String)>,
    /// When it is looked for again.
    pub refresh: Refresh,
}

/// When a module that was there once is looked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refresh {
    /// Never: what the name stands for cannot change.
    Never,
    /// Now and then.
    Periodic,
}

/// Where a module is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// A file on the node, relative to the agent's directory of modules.
    File(String),
    /// An entry of a ConfigMap.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The entry.
        key: String,
    },
    /// The whole URL.
    Https(String),
    /// An image, or another artifact, of a registry.
    Oci(OciReference),
}

/// `registry/repository:tag@sha256:digest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OciReference {
    /// Host, and port where it is not 443.
    pub registry: String,
    /// Path in it.
    pub repository: String,
    /// Tag; not looked at where there is a digest.
    pub tag: Option<String>,
    /// SHA-256 of the manifest.
    pub digest: Option<ModuleDigest>,
}

impl OciReference {
    /// Whether it stands for whatever is newest.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }
}

impl std::fmt::Display for OciReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

impl Location {
    /// As it is shown to people: of an address without what may be a secret in it.
    pub fn told(&self) -> String {
        match self {
            Self::Https(url) => match url.split_once('?') {
                Some((place, _secret)) => format!("{place}?..."),
                None => url.clone(),
            },
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(name) => write!(f, "file://{name}"),
            Self::ConfigMap {
                namespace,
                name,
                key,
            } => write!(f, "configmap://{namespace}/{name}/{key}"),
            Self::Https(url) => f.write_str(url),
            Self::Oci(reference) => write!(f, "oci://{reference}"),
        }
    }
}

/// Reads a URL. Objects of the whole cluster (`namespace` is `None`) name the
/// namespaces of ConfigMaps themselves.
pub(super) fn location(
    url: &str,
    namespace: Option<&str>,
    path: &Path,
    errors: &mut Errors,
) -> Option<Location> {
    let read = match url.split_once("://") {
        _ if url.is_empty() => Err("is required".to_owned()),
        _ if url.len() > LONGEST_URL => Err(format!("has more than {LONGEST_URL} bytes")),
        Some(("file", name)) => file(name),
        Some(("configmap", name)) => config_map(name, namespace),
        Some(("https", _)) => https(url),
        Some(("oci", reference)) => oci(reference).map(Location::Oci),
        Some(("http", _)) => {
            Err("is http://, which anybody on the way can change: use https://".to_owned())
        }
        _ => Err("must begin with file://, configmap://, https:// or oci://".to_owned()),
    };
    match read {
        Ok(location) => Some(location),
        Err(message) => {
            errors.add(path, message);
            None
        }
    }
}

fn file(name: &str) -> Result<Location, String> {
    const WANTED: &str = "write file://NAME, a file below the agent's --module-dir";
    if name.starts_with('/') {
        return Err(format!("names a path of the node: {WANTED}"));
    }
    let fits = |part: &str| {
        let allowed = |char: char| char.is_ascii_alphanumeric() || "-_.+".contains(char);
        !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed)
    };
    if !name.split('/').all(fits) {
        return Err(format!(
            "is no name of a file (letters, digits, -_.+, no ..): {WANTED}"
        ));
    }
    Ok(Location::File(name.to_owned()))
}

fn config_map(rest: &str, namespace: Option<&str>) -> Result<Location, String> {
    let parts: Vec<&str> = rest.split('/').collect();
    let (namespace, name, key) = match (&parts[..], namespace) {
        ([name, key], Some(own)) => (own, *name, *key),
        ([namespace, name, key], None) => (*namespace, *name, *key),
        ([_, _, _], Some(_)) => {
            return Err(
                "names a namespace: write configmap://NAME/KEY, which is of the \
                        object's own namespace"
                    .to_owned(),
            );
        }
        (_, Some(_)) => return Err("must be configmap://NAME/KEY".to_owned()),
        (_, None) => return Err("must be configmap://NAMESPACE/NAME/KEY".to_owned()),
    };
    for part in [namespace, name] {
        if !is_object_name(part) {
            return Err(format!("`{part}` is no name of an object"));
        }
    }
    let allowed = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if key.is_empty() || key.len() > 253 || !key.chars().all(allowed) {
        return Err(format!("`{key}` is no key of a ConfigMap"));
    }
    Ok(Location::ConfigMap {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

fn https(url: &str) -> Result<Location, String> {
    let parsed: http::Uri = url
        .parse()
        .map_err(|error| format!("is no URL that can be fetched: {error}"))?;
    let authority = parsed.authority().map_or("", http::uri::Authority::as_str);
    if authority.contains('@') {
        return Err("must not have a user or password in it".to_owned());
    }
    if parsed.host().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    if url.contains('#') {
        return Err("must not have a fragment (#...)".to_owned());
    }
    Ok(Location::Https(url.to_owned()))
}

fn oci(reference: &str) -> Result<OciReference, String> {
    let (name, digest) = match reference.split_once('@') {
        None => (reference, None),
        Some((name, digest)) => {
            let digest = digest
                .strip_prefix("sha256:")
                .and_then(ModuleDigest::parse)
                .ok_or("must end in @sha256: and 64 hexadecimal digits, or in no @")?;
            (name, Some(digest))
        }
    };
    // A host has a dot, a port, or is localhost; without one it is the hub's.
    let (registry, rest) = match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", name),
    };
    let host: Result<http::uri::Authority, _> = registry.parse();
    if registry.contains('@') || host.is_err() {
        return Err(format!("`{registry}` is no host of a registry"));
    }
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let part_fits = |part: &str| {
        let allowed =
            |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-_.".contains(char);
        let ends = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
        part.chars().all(allowed) && part.starts_with(ends) && part.ends_with(ends)
    };
    if repository.len() > 255 || !repository.split('/').all(part_fits) {
        return Err(format!(
            "`{repository}` is no repository: write oci://REGISTRY/REPOSITORY:TAG or ...@sha256:DIGEST"
        ));
    }
    if let Some(tag) = tag {
        let allowed = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        if tag.is_empty()
            || tag.len() > 128
            || tag.starts_with(['-', '.'])
            || !tag.chars().all(allowed)
        {
            return Err(format!("`{tag}` is no tag"));
        }
    }
    let repository = match registry {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    Ok(OciReference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// A name that an object of the API can have.
pub(super) fn is_object_name(name: &str) -> bool {
    let allowed =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-.".contains(char);
    let ends = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(ends)
        && name.ends_with(ends)
}
