//! Refuses requests by method, size, kind of content and patterns, before they reach a service that
//! would choke on them.

mod rules;

use rules::{Compiled, Place};
use weft_sdk::prelude::*;

/// What is refused. What is left out is not limited.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Only these methods are allowed; any if empty. Others are answered with 405.
    #[serde(default)]
    methods: Vec<String>,
    /// Bytes of path and query; more is answered with 414.
    max_path_bytes: Option<usize>,
    /// Headers; more are answered with 431.
    max_headers: Option<usize>,
    /// Bytes of all names and values of headers; more are answered with 431.
    max_header_bytes: Option<usize>,
    /// Bytes of the body; more are answered with 413.
    max_body_bytes: Option<usize>,
    /// Kinds of content that a body may have, as `application/json` or `image/*`; any if empty.
    /// Others are answered with 415.
    #[serde(default)]
    content_types: Vec<String>,
    /// Patterns that a request must not have.
    #[serde(default)]
    deny: Vec<rules::Rule>,
    /// How much of a body is searched for patterns: a longer one is answered with 413.
    #[serde(default = "quarter_mebibyte")]
    max_searched_bytes: usize,
    /// Requests are let through all the same, and what would have been refused is only logged.
    #[serde(default)]
    dry_run: bool,
}

const fn quarter_mebibyte() -> usize {
    256 * 1024
}

/// The filter.
#[derive(Debug)]
pub struct RequestInspect {
    config: Config,
    rules: Vec<Compiled>,
    passed: Counter,
    refused: Counter,
}

/// Why a request is refused.
struct Refusal {
    status: u16,
    why: String,
}

impl Refusal {
    fn new(status: u16, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
        }
    }
}

#[filter]
impl Filter for RequestInspect {
    const NAME: &'static str = "request-inspect";
    const INTERESTS: Interests = Interests::of_methods(true, false);

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        let rules = config
            .deny
            .iter()
            .enumerate()
            .map(|(at, rule)| rule.compile().context(format_args!("deny[{at}].pattern")))
            .collect::<Result<Vec<_>>>()?;
        for (at, kind) in config.content_types.iter().enumerate() {
            if !kind.contains('/') {
                return Err(Error::new(format_args!(
                    "content_types[{at}]: as application/json or image/*"
                )));
            }
        }
        Ok(Self {
            config,
            rules,
            passed: plugin.counter("requests", &[("outcome", "passed")])?,
            refused: plugin.counter("requests", &[("outcome", "refused")])?,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let refusal = match self.head(&request) {
            Some(refusal) => Some(refusal),
            None => self.body(&request).await,
        };
        let Some(refusal) = refusal else {
            self.passed.increment();
            return Ok(Flow::Continue);
        };
        self.refused.increment();
        request.span().set("inspect.refused", &refusal.why);
        if self.config.dry_run {
            request
                .log()
                .warn("would have been refused", &[("why", &refusal.why)]);
            return Ok(Flow::Continue);
        }
        Ok(Reply::new(refusal.status).reason(refusal.why).into())
    }
}

impl RequestInspect {
    /// What can be said before the body comes.
    fn head(&self, request: &Request) -> Option<Refusal> {
        let config = &self.config;
        let method = request.method();
        if !config.methods.is_empty() && !config.methods.contains(&method) {
            return Some(Refusal::new(405, format!("method {method}")));
        }
        let path = request.path();
        if config.max_path_bytes.is_some_and(|max| path.len() > max) {
            return Some(Refusal::new(414, format!("a path of {} bytes", path.len())));
        }
        let headers = request.headers().entries();
        if config.max_headers.is_some_and(|max| headers.len() > max) {
            return Some(Refusal::new(431, format!("{} headers", headers.len())));
        }
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if config.max_header_bytes.is_some_and(|max| bytes > max) {
            return Some(Refusal::new(431, format!("headers of {bytes} bytes")));
        }
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let found = self.rules.iter().find(|rule| match &rule.place {
            Place::Path => rule.matches(path.as_bytes()),
            Place::Query => rule.matches(query.as_bytes()),
            Place::Header(wanted) => headers
                .iter()
                .any(|(name, value)| name == wanted.as_str() && rule.matches(value)),
            Place::AnyHeader => headers.iter().any(|(_, value)| rule.matches(value)),
            Place::Body => false,
        });
        if let Some(rule) = found {
            return Some(rule.refusal());
        }
        // What says that it is too long is not waited for.
        let length = request.headers().get_str("content-length");
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if config.max_body_bytes.is_some_and(|max| length > max) {
            return Some(Refusal::new(413, format!("a body of {length} bytes")));
        }
        None
    }

    async fn body(&self, request: &Request) -> Option<Refusal> {
        let patterns: Vec<&Compiled> = self
            .rules
            .iter()
            .filter(|rule| rule.place == Place::Body)
            .collect();
        let config = &self.config;
        let nothing_to_do = patterns.is_empty()
            && config.max_body_bytes.is_none()
            && config.content_types.is_empty();
        if nothing_to_do {
            return None;
        }
        let mut body = request.body();
        let first = body.next().await?;
        if let Some(refusal) = self.content_type(request) {
            return Some(refusal);
        }
        // All that is searched has to be there at once: a pattern may lie across two parts.
        let searched = (!patterns.is_empty()).then_some(config.max_searched_bytes);
        let limit = config
            .max_body_bytes
            .into_iter()
            .chain(searched)
            .min()
            .unwrap_or(usize::MAX);
        if patterns.is_empty() {
            let mut size = first.len();
            while size <= limit {
                match body.next().await {
                    Some(part) => size += part.len(),
                    None => return None,
                }
            }
            return Some(Refusal::new(
                413,
                format!("a body of more than {limit} bytes"),
            ));
        }
        let mut all = first;
        while all.len() <= limit {
            match body.next().await {
                Some(part) => all.extend_from_slice(&part),
                None => {
                    let found = patterns.iter().find(|rule| rule.matches(&all));
                    return found.map(|rule| rule.refusal());
                }
            }
        }
        Some(Refusal::new(
            413,
            format!("a body of more than {limit} bytes"),
        ))
    }

    fn content_type(&self, request: &Request) -> Option<Refusal> {
        if self.config.content_types.is_empty() {
            return None;
        }
        let kind = request
            .headers()
            .get_str("content-type")
            .unwrap_or_default();
        let kind = kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let allowed = self.config.content_types.iter().any(|allowed| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_suffix('*') {
                Some(start) => kind.starts_with(start),
                None => kind == allowed,
            }
        });
        (!allowed).then(|| Refusal::new(415, format!("content type {kind:?}")))
    }
}
