//! Asks a Service whether a request may pass: 2xx lets it go on, anything else is the answer.

mod question;
mod remembered;

use std::cell::RefCell;

use question::Question;
use remembered::{Permission, Remembered};
use weft_sdk::prelude::*;
use weft_sdk::{FetchReply, Headers, time};

/// Whom to ask, and what is told to whom.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `name.namespace:port` of the Service that decides.
    service: String,
    /// Put before the request's own path; the Service is asked for the result.
    #[serde(default)]
    path_prefix: String,
    /// The method to ask with; the request's own if it is left out.
    method: Option<String>,
    /// Headers of the request that the Service is shown.
    #[serde(default = "authorization")]
    send_headers: Vec<String>,
    /// Bytes of the body that the Service is shown; none if 0. Longer bodies are answered with 413.
    #[serde(default)]
    send_body_bytes: usize,
    /// Headers of the Service's answer that the request is given. What a client sends in these is
    /// removed.
    #[serde(default)]
    accept_headers: Vec<String>,
    /// Headers of the Service's answer that the client gets when it is refused.
    #[serde(default = "challenge")]
    reply_headers: Vec<String>,
    /// How long to wait for the answer.
    #[serde(default = "one_second")]
    timeout_ms: u64,
    /// So long a permission is good for the next request with the same method, host, path and
    /// headers; 0: each request is asked about. Requests whose body is shown always are.
    #[serde(default)]
    remember_seconds: u64,
}

fn authorization() -> Vec<String> {
    ["authorization", "cookie"].map(str::to_owned).to_vec()
}

fn challenge() -> Vec<String> {
    ["www-authenticate", "location", "content-type", "set-cookie"]
        .map(str::to_owned)
        .to_vec()
}

const fn one_second() -> u64 {
    1000
}

/// The filter.
#[derive(Debug)]
pub struct ExtAuth {
    config: Config,
    remembered: RefCell<Remembered>,
    allowed: Counter,
    denied: Counter,
}

#[filter]
impl Filter for ExtAuth {
    const NAME: &'static str = "ext-auth";
    const INTERESTS: Interests = Interests::of_methods(true, false);

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        if config.service.is_empty() {
            return Err(Error::new("service: name.namespace:port of who decides"));
        }
        if !config.path_prefix.is_empty() && !config.path_prefix.starts_with('/') {
            return Err(Error::new("path_prefix: a path begins with a slash"));
        }
        if config.timeout_ms == 0 {
            return Err(Error::new("timeout_ms: at least 1"));
        }
        for (at, name) in config.accept_headers.iter().enumerate() {
            Headers::check_request_name(name).context(format_args!("accept_headers[{at}]"))?;
        }
        for (at, name) in config.send_headers.iter().enumerate() {
            Headers::check_name(name).context(format_args!("send_headers[{at}]"))?;
        }
        for (at, name) in config.reply_headers.iter().enumerate() {
            Headers::check_name(name).context(format_args!("reply_headers[{at}]"))?;
        }
        Ok(Self {
            config,
            remembered: RefCell::default(),
            allowed: plugin.counter("checks", &[("outcome", "allowed")])?,
            denied: plugin.counter("checks", &[("outcome", "denied")])?,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        for name in &self.config.accept_headers {
            request.headers().remove(name)?;
        }
        let question = Question::of(&self.config, &request);
        if let Some(reply) = question.refusal() {
            self.denied.increment();
            return Ok(reply.into());
        }
        // A body that is shown is asked about each time.
        let remembers = self.config.remember_seconds > 0 && self.config.send_body_bytes == 0;
        let digest = remembers.then(|| question.digest());
        if let Some(digest) = &digest {
            let known = self.remembered.borrow_mut().get(digest, time::monotonic());
            if let Some(permission) = known {
                return self.let_through(&request, &permission);
            }
        }
        let body = match self.config.send_body_bytes {
            0 => Vec::new(),
            limit => match request.body().collect(limit).await {
                Ok(body) => body,
                Err(err) => return Ok(Reply::new(413).reason(err.to_string()).into()),
            },
        };
        let answer = self.ask(&request, question, body).await?;
        if !answer.is_success() {
            self.denied.increment();
            request.span().set("ext_auth.status", answer.status);
            return self.refuse(&answer);
        }
        let now = time::monotonic();
        let permission = Rc::new(Permission {
            until: now.saturating_add(Duration::from_secs(self.config.remember_seconds)),
            headers: picked(&answer, &self.config.accept_headers),
        });
        if let Some(digest) = digest {
            let mut remembered = self.remembered.borrow_mut();
            remembered.insert(digest, permission.clone(), now);
        }
        self.let_through(&request, &permission)
    }
}

impl ExtAuth {
    async fn ask(
        &self,
        request: &Request,
        question: Question,
        body: Vec<u8>,
    ) -> Result<FetchReply> {
        let mut fetch = request
            .fetch(&self.config.service)
            .method(question.method, question.path)
            .timeout(Duration::from_millis(self.config.timeout_ms));
        // Nothing of the question is kept while it is asked.
        for (name, value) in question.headers {
            fetch = fetch.header(name, value);
        }
        fetch
            .body(body)
            .await
            .context(format_args!("asking {}", self.config.service))
    }

    fn let_through(&self, request: &Request, permission: &Permission) -> Result<Flow> {
        self.allowed.increment();
        for (name, value) in &permission.headers {
            request.headers().append(name, value)?;
        }
        Ok(Flow::Continue)
    }

    /// The Service's own answer. A fault of its own is none: it has not decided.
    fn refuse(&self, answer: &FetchReply) -> Result<Flow> {
        if answer.status >= 500 {
            return Err(Error::new(format_args!(
                "{} answered with status {}",
                self.config.service, answer.status
            )));
        }
        // Nothing below 200 ends an exchange.
        let status = if answer.status < 300 {
            403
        } else {
            answer.status
        };
        let headers = picked(answer, &self.config.reply_headers);
        let reply = headers
            .iter()
            .fold(Reply::new(status), |reply, (name, value)| {
                reply.header(name, value)
            });
        Ok(reply
            .body(answer.body.clone())
            .reason(format!("{} says {}", self.config.service, answer.status))
            .into())
    }
}

/// The headers of an answer that have one of these names.
fn picked(answer: &FetchReply, names: &[String]) -> Vec<(String, Vec<u8>)> {
    answer
        .headers()
        .filter_map(|(name, value)| {
            let named = |wanted: &&String| name.eq_ignore_ascii_case(wanted.as_bytes());
            Some((names.iter().find(named)?.clone(), value.to_vec()))
        })
        .collect()
}
