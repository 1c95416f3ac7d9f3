//! Pushing a module to an OCI registry.

mod auth;
mod reference;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation, annotations};
use weft_wasm_host::Digest;

use self::reference::Place;
use crate::{Ended, run};

/// As other tools push modules, and as Istio and Envoy read them.
const LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// All that would leave this machine without TLS is sent to a proxy that is not there, and that
/// nobody can have a certificate for. The client library would otherwise follow a registry that
/// names an `http://` address for its tokens or uploads, with the password.
const NO_PLAIN_HTTP: &str = "https://127.0.0.1:1";
/// What does not leave this machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The module
    file: PathBuf,
    /// Where it goes: oci://REGISTRY/REPOSITORY:TAG
    reference: String,
    /// User of the registry; without it, what ~/.docker/config.json has for it
    #[arg(long, requires = "password_stdin")]
    user: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// Without TLS; only for a registry on this machine
    #[arg(long)]
    plain_http: bool,
}

pub(crate) fn push(args: &PushArgs, out: &mut dyn Write) -> Result<Ended> {
    let place = Place::parse(&args.reference)?;
    if args.plain_http && !place.is_loopback() {
        bail!(
            "--plain-http: {} is not on this machine, and what is pushed there without TLS could \
             be changed on its way",
            place.registry
        );
    }
    let bytes = Bytes::from(module(&args.file)?);
    let auth = match &args.user {
        Some(user) => RegistryAuth::Basic(user.clone(), auth::password_from_stdin()?),
        None => auth::of_docker(&place.registry)?,
    };
    let sha256 = Digest::of(&bytes).hex();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let title = format!("{}.wasm", run::stem(&args.file));
    let digest = runtime.block_on(upload(&place, args.plain_http, &auth, bytes, title))?;
    writeln!(out, "pushed. In a manifest:")?;
    writeln!(out, "  module:")?;
    writeln!(out, "    url: oci://{}@{digest}", place.name())?;
    writeln!(out, "    sha256: {sha256}")?;
    Ok(Ended::Well)
}

/// A module that a proxy can load.
fn module(file: &Path) -> Result<Vec<u8>> {
    let named = || file.display().to_string();
    let bytes = fs::read(file).with_context(named)?;
    let finished = weft_filter_build::finish(bytes.clone()).with_context(named)?;
    if finished.bytes != bytes {
        bail!(
            "{}: it is what the compiler made, which no proxy loads: push what `weft filter build` \
             makes of it",
            file.display()
        );
    }
    Ok(bytes)
}

/// Digest of the manifest by which the module can be pulled.
async fn upload(
    place: &Place,
    plain: bool,
    auth: &RegistryAuth,
    bytes: Bytes,
    title: String,
) -> Result<String> {
    let reference = Reference::with_tag(
        place.registry.clone(),
        place.repository.clone(),
        place.tag.clone(),
    );
    let client = client(place, plain)?;
    let layer = ImageLayer::new(bytes.clone(), LAYER.to_owned(), None);
    let config = Config::new(Bytes::from_static(b"{}"), CONFIG.to_owned(), None);
    let titled = BTreeMap::from([(
        annotations::ORG_OPENCONTAINERS_IMAGE_TITLE.to_owned(),
        title,
    )]);
    let mut manifest = OciImageManifest::build(&[layer], &config, Some(titled));
    manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
    let layer_digest = &manifest.layers.first().context("it has a layer")?.digest;
    let failed = |what: &str, error| explain(place, what, error);
    // First of all: later the client takes it for an answer that nothing came of this.
    client
        .auth(&reference, auth, RegistryOperation::Push)
        .await
        .map_err(|error| failed("as the user", error))?;
    client
        .push_blob(&reference, bytes, layer_digest)
        .await
        .map_err(|error| failed("the module", error))?;
    client
        .push_blob(&reference, config.data, &manifest.config.digest)
        .await
        .map_err(|error| failed("its configuration", error))?;
    // These very bytes, so that their digest is known whatever the registry answers.
    let text = serde_json::to_vec(&manifest)?;
    let digest = Digest::of(&text);
    let kind = http::HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
    client
        .push_manifest_raw(&reference, text, kind)
        .await
        .map_err(|error| failed("its manifest", error))?;
    Ok(digest.to_string())
}

fn client(place: &Place, plain: bool) -> Result<Client> {
    // A provider that is there already is as good.
    let _known = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig {
        protocol: match plain {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        },
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        http_proxy: Some(NO_PLAIN_HTTP.to_owned()),
        https_proxy: proxy_for(place),
        no_proxy: plain.then(|| LOOPBACK.to_owned()),
        user_agent: concat!("weft-filter/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    // Not `new`, which goes on with other settings where these are wrong.
    Client::try_from(config).context("the settings of the HTTP client (HTTPS_PROXY?)")
}

/// The proxy that the environment names for this registry.
fn proxy_for(place: &Place) -> Option<String> {
    let of = |names: [&str; 2]| {
        let value = names.iter().find_map(|name| env::var(name).ok());
        value.filter(|value| !value.is_empty())
    };
    let proxy = of(["HTTPS_PROXY", "https_proxy"])?;
    let without = of(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    (!reference::is_in(place.host(), &without)).then_some(proxy)
}

fn explain(place: &Place, what: &str, error: OciDistributionError) -> anyhow::Error {
    let registry = &place.registry;
    let hint = match &error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::ServerError {
            code: 401 | 403, ..
        } => format!(
            ": {registry} does not let you in (--user and --password-stdin, or docker login {registry})"
        ),
        OciDistributionError::RequestError(error) if error.is_connect() => {
            match error.url().filter(|url| url.scheme() == "http") {
                Some(url) => format!(": {registry} leads to {url}, which has no TLS"),
                None => format!(": {registry} is not reached over TLS"),
            }
        }
        _ => String::new(),
    };
    anyhow::Error::new(error).context(format!("pushing {what} to {place}{hint}"))
}
