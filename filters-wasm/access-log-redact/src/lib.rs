//! Writes an access log without secrets: a line for each exchange, in which what looks like one, in
//! headers and in the query, is replaced before it leaves the proxy.
//!
//! It is a log for people, not a record of everything: a filter's lines are limited to 100 a second
//! on each node, beyond which the proxy only counts them.

mod redact;

use redact::{Redactor, Replacement};
use weft_sdk::prelude::*;
use weft_sdk::{HeaderValue, Headers, Log, time};

/// Headers that have a URL, or a part of one, as their value.
const URLS: [&str; 8] = [
    "content-location",
    "link",
    "location",
    "referer",
    "refresh",
    "x-forwarded-uri",
    "x-original-uri",
    "x-original-url",
];

/// What is written, and what is left out of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Headers of the request that are written.
    #[serde(default = "usual_headers")]
    request_headers: Vec<String>,
    /// Headers of the response that are written.
    #[serde(default)]
    response_headers: Vec<String>,
    /// Parameters of the query whose values are replaced.
    #[serde(default = "usual_parameters")]
    query: Vec<String>,
    /// Headers whose values are replaced as a whole.
    #[serde(default = "usual_secrets")]
    secret_headers: Vec<String>,
    /// What is replaced wherever it stands, besides mail addresses, numbers of cards and tokens.
    #[serde(default)]
    patterns: Vec<Replacement>,
    /// Only responses with this status or a higher one are written. With it, what ends without a
    /// response (a client that gave up, a refusal by policy) is not.
    #[serde(default)]
    min_status: u16,
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn usual_headers() -> Vec<String> {
    owned(&["user-agent", "referer"])
}

fn usual_parameters() -> Vec<String> {
    owned(&[
        "token",
        "access_token",
        "id_token",
        "refresh_token",
        "api_key",
        "apikey",
        "key",
        "password",
        "passwd",
        "secret",
        "client_secret",
        "code",
        "sig",
        "signature",
        "session",
    ])
}

fn usual_secrets() -> Vec<String> {
    owned(&[
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
    ])
}

/// The filter.
pub struct AccessLog {
    config: Config,
    redactor: Redactor,
    /// For what ends without a response.
    log: Log,
}

/// What is known when the request comes. A request that is never answered is written when it is
/// over: its callers gave up, or another filter or policy refused it.
struct Begun {
    filter: Rc<AccessLog>,
    at: Duration,
    line: Vec<(String, String)>,
    written: std::cell::Cell<bool>,
}

#[filter]
impl Filter for AccessLog {
    const NAME: &'static str = "access-log-redact";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS.union(Interests::RESPONSE_HEADERS);

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        for (field, names) in [
            ("request_headers", &config.request_headers),
            ("response_headers", &config.response_headers),
            ("secret_headers", &config.secret_headers),
        ] {
            for (at, name) in names.iter().enumerate() {
                Headers::check_readable(name).context(format_args!("{field}[{at}]"))?;
            }
        }
        Ok(Self {
            redactor: Redactor::new(&config.patterns, &config.query)?,
            log: plugin.log(),
            config,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let known = request.attributes();
        let mut line = vec![
            ("request_id".to_owned(), known.request_id.clone()),
            ("trace_id".to_owned(), known.trace_id.clone()),
            ("source".to_owned(), name_of(&known.source)),
            ("method".to_owned(), known.method.clone()),
            (
                "authority".to_owned(),
                self.redactor.authority(&known.authority),
            ),
            ("path".to_owned(), self.redactor.target(&known.path)),
        ];
        self.headers(&mut line, "request", &self.config.request_headers, |name| {
            request.headers().get_all(name)
        });
        request.keep(Begun {
            filter: self.clone(),
            at: time::monotonic(),
            line,
            written: false.into(),
        });
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        let Some(begun) = response.kept::<Begun>() else {
            return Ok(Flow::Continue);
        };
        begun.written.set(true);
        let status = response.status();
        if status < self.config.min_status {
            return Ok(Flow::Continue);
        }
        let mut line = begun.line.clone();
        line.push(("status".to_owned(), status.to_string()));
        line.push(("milliseconds".to_owned(), begun.milliseconds()));
        let known = response.attributes();
        line.push(("destination".to_owned(), name_of(&known.destination)));
        self.headers(
            &mut line,
            "response",
            &self.config.response_headers,
            |name| response.headers().get_all(name),
        );
        write(&response.log(), &line);
        Ok(Flow::Continue)
    }
}

impl AccessLog {
    fn headers(
        &self,
        line: &mut Vec<(String, String)>,
        of: &str,
        names: &[String],
        values: impl Fn(&str) -> Vec<HeaderValue>,
    ) {
        let secrets = &self.config.secret_headers;
        for name in names {
            let secret = secrets
                .iter()
                .any(|secret| secret.eq_ignore_ascii_case(name));
            let shown: Vec<String> = values(name)
                .iter()
                .map(|value| match secret {
                    true => redact::HIDDEN.to_owned(),
                    false => self.shown(name, &value.to_string()),
                })
                .collect();
            if !shown.is_empty() {
                line.push((
                    format!("{of}.{}", name.to_ascii_lowercase()),
                    shown.join(", "),
                ));
            }
        }
    }
}

impl AccessLog {
    /// A header's value: a URL has parameters, as the path has.
    fn shown(&self, name: &str, value: &str) -> String {
        let named = URLS.iter().any(|url| url.eq_ignore_ascii_case(name));
        if named || value.starts_with('/') || value.contains("://") {
            self.redactor.target(value)
        } else {
            self.redactor.text(value)
        }
    }
}

impl Begun {
    fn milliseconds(&self) -> String {
        (time::monotonic() - self.at).as_millis().to_string()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.written.get() && self.filter.config.min_status == 0 {
            let mut line = self.line.clone();
            line.push(("status".to_owned(), "none".to_owned()));
            line.push(("milliseconds".to_owned(), self.milliseconds()));
            write(&self.filter.log, &line);
        }
    }
}

fn name_of(peer: &weft_sdk::Peer) -> String {
    match peer.pod.as_str() {
        "" => peer.address.clone(),
        pod => format!("{}/{pod}", peer.namespace),
    }
}

fn write(log: &Log, line: &[(String, String)]) {
    let fields: Vec<(&str, &dyn std::fmt::Display)> = line
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.as_str(), value as &dyn std::fmt::Display))
        .collect();
    log.info("access", &fields);
}
