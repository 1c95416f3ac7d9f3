//! A client for modules: HTTPS only, few redirects, and never more than was
//! asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::dial::Dialer;

/// Most redirects of one request.
const REDIRECTS: usize = 5;
/// What the agent calls itself.
const AGENT: &str = concat!("weft-agent/", env!("CARGO_PKG_VERSION"));

/// Why something could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No answer.
    #[error("{host}: {reason}")]
    Transport {
        /// Who was asked.
        host: String,
        /// What happened.
        reason: String,
    },
    /// Another answer than was wanted.
    #[error("{host} answers {status}")]
    Status {
        /// Who was asked.
        host: String,
        /// What it answered.
        status: StatusCode,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {reason}")]
    Redirect {
        /// Who was asked.
        host: String,
        /// Where to, and why it is not followed.
        reason: String,
    },
    /// It is too large.
    #[error("{host} sends more than {limit} bytes")]
    TooLarge {
        /// Who was asked.
        host: String,
        /// What was wanted at most.
        limit: usize,
    },
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of further authorities cannot be used.
    #[error("{path}: {reason}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS itself.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpsConnector<Dialer>, Empty<Bytes>>,
}

/// How to ask.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// What is understood.
    pub accept: Option<HeaderValue>,
    /// Who asks. Never sent on to another host.
    pub authorization: Option<HeaderValue>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status: 200, or 401 with a challenge of whoever was asked. Where that
    /// one leads elsewhere, a challenge from there is no answer of its own.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Http {
    /// A client that trusts the authorities of this machine, and those in the
    /// file `more`.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(dialer: Dialer, more: Option<&Path>) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        // What cannot be read is left out: who is not known is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = more {
            let failed = |reason: String| ClientError::Authorities {
                path: path.display().to_string(),
                reason,
            };
            let found = CertificateDer::pem_file_iter(path);
            let found = found.map_err(|error| failed(error.to_string()))?;
            let mut none = true;
            for one in found {
                let one = one.map_err(|error| failed(error.to_string()))?;
                roots.add(one).map_err(|error| failed(error.to_string()))?;
                none = false;
            }
            if none {
                return Err(failed("has no certificate in it".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(dialer);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        Ok(Self { client })
    }

    /// Gets what is there, of at most so many bytes.
    ///
    /// # Errors
    /// When it does not come, or is too large.
    pub async fn get(&self, asked: &Uri, ask: &Ask, most: usize) -> Result<Answer, HttpError> {
        let (mut uri, mut authorization) = (asked.clone(), ask.authorization.clone());
        for _ in 0..=REDIRECTS {
            let response = self.send(&uri, ask, authorization.as_ref()).await?;
            match response.status() {
                StatusCode::OK => return collect(&uri, response, most).await,
                StatusCode::UNAUTHORIZED if uri.authority() == asked.authority() => {
                    return collect(&uri, response, most).await;
                }
                status if status.is_redirection() => {
                    let next = target(&uri, response.headers())?;
                    if next.authority() != uri.authority() {
                        authorization = None;
                    }
                    uri = next;
                }
                status => {
                    let host = host(&uri);
                    return Err(HttpError::Status { host, status });
                }
            }
        }
        Err(HttpError::Redirect {
            host: host(&uri),
            reason: format!("for more than {REDIRECTS} times"),
        })
    }

    async fn send(
        &self,
        uri: &Uri,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, HttpError> {
        let failed = |reason: String| HttpError::Transport {
            host: host(uri),
            reason,
        };
        let mut request = Request::get(uri).header(USER_AGENT, AGENT);
        if let Some(accept) = &ask.accept {
            request = request.header(http::header::ACCEPT, accept);
        }
        if let Some(value) = authorization {
            let mut value = value.clone();
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| failed(error.to_string()))?;
        let answered = self.client.request(request).await;
        answered.map_err(|error| failed(reason(&error)))
    }
}

async fn collect(
    uri: &Uri,
    response: Response<Incoming>,
    most: usize,
) -> Result<Answer, HttpError> {
    let (head, body) = response.into_parts();
    let too_large = || HttpError::TooLarge {
        host: host(uri),
        limit: most,
    };
    let mut body = http_body_util::Limited::new(body, most);
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => HttpError::Transport {
                host: host(uri),
                reason: reason(&error),
            },
            Err(_) => too_large(),
        })?;
        if let Ok(data) = frame.into_data() {
            collected.extend_from_slice(&data);
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: collected.into(),
    })
}

/// Where a redirect leads.
fn target(from: &Uri, headers: &HeaderMap) -> Result<Uri, HttpError> {
    let refused = |reason: String| HttpError::Redirect {
        host: host(from),
        reason,
    };
    let location = text(headers, &LOCATION).ok_or_else(|| refused("nowhere".to_owned()))?;
    let base = format!(
        "https://{}",
        from.authority().map_or("", |one| one.as_str())
    );
    let whole = match location.strip_prefix("//") {
        Some(_) => format!("https:{location}"),
        None if location.starts_with('/') => format!("{base}{location}"),
        None => location.to_owned(),
    };
    let next: Result<Uri, _> = whole.parse();
    let told = location.split(['?', '#']).next().unwrap_or_default();
    let next = next.map_err(|error| refused(format!("to {told}: {error}")))?;
    if next.scheme_str() != Some("https") {
        return Err(refused(format!("to {told}, which is not https://")));
    }
    Ok(next)
}

/// A header as text.
pub fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Who is asked: never with a query or a login, which are nobody else's.
fn host(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let host = authority.rsplit('@').next();
    host.unwrap_or_default().to_owned()
}

/// What is at the bottom of an error.
fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests;
