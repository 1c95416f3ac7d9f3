//! Looks at a source, and puts what it stands for into the store.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use weft_api::k8s::filter::{Location, ModuleSource};
use weft_core::filter::ModuleDigest;

use super::client::{Ask, Http, HttpError};
use super::credentials::{self, Login};
use super::oci::{self, OciError};
use super::store::{MAX_MODULE, Store, StoreError, digest_of};
use super::turn::Turn;

/// How long all of it may take.
const LONGEST: Duration = Duration::from_secs(120);
/// Where Secrets have logins of registries.
const LOGINS: &str = ".dockerconfigjson";

/// Why a source has no module for us.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file of the node.
    #[error("{0}")]
    File(String),
    /// An object of the API.
    #[error("{what}: {reason}")]
    Object {
        /// Kind, namespace and name.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// It does not come over HTTPS.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It does not come from the registry.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// It is not what it has to be.
    #[error("its digest is sha256:{found}, but module.sha256 is {wanted}")]
    Digest {
        /// What it is.
        found: ModuleDigest,
        /// What it has to be.
        wanted: ModuleDigest,
    },
    /// It is too large.
    #[error("it has {0} bytes, more than {MAX_MODULE}")]
    TooLarge(u64),
    /// It takes too long.
    #[error("it did not come within {} s", LONGEST.as_secs())]
    Slow,
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent is ending.
    #[error("the agent stops")]
    Stopped,
}

/// By what one sees that a file is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What a look at a source found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A module, which is in the store now.
    Module(ModuleDigest, Option<Stamp>),
    /// The file is the one that it was.
    Same,
}

/// Looks at sources and keeps what they stand for. Clones share connections and
/// the store.
#[derive(Clone)]
pub struct Fetcher {
    /// Where modules come from.
    pub sources: Sources,
    /// Where they go.
    pub store: Store,
    /// The namespace on whose account; empty for the cluster's.
    pub tenant: Box<str>,
}

impl Fetcher {
    /// Looks at a source; a file that has this stamp is not read again.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn look(
        &self,
        source: &ModuleSource,
        stamp: Option<Stamp>,
    ) -> Result<Found, FetchError> {
        let looked = tokio::time::timeout(LONGEST, self.look_without_end(source, stamp)).await;
        looked.unwrap_or(Err(FetchError::Slow))
    }

    async fn look_without_end(
        &self,
        source: &ModuleSource,
        stamp: Option<Stamp>,
    ) -> Result<Found, FetchError> {
        let Some((bytes, stamp)) = self.sources.newer(source, stamp).await? else {
            return Ok(Found::Same);
        };
        let (store, tenant) = (self.store.clone(), self.tenant.clone());
        let put = move || Ok(store.put(&bytes, &tenant)?);
        let digest = self.sources.blocking(put).await?;
        Ok(Found::Module(digest, stamp))
    }
}

/// Where modules come from. Clones share connections.
#[derive(Clone)]
pub struct Sources {
    /// For what is elsewhere.
    pub http: Http,
    /// For ConfigMaps and Secrets.
    pub api: Client,
    /// Where files are.
    pub directory: PathBuf,
    /// Whose turn it is that work takes which nobody waits for any more.
    pub turn: Turn,
}

impl Sources {
    /// What a source stands for, of the digest that it has to have. The turn is over when
    /// the last work for it is.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch_in_turn(
        &self,
        source: &ModuleSource,
        turn: Turn,
    ) -> Result<Bytes, FetchError> {
        let sources = Self {
            turn,
            ..self.clone()
        };
        let fetched = tokio::time::timeout(LONGEST, sources.fetch(source)).await;
        fetched.unwrap_or(Err(FetchError::Slow))
    }

    async fn fetch(&self, source: &ModuleSource) -> Result<Bytes, FetchError> {
        let bytes = match &source.location {
            Location::File(name) => {
                let (directory, name) = (self.directory.clone(), name.clone());
                let read = move || find(&directory, &name)?.read();
                self.blocking(read).await?
            }
            Location::ConfigMap {
                namespace,
                name,
                key,
            } => self.config_map(namespace, name, key).await?,
            Location::Https(url) => self.https(url).await?,
            Location::Oci(reference) => {
                let login = match &source.pull_secret {
                    Some(secret) => Some(self.login(secret, &reference.registry).await?),
                    None => None,
                };
                let pulled = oci::pull(&self.http, reference, login.as_ref(), &self.turn);
                Box::pin(pulled).await?
            }
        };
        self.held_to(source, bytes).await
    }

    /// The same, and a file's stamp; nothing where it is a file that has this stamp.
    async fn newer(
        &self,
        source: &ModuleSource,
        stamp: Option<Stamp>,
    ) -> Result<Option<(Bytes, Option<Stamp>)>, FetchError> {
        let Location::File(name) = &source.location else {
            return Ok(Some((self.fetch(source).await?, None)));
        };
        let (directory, name) = (self.directory.clone(), name.clone());
        let read = self.blocking(move || {
            let file = find(&directory, &name)?;
            match stamp == Some(file.stamp) {
                true => Ok(None),
                false => Ok(Some((file.read()?, file.stamp))),
            }
        });
        match read.await? {
            Some((bytes, now)) => Ok(Some((self.held_to(source, bytes).await?, Some(now)))),
            None => Ok(None),
        }
    }

    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<Bytes, FetchError> {
        let failed = |reason: String| FetchError::Object {
            what: format!("ConfigMap {namespace}/{name}"),
            reason,
        };
        let maps: Api<ConfigMap> = Api::namespaced(self.api.clone(), namespace);
        let found = maps.get_opt(name).await;
        let map = found.map_err(|error| failed(error.to_string()))?;
        let mut map = map.ok_or_else(|| failed("is not there".to_owned()))?;
        let binary = map.binary_data.as_mut().and_then(|data| data.remove(key));
        let text = map.data.as_mut().and_then(|data| data.remove(key));
        let bytes = binary.map(|bytes| bytes.0);
        let bytes = bytes.or_else(|| text.map(String::into_bytes));
        let bytes = bytes.ok_or_else(|| failed(format!("has no entry {key}")))?;
        Ok(bytes.into())
    }

    async fn https(&self, url: &str) -> Result<Bytes, FetchError> {
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| FetchError::File(error.to_string()))?;
        let answer = self.http.get(&uri, &Ask::default(), MAX_MODULE).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => {
                let host = uri.host().unwrap_or_default().to_owned();
                Err(HttpError::Status { host, status }.into())
            }
        }
    }

    async fn login(
        &self,
        (namespace, name): &(String, String),
        registry: &str,
    ) -> Result<Login, FetchError> {
        let failed = |reason: String| FetchError::Object {
            what: format!("Secret {namespace}/{name}"),
            reason,
        };
        let secrets: Api<Secret> = Api::namespaced(self.api.clone(), namespace);
        let found = secrets.get_opt(name).await;
        let secret = found.map_err(|error| failed(error.to_string()))?;
        let secret = secret.ok_or_else(|| failed("is not there".to_owned()))?;
        let content = secret.data.and_then(|mut data| data.remove(LOGINS));
        let content = content.ok_or_else(|| {
            failed(format!(
                "has no {LOGINS}: it is not of the type kubernetes.io/dockerconfigjson"
            ))
        })?;
        credentials::login(&content.0, registry).map_err(failed)
    }

    /// A module, if it is what it has to be.
    async fn held_to(&self, source: &ModuleSource, bytes: Bytes) -> Result<Bytes, FetchError> {
        if bytes.len() > MAX_MODULE {
            return Err(FetchError::TooLarge(bytes.len() as u64));
        }
        if let Some(wanted) = source.sha256 {
            let module = bytes.clone();
            let found = self.blocking(move || Ok(digest_of(&module))).await?;
            if found != wanted {
                return Err(FetchError::Digest { found, wanted });
            }
        }
        Ok(bytes)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let done = self.turn.blocking(work).await;
        done.unwrap_or(Err(FetchError::Stopped))
    }
}

/// A file that is there.
struct Module {
    path: PathBuf,
    stamp: Stamp,
}

impl Module {
    fn read(&self) -> Result<Bytes, FetchError> {
        if self.stamp.size > MAX_MODULE as u64 {
            return Err(FetchError::TooLarge(self.stamp.size));
        }
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(FetchError::File(format!(
                "{}: {error}",
                self.path.display()
            ))),
        }
    }
}

/// A file below the directory. Links may lead about inside of it, and not out of it.
fn find(directory: &Path, name: &str) -> Result<Module, FetchError> {
    let path = directory.join(name);
    let failed = |error: std::io::Error| FetchError::File(format!("{}: {error}", path.display()));
    let inside = directory.canonicalize().map_err(failed)?;
    let real = path.canonicalize().map_err(failed)?;
    if !real.starts_with(&inside) {
        let message = format!("{} leads out of {}", path.display(), directory.display());
        return Err(FetchError::File(message));
    }
    let metadata = real.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FetchError::File(format!("{} is no file", path.display())));
    }
    Ok(Module {
        path: real,
        stamp: Stamp::of(&metadata),
    })
}

#[cfg(test)]
mod tests;
