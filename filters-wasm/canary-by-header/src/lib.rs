//! Marks requests that are meant for another version of a Service: those with a header that says
//! so, and a part of the others that stays the same for the same client.
//!
//! A chosen request gets a header. It goes where all go: a route that looks at the header, or the
//! application, makes something of it.

use weft_sdk::Headers;
use weft_sdk::prelude::*;
use weft_sdk::text::fnv1a;

/// Who is chosen, and what is done with the request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header that chooses, as `x-canary: always` or `x-canary: never`.
    #[serde(default = "x_canary")]
    header: String,
    /// Values of the header that choose the canary.
    #[serde(default = "always")]
    values: Vec<String>,
    /// Of 100 clients whose requests do not say, so many.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    percent: f64,
    /// What tells clients apart for that: a header, as one with the user's name, or a cookie.
    /// Requests without it are not chosen.
    by: Option<By>,
    /// The header that chosen requests get. What a client sends in it is removed.
    mark: Mark,
}

/// What tells clients apart.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum By {
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mark {
    name: String,
    #[serde(default = "canary")]
    value: String,
}

fn x_canary() -> String {
    "x-canary".to_owned()
}

fn always() -> Vec<String> {
    vec!["always".to_owned()]
}

fn canary() -> String {
    "canary".to_owned()
}

/// The filter.
#[derive(Debug)]
pub struct Canary {
    config: Config,
    canary: Counter,
    stable: Counter,
}

#[filter]
impl Filter for Canary {
    const NAME: &'static str = "canary-by-header";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS;

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        if !(0.0..=100.0).contains(&config.percent) {
            return Err(Error::new("percent: between 0 and 100"));
        }
        if config.percent > 0.0 && config.by.is_none() {
            return Err(Error::new(
                "by: without it a client would be chosen now and not the next time",
            ));
        }
        Headers::check_request_name(&config.mark.name).context("mark.name")?;
        Headers::check_value(&config.mark.value).context("mark.value")?;
        Headers::check_readable(&config.header).context("header")?;
        if let Some(By::Header(name)) = &config.by {
            Headers::check_readable(name).context("by.header")?;
        }
        if config.mark.name.eq_ignore_ascii_case(&config.header) {
            return Err(Error::new(
                "mark.name: the header that chooses is another one",
            ));
        }
        Ok(Self {
            config,
            canary: plugin.counter("requests", &[("version", "canary")])?,
            stable: plugin.counter("requests", &[("version", "stable")])?,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let mark = &self.config.mark;
        request.headers().remove(&mark.name)?;
        if !self.chooses(&request) {
            self.stable.increment();
            return Ok(Flow::Continue);
        }
        self.canary.increment();
        request.span().set("canary", true);
        request.headers().set(&mark.name, &mark.value)?;
        Ok(Flow::Continue)
    }
}

impl Canary {
    fn chooses(&self, request: &Request) -> bool {
        if let Some(said) = request.headers().get(&self.config.header) {
            return self
                .config
                .values
                .iter()
                .any(|value| said == value.as_str());
        }
        if self.config.percent <= 0.0 {
            return false;
        }
        let client = match &self.config.by {
            Some(By::Header(name)) => request.headers().get(name).map(|value| value.to_vec()),
            Some(By::Cookie(name)) => cookie(request, name),
            None => None,
        };
        client.is_some_and(|client| share(&client) < self.config.percent)
    }
}

/// The value of a cookie; clients send them in one line or in several.
fn cookie(request: &Request, name: &str) -> Option<Vec<u8>> {
    request.headers().get_all("cookie").iter().find_map(|line| {
        line.split(|byte| *byte == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.to_vec())
        })
    })
}

/// Where a client stands among all, from 0 up to but without 100: the same for the same name, and
/// spread evenly. FNV-1a, mixed once more, for its upper bits differ little for short names.
fn share(client: &[u8]) -> f64 {
    let mut hash = fnv1a(client);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (hash % 10_000) as f64 / 100.0
}
