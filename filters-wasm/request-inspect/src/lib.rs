//! Refuses requests by method, size, kind of content and patterns, before they reach a service that
//! would choke on them.

mod rules;

use rules::{Compiled, Place};
use weft_sdk::Body;
use weft_sdk::prelude::*;
use weft_sdk::text::percent_decode;

/// As much of a body as the proxy holds for a filter, unless the filter's limits say otherwise.
const MAX_HELD: usize = 1 << 20;

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
    /// Bytes of the body; more are answered with 413. At most 1 MiB where the body is searched, for
    /// it is held then; otherwise it goes on while it is counted.
    max_body_bytes: Option<usize>,
    /// Kinds of content that a body may have, as `application/json` or `image/*`; any if empty.
    /// Others are answered with 415.
    #[serde(default)]
    content_types: Vec<String>,
    /// Patterns that a request must not have. Path, query and forms are searched as they come and
    /// without their percent-encoding; other bodies as they come. A body with a content encoding
    /// (as gzip) is answered with 415 where bodies are searched.
    #[serde(default)]
    deny: Vec<rules::Rule>,
    /// How much of a body is searched for patterns, at most 1 MiB: a longer one is answered with
    /// 413.
    #[serde(default = "quarter_mebibyte")]
    max_searched_bytes: usize,
    /// Requests are let through all the same, and what would have been refused is only logged.
    #[serde(default)]
    dry_run: bool,
}

const fn quarter_mebibyte() -> usize {
    256 * 1024
}

impl Config {
    /// What is searched is held. The proxy would refuse more by itself, and not as the fields say.
    fn check_held(&self) -> Result<()> {
        for (field, bytes) in [
            ("max_searched_bytes", Some(self.max_searched_bytes)),
            ("max_body_bytes", self.max_body_bytes),
        ] {
            if bytes.is_some_and(|bytes| bytes > MAX_HELD) {
                return Err(Error::new(format_args!(
                    "{field}: at most {MAX_HELD} where a pattern is looked for in the body: the \
                     proxy holds no more than that"
                )));
            }
        }
        Ok(())
    }
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

    fn too_long(limit: usize) -> Self {
        Self::new(413, format!("a body of more than {limit} bytes"))
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
            .map(|(at, rule)| rule.compile(&format!("deny[{at}]")))
            .collect::<Result<Vec<_>>>()?;
        for (at, kind) in config.content_types.iter().enumerate() {
            if !kind.contains('/') {
                return Err(Error::new(format_args!(
                    "content_types[{at}]: as application/json or image/*"
                )));
            }
        }
        if rules.iter().any(|rule| rule.place == Place::Body) {
            config.check_held()?;
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
        let path = Text::path(path.as_bytes());
        let query = Text::form(query.as_bytes());
        let found = self.rules.iter().find(|rule| match &rule.place {
            Place::Path => path.has(rule),
            Place::Query => query.has(rule),
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
        let config = &self.config;
        let searches = self.searches();
        if !searches && config.max_body_bytes.is_none() && config.content_types.is_empty() {
            return None;
        }
        let mut body = request.body();
        let first = body.next().await?;
        if let Some(refusal) = self.content_type(request) {
            return Some(refusal);
        }
        if searches {
            if let Some(refusal) = encoded(request) {
                return Some(refusal);
            }
            return self.search(body, first, is_form(request)).await;
        }
        let limit = config.max_body_bytes?;
        // Only counted, so what is within the limit need not be held until the end has come.
        let mut body = body.streaming();
        let mut size = first.len();
        while size <= limit {
            size = size.saturating_add(body.next().await?.len());
        }
        Some(Refusal::too_long(limit))
    }

    fn searches(&self) -> bool {
        self.rules.iter().any(|rule| rule.place == Place::Body)
    }

    /// All that is searched has to be there at once: a pattern may lie across two parts.
    async fn search(&self, mut body: Body, first: Vec<u8>, form: bool) -> Option<Refusal> {
        let searched = self.config.max_searched_bytes;
        let limit = self
            .config
            .max_body_bytes
            .map_or(searched, |max| max.min(searched));
        let mut all = first;
        while all.len() <= limit {
            match body.next().await {
                Some(part) => all.extend_from_slice(&part),
                None => {
                    let mut patterns = self.rules.iter().filter(|rule| rule.place == Place::Body);
                    let text = match form {
                        true => Text::form(&all),
                        false => Text::plain(&all),
                    };
                    let found = patterns.find(|rule| text.has(rule));
                    return found.map(Compiled::refusal);
                }
            }
        }
        Some(Refusal::too_long(limit))
    }

    fn content_type(&self, request: &Request) -> Option<Refusal> {
        if self.config.content_types.is_empty() {
            return None;
        }
        // Each of them: who reads the body may go by another one than the first.
        let kinds = request.headers().get_all("content-type");
        if kinds.is_empty() {
            return Some(Refusal::new(415, "no content type"));
        }
        let refused = kinds
            .iter()
            .map(|kind| essence(&kind.to_string()))
            .find(|kind| !self.allows(kind))?;
        Some(Refusal::new(415, format!("content type {refused:?}")))
    }

    fn allows(&self, kind: &str) -> bool {
        let of = |allowed: &String| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_suffix('*') {
                // A list is not one kind, whatever it begins with.
                Some(start) => kind.starts_with(start) && !kind.contains(','),
                None => kind == allowed,
            }
        };
        self.config.content_types.iter().any(of)
    }
}

/// A text as it came, and as who reads it will understand it where that is something else.
struct Text<'a> {
    raw: &'a [u8],
    decoded: Option<Vec<u8>>,
}

impl<'a> Text<'a> {
    const fn plain(raw: &'a [u8]) -> Self {
        Self { raw, decoded: None }
    }

    fn path(raw: &'a [u8]) -> Self {
        let encoded = raw.contains(&b'%');
        Self {
            raw,
            decoded: encoded.then(|| percent_decode(raw, |_byte| true)),
        }
    }

    /// A query, too: there a plus stands for a space.
    fn form(raw: &'a [u8]) -> Self {
        if !raw.contains(&b'+') {
            return Self::path(raw);
        }
        let spaced: Vec<u8> = raw
            .iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte })
            .collect();
        Self {
            raw,
            decoded: Some(percent_decode(spaced, |_byte| true)),
        }
    }

    fn has(&self, rule: &Compiled) -> bool {
        let decoded = self.decoded.as_deref();
        rule.matches(self.raw) || decoded.is_some_and(|decoded| rule.matches(decoded))
    }
}

/// A pattern is not found in what is compressed.
fn encoded(request: &Request) -> Option<Refusal> {
    let encodings = request.headers().get_all("content-encoding");
    let encodings: Vec<String> = encodings.iter().map(ToString::to_string).collect();
    let mut named = encodings.iter().flat_map(|line| line.split(','));
    let other = named.find(|it| {
        let name = it.trim();
        !name.is_empty() && !name.eq_ignore_ascii_case("identity")
    })?;
    Some(Refusal::new(
        415,
        format!("content encoding {:?} cannot be searched", other.trim()),
    ))
}

/// Whether somebody may read the body as a form.
fn is_form(request: &Request) -> bool {
    let kinds = request.headers().get_all("content-type");
    kinds.iter().any(|kind| {
        let kind = kind.to_string().to_ascii_lowercase();
        kind.contains("application/x-www-form-urlencoded")
    })
}

/// A kind of content without its parameters.
fn essence(kind: &str) -> String {
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}
