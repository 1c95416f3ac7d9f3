//! A filter for tests of whatever runs filters: it does what requests tell it to.
//!
//! Its commands are in the header that its configuration names, one after another, between `;`.
//! Those that begin with `<` are for the response.

use std::time::Duration;

use weft_sdk::Headers;
use weft_sdk::prelude::*;

/// Which header it reads, and what it is called.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header with its commands.
    header: String,
    /// Appended to `x-seen` of requests and responses; none if empty.
    #[serde(default)]
    mark: String,
    /// Commands of requests that bring none.
    #[serde(default)]
    usual: String,
    /// It wants to see nothing of answers.
    #[serde(default)]
    requests_only: bool,
}

/// The filter.
#[derive(Debug)]
pub struct Probe {
    config: Config,
    requests: Counter,
}

#[filter]
impl Filter for Probe {
    const NAME: &'static str = "probe";

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        if config.header == "refused" {
            return Err(Error::new("header: this one is refused"));
        }
        let requests = plugin.counter("probed", &[])?;
        Ok(Self { config, requests })
    }

    fn interests(&self) -> Interests {
        Interests::of_methods(true, !self.config.requests_only)
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        self.requests.increment();
        self.mark(&request.headers())?;
        let told = request.headers().get_str(&self.config.header);
        let commands = told.unwrap_or_else(|| self.config.usual.clone());
        let (later, now): (Vec<_>, Vec<_>) =
            commands.split(';').partition(|one| one.starts_with('<'));
        request.keep(
            later
                .iter()
                .map(|one| one[1..].to_owned())
                .collect::<Vec<_>>(),
        );
        for command in now.into_iter().filter(|one| !one.is_empty()) {
            if let Some(flow) = on_request(&request, command).await? {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        self.mark(&response.headers())?;
        let commands = response.kept::<Vec<String>>().unwrap_or_default();
        for command in commands.iter() {
            if let Some(flow) = on_response(&response, command).await? {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }
}

impl Probe {
    fn mark(&self, headers: &Headers) -> Result<()> {
        if !self.config.mark.is_empty() {
            headers.append("x-seen", &self.config.mark)?;
        }
        Ok(())
    }
}

fn parts(command: &str) -> (&str, &str) {
    command.split_once('=').unwrap_or((command, ""))
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((text, ""))
}

async fn on_request(request: &Request, command: &str) -> Result<Option<Flow>> {
    let (what, how) = parts(command);
    match what {
        "path" => request.set_path(how)?,
        "method" => request.set_method(how)?,
        "authority" => request.set_authority(how)?,
        "sleep" => request.sleep(milliseconds(how)).await.map_err(Error::new)?,
        "span" => request.span().set("probe", how),
        "event" => request.span().event(how, &[("from", &"probe")]),
        "attributes" => {
            let known = request.attributes();
            let text = format!(
                "{}>{} {} {}",
                known.source.pod, known.destination.pod, known.verdict, known.rule
            );
            request.headers().set("x-attributes", text)?;
        }
        "fetch" => fetch(request, how).await?,
        "collect" => {
            let body = request.body().collect(1 << 20).await;
            let length =
                body.map_or_else(|_| "too large".to_owned(), |body| body.len().to_string());
            request.headers().set("x-length", length)?;
        }
        "replace" => {
            let mut body = request.body();
            let _all = body.collect(1 << 20).await;
            body.replace(how.as_bytes());
        }
        "stream" => {
            // Where times are said, each piece waits for them in turn.
            let mut body = request.body().streaming();
            while body.next().await.is_some() {
                for how in how.split(',').filter(|how| !how.is_empty()) {
                    request.sleep(milliseconds(how)).await.map_err(Error::new)?;
                }
            }
        }
        "guard" => return guard(request, how).await,
        _ => return anywhere(&request.headers(), what, how),
    }
    Ok(None)
}

async fn on_response(response: &Response, command: &str) -> Result<Option<Flow>> {
    let (what, how) = parts(command);
    match what {
        "status" => response.set_status(how.parse().unwrap_or(500))?,
        "sleep" => response
            .sleep(milliseconds(how))
            .await
            .map_err(Error::new)?,
        "replace" => {
            let mut body = response.body();
            let _all = body.collect(1 << 20).await;
            body.replace(how.as_bytes());
        }
        "stream" => {
            let mut body = response.body().streaming();
            while body.next().await.is_some() {}
        }
        _ => return anywhere(&response.headers(), what, how),
    }
    Ok(None)
}

/// What can be done to either message.
#[expect(
    clippy::panic,
    clippy::empty_loop,
    reason = "how a filter fails is what is tested"
)]
fn anywhere(headers: &Headers, what: &str, how: &str) -> Result<Option<Flow>> {
    match what {
        "set" => {
            let (name, value) = pair(how);
            headers.set(name, value)?;
        }
        "remove" => headers.remove(how)?,
        "reply" => {
            let (status, body) = pair(how);
            let status = status.parse().unwrap_or(500);
            return Ok(Some(Reply::new(status).body(body).reason(body).into()));
        }
        "fail" => return Err(Error::new(how)),
        "panic" => panic!("{how}"),
        "loop" => loop {},
        "spin" => {
            let end = weft_sdk::time::monotonic() + milliseconds(how);
            while weft_sdk::time::monotonic() < end {}
        }
        other => return Err(Error::new(format_args!("no such command: {other}"))),
    }
    Ok(None)
}

/// Asks `service/path`, and puts what came of it into `x-fetched`.
async fn fetch(request: &Request, how: &str) -> Result<()> {
    let (service, path) = how.split_once('/').unwrap_or((how, ""));
    let asked = request
        .fetch(service)
        .get(format!("/{path}"))
        .timeout(Duration::from_secs(5))
        .await;
    let text = match asked {
        Ok(answer) => format!(
            "{} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        ),
        Err(error) => error.to_string(),
    };
    request.headers().set("x-fetched", text.trim())?;
    Ok(())
}

/// Lets the body pass but for the piece with a word in it, which it refuses once it has asked a
/// service: `WORD:SERVICE/PATH`.
async fn guard(request: &Request, how: &str) -> Result<Option<Flow>> {
    let (word, asked) = pair(how);
    let mut body = request.body().streaming();
    while let Some(piece) = body.next().await {
        if String::from_utf8_lossy(&piece).contains(word) {
            let (service, path) = asked.split_once('/').unwrap_or((asked, ""));
            let asked = request.fetch(service).get(format!("/{path}")).await;
            let body = asked.map_or_else(|error| error.to_string(), |_answer| word.to_owned());
            return Ok(Some(Reply::new(403).body(body).into()));
        }
    }
    Ok(None)
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap_or(0))
}
