//! Limits how many requests a client may make in a while.
//!
//! `scope: node` counts in windows that all workers of the node share, exactly. `scope: worker` has
//! a token bucket in each worker and asks nobody: cheaper, smoother, and as many times the limit as
//! there are workers.

mod bucket;
mod shared;

use std::cell::RefCell;

use bucket::Buckets;
use weft_sdk::prelude::*;
use weft_sdk::{Attributes, Headers, KvError, time};

/// How much is let through.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// So many requests ...
    #[schemars(range(min = 1))]
    limit: u32,
    /// ... in so many seconds.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    per_seconds: u32,
    /// Who has a limit of its own.
    #[serde(default)]
    key: Key,
    /// Who counts.
    #[serde(default)]
    scope: Scope,
    /// Only these requests are counted and limited; all of them if it is left out.
    #[serde(default, rename = "when")]
    only: Only,
    /// The status of requests beyond the limit.
    #[serde(default = "too_many")]
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// With `scope: worker`, how many clients are told apart, at most 50000; further ones share one
    /// limit. With `scope: node` that is as many as the filter's quota of shared values has room
    /// for.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 50_000))]
    max_keys: usize,
}

/// Who has a limit of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Key {
    /// Each security identity: all pods with the same labels together.
    #[default]
    Identity,
    /// Each pod or address.
    Source,
    /// Each value of this header; requests without it share one limit.
    Header(String),
    /// Nobody: all requests together.
    All,
}

/// Who counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// All workers of the node together, in windows of the given length.
    #[default]
    Node,
    /// Each worker by itself, with a token bucket.
    Worker,
}

/// Which requests are counted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Only {
    /// Only these methods; any if empty.
    methods: Vec<String>,
    /// Only paths that begin so.
    path_prefix: String,
}

const fn one() -> u32 {
    1
}

const fn too_many() -> u16 {
    429
}

const fn ten_thousand() -> usize {
    10_000
}

/// The filter.
#[derive(Debug)]
pub struct RateLimit {
    config: Config,
    window: Duration,
    kv: Kv,
    buckets: RefCell<Buckets>,
    allowed: Counter,
    limited: Counter,
}

/// What is said of a request.
struct Verdict {
    allowed: bool,
    remaining: u32,
    retry_after: Duration,
}

#[filter]
impl Filter for RateLimit {
    const NAME: &'static str = "rate-limit";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS;

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        for (field, value) in [("limit", config.limit), ("per_seconds", config.per_seconds)] {
            if value == 0 {
                return Err(Error::new(format_args!("{field}: at least 1")));
            }
        }
        if !(400..600).contains(&config.status) {
            return Err(Error::new("status: between 400 and 599"));
        }
        if config.max_keys == 0 {
            return Err(Error::new("max_keys: at least 1"));
        }
        if config.max_keys > bucket::MAX_BUCKETS {
            return Err(Error::new(format_args!(
                "max_keys: at most {}",
                bucket::MAX_BUCKETS
            )));
        }
        if let Key::Header(name) = &config.key {
            Headers::check_readable(name).context("key.header")?;
        }
        if config.scope == Scope::Node {
            shared::reserve(&plugin.kv())?;
        }
        let window = Duration::from_secs(u64::from(config.per_seconds));
        Ok(Self {
            buckets: RefCell::new(Buckets::new(config.limit, window, config.max_keys)),
            window,
            kv: plugin.kv(),
            allowed: plugin.counter("requests", &[("outcome", "allowed")])?,
            limited: plugin.counter("requests", &[("outcome", "limited")])?,
            config,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        if !self.config.only.covers(&request) {
            return Ok(Flow::Continue);
        }
        let key = self.key(&request);
        let verdict = match self.config.scope {
            Scope::Node => self.count(&key)?,
            Scope::Worker => self.take(&key),
        };
        if verdict.allowed {
            self.allowed.increment();
            return Ok(Flow::Continue);
        }
        self.limited.increment();
        request.span().set("rate_limit.key", &key);
        // Rounded up: who comes back after it is let through.
        let wait = verdict.retry_after.as_millis().div_ceil(1000).max(1);
        Ok(Reply::new(self.config.status)
            .header("retry-after", wait.to_string())
            .header("x-ratelimit-limit", self.config.limit.to_string())
            .header("x-ratelimit-remaining", verdict.remaining.to_string())
            .body("too many requests\n")
            .reason(format!(
                "over {} requests in {} s",
                self.config.limit, self.config.per_seconds
            ))
            .into())
    }
}

impl RateLimit {
    fn key(&self, request: &Request) -> String {
        let source = |read: fn(&Attributes) -> String| read(&request.attributes());
        match &self.config.key {
            Key::All => String::new(),
            Key::Identity => source(|known| known.source.identity.to_string()),
            Key::Source => source(|known| {
                let source = &known.source;
                match source.pod.as_str() {
                    "" => source.address.clone(),
                    pod => format!("{}/{pod}", source.namespace),
                }
            }),
            // One value each: what a client repeats in a second line is not another client.
            Key::Header(name) => request
                .headers()
                .get(name)
                .map(|value| value.to_string())
                .unwrap_or_default(),
        }
    }

    /// Counts in a window that begins with the first request in it.
    fn count(&self, key: &str) -> Result<Verdict> {
        let key = format!("window/{}", bucket::shortened(key));
        let count = match self.kv.increment(&key, 1, self.window) {
            // Who invents clients must not make the filter fail: those without room share a window.
            Err(KvError::Quota) => shared::count(&self.kv, self.window)?,
            counted => counted?,
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Verdict {
            allowed: count <= self.config.limit,
            remaining: self.config.limit.saturating_sub(count),
            // When the window began is not known, and not later than now.
            retry_after: self.window,
        })
    }

    fn take(&self, key: &str) -> Verdict {
        let mut buckets = self.buckets.borrow_mut();
        match buckets.take(key, time::monotonic()) {
            Ok(remaining) => Verdict {
                allowed: true,
                remaining,
                retry_after: Duration::ZERO,
            },
            Err(retry_after) => Verdict {
                allowed: false,
                remaining: 0,
                retry_after,
            },
        }
    }
}

impl Only {
    fn covers(&self, request: &Request) -> bool {
        let methods = self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| *method == request.method());
        methods && (self.path_prefix.is_empty() || request.path().starts_with(&self.path_prefix))
    }
}
