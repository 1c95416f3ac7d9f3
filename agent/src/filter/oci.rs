//! Modules from registries: the part of the distribution protocol that pulling
//! takes. Own code over the client that the API's client brings along, since the
//! ready-made ones leave no way to judge the addresses that they dial.

use bytes::Bytes;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{StatusCode, Uri};
use serde::Deserialize;
use weft_api::k8s::filter::OciReference;
use weft_core::filter::ModuleDigest;

use super::archive::{self, ArchiveError, Packing};
use super::client::{Answer, Ask, Http, HttpError, text};
use super::credentials::Login;
use super::store::{MAX_MODULE, digest_of};
use super::turn::Turn;

/// Most bytes of a manifest, and of a token.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_TOKEN: usize = 1 << 20;
/// Most layers that are looked through.
const MAX_LAYERS: usize = 16;

const INDEX: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Layers that are the module.
const MODULE: [&str; 3] = [
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/wasm",
];
/// Layers that hold files, one of which is the module.
const FILES: [(&str, Packing); 4] = [
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::TarGzip,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        Packing::TarGzip,
    ),
    ("application/vnd.oci.image.layer.v1.tar", Packing::Tar),
    ("application/vnd.docker.image.rootfs.diff.tar", Packing::Tar),
];

/// Why a module was not pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    /// The registry could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The registry wants something that there is not.
    #[error("{registry} refuses: {reason}")]
    Unauthorized {
        /// Who.
        registry: String,
        /// What is missing.
        reason: String,
    },
    /// Another content than the digest says.
    #[error("{what} has the digest sha256:{found}, not sha256:{wanted}")]
    Digest {
        /// Of what.
        what: &'static str,
        /// What it has.
        found: ModuleDigest,
        /// What it should have.
        wanted: ModuleDigest,
    },
    /// The image is not one of a module.
    #[error("{0}")]
    Image(String),
    /// The files of a layer.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// Pulls a module.
///
/// # Errors
/// See [`OciError`]; what was pulled has the digest that the reference names, or
/// it is an error.
pub async fn pull(
    http: &Http,
    reference: &OciReference,
    login: Option<&Login>,
    turn: &Turn,
) -> Result<Bytes, OciError> {
    let mut session = Session {
        http,
        reference,
        login,
        authorization: None,
    };
    let mut manifest = session.manifest(None).await?;
    if !manifest.manifests.is_empty() {
        let chosen = for_modules(&manifest.manifests)?;
        let digest = digest(chosen)?;
        manifest = session.manifest(Some(digest)).await?;
    }
    if manifest.layers.len() > MAX_LAYERS {
        let layers = manifest.layers.len();
        let message = format!("the image has {layers} layers, more than {MAX_LAYERS}");
        return Err(OciError::Image(message));
    }
    let is_module = |layer: &&Descriptor| MODULE.contains(&&*layer.media_type);
    if let Some(layer) = manifest.layers.iter().find(is_module) {
        return session.blob(layer).await;
    }
    // What is put on top counts.
    for layer in manifest.layers.iter().rev() {
        let packing = FILES.iter().find(|(name, _)| *name == layer.media_type);
        let Some((_, packing)) = packing else {
            continue;
        };
        let packed = session.blob(layer).await?;
        let packing = *packing;
        let unpacked = turn.blocking(move || archive::module(&packed, packing));
        let unpacked = unpacked
            .await
            .map_err(|error| OciError::Image(error.to_string()))?;
        if let Some(module) = unpacked? {
            return Ok(module);
        }
    }
    let types: Vec<_> = manifest.layers.iter().map(|one| &*one.media_type).collect();
    Err(OciError::Image(format!(
        "no layer of the image is a module, nor has a plugin.wasm in it: its layers are {types:?}"
    )))
}

/// The manifest for modules, of several.
fn for_modules(manifests: &[Descriptor]) -> Result<&Descriptor, OciError> {
    let of = |wanted: &dyn Fn(&Platform) -> bool| {
        let mut fitting = manifests.iter();
        fitting.find(|one| one.platform.as_ref().is_some_and(wanted))
    };
    if let [only] = manifests {
        return Ok(only);
    }
    of(&|platform| platform.architecture == "wasm")
        .or_else(|| of(&|platform| platform.os.starts_with("wasi")))
        // Builders of containers make one for each machine; the module is the same.
        .or_else(|| of(&|platform| platform.os == "linux" && platform.architecture == "amd64"))
        .ok_or_else(|| {
            let message = "the image is for several platforms, and none of them is wasm";
            OciError::Image(message.to_owned())
        })
}

fn digest(descriptor: &Descriptor) -> Result<ModuleDigest, OciError> {
    let digest = &descriptor.digest;
    let read = digest.strip_prefix("sha256:").and_then(ModuleDigest::parse);
    read.ok_or_else(|| OciError::Image(format!("`{digest}` is no sha256 digest")))
}

/// One pull from a registry.
struct Session<'a> {
    http: &'a Http,
    reference: &'a OciReference,
    login: Option<&'a Login>,
    /// What the registry was shown last.
    authorization: Option<HeaderValue>,
}

impl Session<'_> {
    /// The manifest of this digest; without one, what the reference names.
    async fn manifest(&mut self, digest: Option<ModuleDigest>) -> Result<Manifest, OciError> {
        let wanted = digest.or(self.reference.digest);
        let name = match (wanted, &self.reference.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        };
        let accept = [MANIFEST, INDEX].concat().join(", ");
        let accept = HeaderValue::try_from(accept).ok();
        let path = format!("manifests/{name}");
        let bytes = self.get(&path, accept, MAX_MANIFEST).await?;
        if let Some(wanted) = wanted {
            verify("the manifest", &bytes, wanted)?;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| OciError::Image(format!("the manifest cannot be read: {error}")))?;
        let known = |kind: &String| MANIFEST.contains(&&**kind) || INDEX.contains(&&**kind);
        match &manifest.media_type {
            Some(kind) if !known(kind) => Err(OciError::Image(format!(
                "{kind} is no manifest of an image"
            ))),
            _ => Ok(manifest),
        }
    }

    async fn blob(&mut self, layer: &Descriptor) -> Result<Bytes, OciError> {
        let wanted = digest(layer)?;
        if layer.size > MAX_MODULE as u64 {
            return Err(OciError::Image(format!(
                "the layer has {} bytes, more than {MAX_MODULE}",
                layer.size
            )));
        }
        let path = format!("blobs/sha256:{wanted}");
        let bytes = self.get(&path, None, MAX_MODULE).await?;
        verify("the layer", &bytes, wanted)?;
        Ok(bytes)
    }

    async fn get(
        &mut self,
        path: &str,
        accept: Option<HeaderValue>,
        most: usize,
    ) -> Result<Bytes, OciError> {
        let OciReference {
            registry,
            repository,
            ..
        } = self.reference;
        // The hub serves under another name than it is called by.
        let host = match registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let uri = uri(&format!("https://{host}/v2/{repository}/{path}"))?;
        let mut ask = Ask {
            accept,
            authorization: self.authorization.clone(),
        };
        let answer = self.http.get(&uri, &ask, most).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer.body);
        }
        ask.authorization = Some(self.authorize(&answer).await?);
        let answer = self.http.get(&uri, &ask, most).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(self.refused("what it was shown does not open the repository"));
        }
        self.authorization = ask.authorization;
        Ok(answer.body)
    }

    /// Answers a registry that asks who it is.
    async fn authorize(&self, answer: &Answer) -> Result<HeaderValue, OciError> {
        let challenge = text(&answer.headers, &WWW_AUTHENTICATE).unwrap_or_default();
        let challenges = http_auth::parse_challenges(challenge).unwrap_or_default();
        let of = |scheme: &str| {
            let mut challenges = challenges.iter();
            challenges.find(|one| one.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(bearer) = of("Bearer") {
            let param = |name: &str| {
                let mut params = bearer.params.iter();
                let found = params.find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = param("realm").ok_or_else(|| self.refused("it names no realm"))?;
            return self.token(&realm, param("service"), param("scope")).await;
        }
        if of("Basic").is_some() {
            return match self.login {
                Some(login) => Ok(login.basic()),
                None => Err(self.refused("it wants a login: name a Secret in imagePullSecret")),
            };
        }
        Err(self.refused("it asks for no login that is known here"))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<HeaderValue, OciError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let scope =
            scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let mut query = format!("scope={}", encoded(&scope));
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encoded(&service)));
        }
        let separator = if realm.contains('?') { '&' } else { '?' };
        let uri = uri(&format!("{realm}{separator}{query}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(self.refused("its realm is not https://"));
        }
        let ask = Ask {
            accept: None,
            authorization: self.login.map(Login::basic),
        };
        let answer = self.http.get(&uri, &ask, MAX_TOKEN).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(self.refused("the login is not taken"));
        }
        let read: Option<Token> = serde_json::from_slice(&answer.body).ok();
        let token = read.and_then(|token| token.token.or(token.access_token));
        let token = token.ok_or_else(|| self.refused("its realm gives no token"))?;
        HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| self.refused("its realm gives no token that can be sent"))
    }

    fn refused(&self, reason: &str) -> OciError {
        OciError::Unauthorized {
            registry: self.reference.registry.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn verify(what: &'static str, bytes: &[u8], wanted: ModuleDigest) -> Result<(), OciError> {
    let found = digest_of(bytes);
    match found == wanted {
        true => Ok(()),
        false => Err(OciError::Digest {
            what,
            found,
            wanted,
        }),
    }
}

fn uri(text: &str) -> Result<Uri, OciError> {
    let read = text.parse();
    read.map_err(|error| OciError::Image(format!("{text} cannot be asked for: {error}")))
}

/// A value of a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:/,".contains(&byte);
    let each = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    each.collect()
}

#[cfg(test)]
mod tests;
