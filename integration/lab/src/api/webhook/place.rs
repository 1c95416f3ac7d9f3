//! Where a webhook is, and by whom its certificate must be signed.

use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::api::object;

/// What a `clientConfig` points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Place {
    /// What its certificate must be for.
    pub host: String,
    /// The port: of the Service, or of the host.
    pub port: u16,
    /// Begins with a slash.
    pub path: String,
    /// Namespace and name; without one the host is dialled.
    pub service: Option<(String, String)>,
}

/// A field of the `clientConfig` and what is wrong with it.
type Problem = (&'static str, String);

impl Place {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// With the first field that cannot be meant so.
    pub fn of(client: &Value) -> Result<Self, Problem> {
        match client["url"].as_str() {
            Some(url) => of_url(url).map_err(|problem| ("url", problem.to_owned())),
            None => of_service(&client["service"]),
        }
    }

    /// As errors show it.
    pub fn url(&self, seconds: u64) -> String {
        format!("https://{}{}", self.authority(), self.target(seconds))
    }

    /// Host and port, as the request's `Host` says them.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    /// Path and query of a request that has so long. A webhook can see when to give up.
    pub fn target(&self, seconds: u64) -> String {
        format!("{}?timeout={seconds}s", self.path)
    }
}

fn of_url(url: &str) -> Result<Place, &'static str> {
    // The parser drops fragments.
    if url.contains('#') {
        return Err("fragments are not permitted in the URL");
    }
    let uri: Uri = url.parse().map_err(|_| "url must be a valid URL")?;
    if uri.scheme_str() != Some("https") {
        return Err("'https' is the only allowed URL scheme; desired format: https://host[/path]");
    }
    let authority = uri.authority().filter(|a| !a.host().is_empty());
    let authority =
        authority.ok_or("host must be specified; desired format: https://host[/path]")?;
    if authority.as_str().contains('@') {
        return Err("user information is not permitted in the URL");
    }
    if uri.query().is_some() {
        return Err("query parameters are not permitted in the URL");
    }
    Ok(Place {
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port: authority.port_u16().unwrap_or(443),
        path: uri.path().to_owned(),
        service: None,
    })
}

fn of_service(service: &Value) -> Result<Place, Problem> {
    let text = |field: &'static str, path: &'static str| match object::text(service, path) {
        "" => Err((field, "must be given".to_owned())),
        text => Ok(text.to_owned()),
    };
    let name = text("service.name", "/name")?;
    let namespace = text("service.namespace", "/namespace")?;
    let path = match object::text(service, "/path") {
        "" => "/",
        path => path,
    };
    if !path.starts_with('/') {
        return Err(("service.path", "must start with a '/'".to_owned()));
    }
    let plain = path.parse::<Uri>().is_ok() && !path.contains(['?', '#']);
    if !plain {
        let problem = "must be a path without query and fragment".to_owned();
        return Err(("service.path", problem));
    }
    let port = service["port"].as_u64().and_then(|n| u16::try_from(n).ok());
    Ok(Place {
        host: format!("{name}.{namespace}.svc"),
        // What does not fit is told by the check of the port itself.
        port: port.unwrap_or(443),
        path: path.to_owned(),
        service: Some((namespace, name)),
    })
}

/// The certificates of a `caBundle`: PEM in base64.
///
/// # Errors
/// When there is none in it, or something else.
pub(in crate::api) fn authorities(bundle: &str) -> Result<RootCertStore, String> {
    let pem = STANDARD
        .decode(bundle)
        .map_err(|error| format!("not base64: {error}"))?;
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(&pem) {
        let certificate = found.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in PEM".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn urls() {
        let place = Place::of(&json!({"url": "https://[::1]:8443/a/b"})).expect("a place");
        assert_eq!(place.host, "::1");
        assert_eq!(place.url(3), "https://[::1]:8443/a/b?timeout=3s");
        let place = Place::of(&json!({"url": "https://hook.example"})).expect("a place");
        assert_eq!(place.url(10), "https://hook.example:443/?timeout=10s");
        for (url, part) in [
            ("http://a/b", "'https' is the only"),
            ("a/b", "valid URL"),
            ("/b", "'https' is the only"),
            ("https://u:p@a/", "user information"),
            ("https://a/?x=1", "query"),
            ("https://a/#x", "fragments"),
        ] {
            let (field, problem) = Place::of(&json!({ "url": url })).expect_err(url);
            assert!(field == "url" && problem.contains(part), "{url}: {problem}");
        }
    }

    #[test]
    fn services() {
        let service = |service: Value| Place::of(&json!({ "service": service }));
        let place = service(json!({"name": "n", "namespace": "s", "port": 8443, "path": "/p"}));
        let place = place.expect("a place");
        assert_eq!(place.url(1), "https://n.s.svc:8443/p?timeout=1s");
        assert_eq!(place.service, Some(("s".to_owned(), "n".to_owned())));
        for (given, field) in [
            (json!({"namespace": "s"}), "service.name"),
            (json!({"name": "n"}), "service.namespace"),
            (
                json!({"name": "n", "namespace": "s", "path": "p"}),
                "service.path",
            ),
            (
                json!({"name": "n", "namespace": "s", "path": "/p?a"}),
                "service.path",
            ),
        ] {
            assert_eq!(service(given).expect_err(field).0, field);
        }
    }

    #[test]
    fn bundles() {
        for bundle in ["", "!", "bm8gUEVN"] {
            assert!(authorities(bundle).is_err(), "{bundle}");
        }
    }
}
