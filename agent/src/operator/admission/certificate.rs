//! The certificate by which the API server knows the operators. It is in a Secret, so
//! that all of them have the same one; who finds none, or an old one, makes another.
//! The key of its authority is thrown away: it can vouch for nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Name of the Secret.
const NAME: &str = "weft-operator-tls";
const KIND: &str = "kubernetes.io/tls";
const AUTHORITY: &str = "ca.crt";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
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

/// A certificate, ready for use.
#[derive(Debug)]
pub(super) struct Certificate {
    /// Who vouches for it, as PEM.
    pub(super) authority: Vec<u8>,
    /// With its key.
    pub(super) server: Arc<ServerConfig>,
    made: Secret,
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
    #[error("it was to be renewed after {0}")]
    Old(String),
    #[error(transparent)]
    Made(#[from] rcgen::Error),
}

/// Hands on what the Secret has, and puts a new certificate into it when that is
/// none, until `stop` is cancelled.
pub(super) async fn keep(
    secrets: Api<Secret>,
    names: Vec<String>,
    sender: watch::Sender<Option<Arc<Certificate>>>,
    stop: CancellationToken,
) {
    let changes = watcher::watch_object(secrets.clone(), NAME).default_backoff();
    pin_mut!(changes);
    let mut seen: Option<Secret> = None;
    let mut told = String::new();
    let mut wait = LOOK;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(Ok(secret)) => seen = secret,
                // It was told by whoever could not watch; the stream tries again.
                Some(Err(error)) => {
                    tell(&mut told, &format!("the Secret {NAME} cannot be watched: {error}"));
                    continue;
                }
                None => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
        wait = LOOK;
        match seen.as_ref().map(read) {
            Some(Ok(certificate)) => {
                told.clear();
                hand_on(&sender, certificate);
                continue;
            }
            Some(Err(error)) => info!(%error, "another certificate is made"),
            None => info!("a certificate is made"),
        }
        if let Err(error) = renew(&secrets, seen.as_ref(), &names).await {
            tell(
                &mut told,
                &format!("no certificate for the API server: {error:#}"),
            );
            wait = RETRY;
        }
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
            .is_none_or(|known| known.made.data != certificate.made.data);
        if news {
            *known = Some(Arc::new(certificate));
        }
        news
    });
}

/// Puts a new one in the place of what was seen, unless somebody was faster: then
/// the watch brings theirs.
async fn renew(
    secrets: &Api<Secret>,
    seen: Option<&Secret>,
    names: &[String],
) -> anyhow::Result<()> {
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
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a Secret has, unless it is too old.
fn read(secret: &Secret) -> Result<Certificate, CertificateError> {
    let part = |name: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice())
            .ok_or(CertificateError::Missing(name))
    };
    let annotations = secret.metadata.annotations.as_ref();
    let renew = annotations.and_then(|all| all.get(RENEW));
    let renew = renew.ok_or(CertificateError::Missing(RENEW))?;
    let due = renew
        .parse::<Timestamp>()
        .is_ok_and(|due| due > Timestamp::now());
    if !due {
        return Err(CertificateError::Old(renew.clone()));
    }
    let authority = part(AUTHORITY)?.to_vec();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(part(CHAIN)?).collect();
    let chain = chain.map_err(|error| CertificateError::Pem(CHAIN, error))?;
    let key = PrivateKeyDer::from_pem_slice(part(KEY)?)
        .map_err(|error| CertificateError::Pem(KEY, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Certificate {
        authority,
        server: Arc::new(server),
        made: secret.clone(),
    })
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
pub(super) mod tests {
    use super::*;

    /// One for loopback.
    pub(in super::super) fn made() -> Certificate {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let secret = make(&names, Timestamp::now()).expect("made");
        read(&secret).expect("it can be read")
    }

    #[test]
    fn what_is_made_is_used_for_a_year() {
        let names = ["weft-operator.kube-system.svc".to_owned()];
        let now = Timestamp::now();
        let secret = make(&names, now).expect("made");
        read(&secret).expect("it can be read");
        let old = make(&names, now - USED - SignedDuration::from_secs(1)).expect("made");
        let error = read(&old).expect_err("it is old").to_string();
        assert!(error.contains("renewed after"), "{error}");
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        let names = ["a.b.svc".to_owned()];
        let secret = make(&names, Timestamp::now()).expect("made");
        for (part, said) in [
            (AUTHORITY, "no ca.crt"),
            (CHAIN, "no tls.crt"),
            (KEY, "no tls.key"),
        ] {
            let mut without = secret.clone();
            without.data.as_mut().expect("data").remove(part);
            let error = read(&without).expect_err("a part is missing").to_string();
            assert!(error.contains(said), "{error}");
        }
        let mut other = secret.clone();
        let key = KeyPair::generate().expect("a key").serialize_pem();
        let data = other.data.as_mut().expect("data");
        data.insert(KEY.to_owned(), ByteString(key.into_bytes()));
        assert!(matches!(read(&other), Err(CertificateError::Tls(_))));
        let mut undated = secret;
        undated.metadata.annotations = None;
        assert!(matches!(
            read(&undated),
            Err(CertificateError::Missing(RENEW))
        ));
    }
}
