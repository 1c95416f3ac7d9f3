//! The certificate by which the API server knows the operators, and the token by which
//! they know it. Both are in a Secret, so that all of them have the same; who finds none,
//! or some that are old or do not fit, makes others. The key of the certificate's authority
//! is thrown away: it can vouch for nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Name of the Secret.
const NAME: &str = "weft-operator-tls";
const KIND: &str = "kubernetes.io/tls";
const AUTHORITY: &str = "ca.crt";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const TOKEN: &str = "token";
/// Characters of a token: 32 random bytes have 43.
const MIN_TOKEN: usize = 43;
/// When another one is to be made.
const RENEW: &str = "weft.dev/renew-after";
/// How long a certificate is valid, and how long it is used.
const VALID: SignedDuration = SignedDuration::from_hours(24 * 730);
const USED: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Clocks differ: a certificate is valid from a day before it was made.
const SKEW: SignedDuration = SignedDuration::from_hours(24);
/// Between two looks at how old it is.
const LOOK: Duration = Duration::from_secs(3600);
/// Wait before a Secret that could not be written is written again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two that are written: somebody may write into the same Secret.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// A certificate, ready for use. It has no `Debug`: the log is no place for what is in it.
pub(super) struct Certificate {
    /// Who vouches for it, as PEM.
    pub(super) authority: Vec<u8>,
    /// With its key.
    pub(super) server: Arc<ServerConfig>,
    /// Who knows it may ask.
    pub(super) token: String,
    /// Of all that the Secret has.
    digest: [u8; 32],
}

impl Certificate {
    /// Whether that is the token. How long it takes says nothing of how much of it is.
    pub(super) fn is_token(&self, shown: &str) -> bool {
        let (known, shown) = (Sha256::digest(&self.token), Sha256::digest(shown));
        let pairs = known.iter().zip(&shown);
        pairs.fold(0, |other, (known, shown)| other | (known ^ shown)) == 0
    }
}

/// Why a certificate is none.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("{0} is no PEM: {1}")]
    Pem(&'static str, rustls::pki_types::pem::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("{AUTHORITY}: {0}")]
    Authority(#[from] VerifierBuilderError),
    #[error("{0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("its {TOKEN} is none")]
    Token,
    #[error("it was to be renewed after {0}")]
    Old(String),
    #[error(transparent)]
    Made(#[from] rcgen::Error),
}

/// Hands on what the Secret has, and puts a new certificate into it when that is
/// none, though not twice within `again`, until `stop` is cancelled.
pub(super) async fn keep(
    secrets: Api<Secret>,
    names: Vec<String>,
    again: Duration,
    sender: watch::Sender<Option<Arc<Certificate>>>,
    stop: CancellationToken,
) {
    let changes = watcher::watch_object(secrets.clone(), NAME).default_backoff();
    pin_mut!(changes);
    let mut seen: Option<Secret> = None;
    let mut told = String::new();
    let mut wait = LOOK;
    let mut written: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(Ok(secret)) => seen = secret,
                // The stream tries again by itself, later each time.
                Some(Err(error)) => {
                    tell(&mut told, &format!("the Secret {NAME} cannot be watched: {error}"));
                    continue;
                }
                None => return,
            },
            // It gets old without a change of the Secret, and what was not written is tried again.
            () = tokio::time::sleep(wait) => {}
        }
        wait = LOOK;
        let found = seen.as_ref();
        let found = found.map(|secret| read(secret, &names, Timestamp::now()));
        let unfit = match found {
            Some(Ok(certificate)) => {
                told.clear();
                hand_on(&sender, certificate);
                continue;
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let left = written.and_then(|at| again.checked_sub(at.elapsed()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            tell(&mut told, &too_soon(unfit.as_ref(), again));
            wait = left;
            continue;
        }
        let why = unfit.map_or("there is none".to_owned(), |unfit| unfit.to_string());
        info!(why, "a certificate for the API server is made");
        match renew(&secrets, seen.as_ref(), &names).await {
            Ok(true) => written = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                let what = format!("no certificate for the API server: {error:#}");
                tell(&mut told, &what);
                wait = RETRY;
            }
        }
    }
}

/// Why no other Secret is written yet.
fn too_soon(unfit: Option<&CertificateError>, again: Duration) -> String {
    match unfit {
        Some(unfit) => format!("somebody else writes the Secret {NAME}: {unfit}"),
        None => format!(
            "the Secret {NAME} was deleted within {again:?} after it was written, and is written \
             once in that time"
        ),
    }
}

/// Warns once of the same.
fn tell(told: &mut String, what: &str) {
    if told != what {
        warn!("{what}; trying again, filters are checked by nodes alone");
        what.clone_into(told);
    }
}

fn hand_on(sender: &watch::Sender<Option<Arc<Certificate>>>, certificate: Certificate) {
    sender.send_if_modified(|known| {
        let news = known
            .as_ref()
            .is_none_or(|known| known.digest != certificate.digest);
        if news {
            *known = Some(Arc::new(certificate));
        }
        news
    });
}

/// Puts a new one in the place of what was seen, unless somebody was faster: then
/// it is false, and the watch brings theirs.
async fn renew(
    secrets: &Api<Secret>,
    seen: Option<&Secret>,
    names: &[String],
) -> anyhow::Result<bool> {
    let mut secret = make(names, Timestamp::now())?;
    let params = PostParams::default();
    let written = match seen {
        None => secrets.create(&params, &secret).await,
        Some(seen) => {
            secret
                .metadata
                .resource_version
                .clone_from(&seen.metadata.resource_version);
            // The type of a Secret cannot be changed.
            secret.type_.clone_from(&seen.type_);
            secrets.replace(NAME, &params, &secret).await
        }
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a Secret has, unless it is too old, or not for a server of these names.
fn read(
    secret: &Secret,
    names: &[String],
    now: Timestamp,
) -> Result<Certificate, CertificateError> {
    let part = |name: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice())
            .ok_or(CertificateError::Missing(name))
    };
    let annotations = secret.metadata.annotations.as_ref();
    let renew = annotations.and_then(|all| all.get(RENEW));
    let renew = renew.ok_or(CertificateError::Missing(RENEW))?;
    let due = renew.parse::<Timestamp>().is_ok_and(|due| due > now);
    if !due {
        return Err(CertificateError::Old(renew.clone()));
    }
    let authority = part(AUTHORITY)?.to_vec();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(part(CHAIN)?).collect();
    let chain = chain.map_err(|error| CertificateError::Pem(CHAIN, error))?;
    verify(&authority, &chain, names, now)?;
    let token = String::from_utf8_lossy(part(TOKEN)?).into_owned();
    // It stands in a path.
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if token.len() < MIN_TOKEN || !token.bytes().all(sound) {
        return Err(CertificateError::Token);
    }
    let key = PrivateKeyDer::from_pem_slice(part(KEY)?)
        .map_err(|error| CertificateError::Pem(KEY, error))?;
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Certificate {
        authority,
        server: Arc::new(server),
        token,
        digest: digest(secret),
    })
}

/// Holds a chain to what the API server will: somebody may have put another one there,
/// or the operators have got other names.
fn verify(
    authority: &[u8],
    chain: &[CertificateDer<'_>],
    names: &[String],
    now: Timestamp,
) -> Result<(), CertificateError> {
    let mut roots = RootCertStore::empty();
    for one in CertificateDer::pem_slice_iter(authority) {
        roots.add(one.map_err(|error| CertificateError::Pem(AUTHORITY, error))?)?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let (server, between) = chain
        .split_first()
        .ok_or(CertificateError::Missing(CHAIN))?;
    let now = Duration::from_secs(now.as_second().try_into().unwrap_or_default());
    for name in names {
        let name = ServerName::try_from(name.as_str())?;
        let now = UnixTime::since_unix_epoch(now);
        verifier.verify_server_cert(server, between, &name, &[], now)?;
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn digest(secret: &Secret) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (name, bytes) in secret.data.iter().flatten() {
        for part in [name.as_bytes(), &bytes.0] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    digest.finalize().into()
}

fn random_token() -> Result<String, rustls::Error> {
    let mut bytes = [0; 32];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A new one for a server of these names.
fn make(names: &[String], now: Timestamp) -> Result<Secret, CertificateError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "weft-operator admission");
    valid(&mut authority, now);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut server = CertificateParams::new(names)?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if let Some(name) = names.first() {
        server
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
    }
    valid(&mut server, now);
    let key = KeyPair::generate()?;
    let server = server.signed_by(&key, &authority)?;

    let part = |name: &str, text: String| (name.to_owned(), ByteString(text.into_bytes()));
    let renew = (now + USED).to_string();
    Ok(Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some(BTreeMap::from([(RENEW.to_owned(), renew)])),
            ..Default::default()
        },
        type_: Some(KIND.to_owned()),
        data: Some(BTreeMap::from([
            part(AUTHORITY, authority.pem()),
            part(CHAIN, server.pem()),
            part(KEY, key.serialize_pem()),
            part(TOKEN, random_token()?),
        ])),
        ..Secret::default()
    })
}

fn valid(params: &mut CertificateParams, now: Timestamp) {
    let day = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        // Both are in their ranges: no month and no day is negative.
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    params.not_before = day(now - SKEW);
    params.not_after = day(now + VALID);
}

#[cfg(test)]
pub(super) mod tests;
