//! Delays or aborts some requests, to see what their callers do.

use weft_sdk::prelude::*;
use weft_sdk::{Headers, time};

/// What happens to which requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Some requests wait before they go on.
    delay: Option<Delay>,
    /// Some requests are answered here.
    abort: Option<Abort>,
    /// Only these requests; all of them if it is left out.
    #[serde(default, rename = "when")]
    only: Only,
}

/// Some requests wait before they go on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delay {
    /// So long.
    #[schemars(range(min = 1, max = 60_000))]
    milliseconds: u64,
    /// Up to so much longer, at random.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    jitter_milliseconds: u64,
    /// Of 100 requests, so many.
    #[schemars(range(min = 0.0, max = 100.0))]
    percent: f64,
}

/// Some requests are answered here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Abort {
    /// The answer's status.
    #[serde(default = "unavailable")]
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    /// The answer to gRPC clients, in place of the status.
    grpc_status: Option<u32>,
    /// Of 100 requests, so many.
    #[schemars(range(min = 0.0, max = 100.0))]
    percent: f64,
}

const fn unavailable() -> u16 {
    503
}

/// Which requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Only {
    /// Requests with this header, of this value if one is given.
    header: Option<Header>,
    /// Paths that begin so.
    path_prefix: String,
    /// From pods whose label has this value.
    source_labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: Option<String>,
}

/// The filter.
#[derive(Debug)]
pub struct FaultInjection {
    config: Config,
    delayed: Counter,
    aborted: Counter,
}

/// A minute is longer than any client waits.
const MAX_DELAY: u64 = 60_000;

#[filter]
impl Filter for FaultInjection {
    const NAME: &'static str = "fault-injection";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS;

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        if config.delay.is_none() && config.abort.is_none() {
            return Err(Error::new("neither delay nor abort: nothing would happen"));
        }
        let percent = |field: &str, percent: f64| match (0.0..=100.0).contains(&percent) {
            true => Ok(()),
            false => Err(Error::new(format_args!(
                "{field}.percent: between 0 and 100"
            ))),
        };
        if let Some(delay) = &config.delay {
            percent("delay", delay.percent)?;
            if delay.milliseconds > MAX_DELAY || delay.jitter_milliseconds > MAX_DELAY {
                return Err(Error::new(format_args!(
                    "delay: at most {MAX_DELAY} milliseconds"
                )));
            }
        }
        if let Some(abort) = &config.abort {
            percent("abort", abort.percent)?;
            if !(200..600).contains(&abort.status) {
                return Err(Error::new("abort.status: between 200 and 599"));
            }
        }
        if let Some(header) = &config.only.header {
            Headers::check_readable(&header.name).context("when.header.name")?;
        }
        Ok(Self {
            config,
            delayed: plugin.counter("faults", &[("kind", "delay")])?,
            aborted: plugin.counter("faults", &[("kind", "abort")])?,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        if !self.config.only.covers(&request) {
            return Ok(Flow::Continue);
        }
        if let Some(delay) = &self.config.delay
            && happens(delay.percent)
        {
            let jitter = delay.jitter_milliseconds as f64 * time::random_fraction();
            let whole = Duration::from_millis(delay.milliseconds)
                + Duration::from_secs_f64(jitter / 1000.0);
            self.delayed.increment();
            request
                .span()
                .event("fault: delay", &[("milliseconds", &whole.as_millis())]);
            request.sleep(whole).await?;
        }
        if let Some(abort) = &self.config.abort
            && happens(abort.percent)
        {
            self.aborted.increment();
            request
                .span()
                .event("fault: abort", &[("status", &abort.status)]);
            return Ok(abort.reply(&request).into());
        }
        Ok(Flow::Continue)
    }
}

impl Abort {
    fn reply(&self, request: &Request) -> Reply {
        let kind = request.headers().get_str("content-type");
        let is_grpc = kind.is_some_and(|kind| kind.starts_with("application/grpc"));
        match self.grpc_status.filter(|_| is_grpc) {
            Some(code) => Reply::grpc(code, "injected fault"),
            None => Reply::new(self.status).body("injected fault\n"),
        }
        .reason("injected fault")
    }
}

impl Only {
    fn covers(&self, request: &Request) -> bool {
        if let Some(header) = &self.header {
            let values = request.headers().get_all(&header.name);
            let found = match &header.value {
                Some(wanted) => values.iter().any(|value| value == wanted.as_str()),
                None => !values.is_empty(),
            };
            if !found {
                return false;
            }
        }
        if !self.path_prefix.is_empty() && !request.path().starts_with(&self.path_prefix) {
            return false;
        }
        self.source_labels.is_empty() || {
            let known = request.attributes();
            let labels = &mut self.source_labels.iter();
            labels.all(|(key, value)| known.source.label(key) == Some(value))
        }
    }
}

fn happens(percent: f64) -> bool {
    time::random_fraction() * 100.0 < percent
}
