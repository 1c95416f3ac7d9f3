//! Asks a Service whether a request may pass: 2xx lets it go on, anything else is the answer.

use std::cell::RefCell;
use std::collections::HashMap;

use weft_sdk::prelude::*;
use weft_sdk::{FetchReply, time};

/// Remembered answers beyond this are forgotten, all at once.
const MAX_REMEMBERED: usize = 4096;

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
    remembered: RefCell<HashMap<String, Permission>>,
    allowed: Counter,
    denied: Counter,
}

/// What a request is given that may pass.
#[derive(Debug, Clone)]
struct Permission {
    until: Duration,
    headers: Vec<(String, Vec<u8>)>,
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
        let key = self.key(&request);
        if let Some(permission) = key.as_ref().and_then(|key| self.remembered(key)) {
            return self.let_through(&request, &permission);
        }
        let body = match self.config.send_body_bytes {
            0 => Vec::new(),
            limit => match request.body().collect(limit).await {
                Ok(body) => body,
                Err(err) => return Ok(Reply::new(413).reason(err.to_string()).into()),
            },
        };
        let answer = self.ask(&request, body).await?;
        if !answer.is_success() {
            self.denied.increment();
            request.span().set("ext_auth.status", answer.status);
            return self.refuse(&answer);
        }
        let permission = Permission {
            until: time::monotonic() + Duration::from_secs(self.config.remember_seconds),
            headers: picked(&answer, &self.config.accept_headers),
        };
        if let Some(key) = key {
            let mut remembered = self.remembered.borrow_mut();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(key, permission.clone());
        }
        self.let_through(&request, &permission)
    }
}

impl ExtAuth {
    async fn ask(&self, request: &Request, body: Vec<u8>) -> Result<FetchReply> {
        let path = format!("{}{}", self.config.path_prefix, request.path());
        let method = self.config.method.clone();
        let mut fetch = request
            .fetch(&self.config.service)
            .method(method.unwrap_or_else(|| request.method()), path)
            .header("x-forwarded-method", request.method())
            .header("x-forwarded-host", request.authority())
            .header("x-forwarded-uri", request.path())
            .timeout(Duration::from_millis(self.config.timeout_ms));
        for name in &self.config.send_headers {
            for value in request.headers().get_all(name) {
                fetch = fetch.header(name, &value);
            }
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

    /// What makes two requests the same for the Service, if answers are remembered.
    fn key(&self, request: &Request) -> Option<String> {
        if self.config.remember_seconds == 0 || self.config.send_body_bytes > 0 {
            return None;
        }
        let known = request.attributes();
        // No part of a key has a line break, so that none runs into the next.
        let mut key = format!("{}\n{}\n{}", known.method, known.authority, known.path);
        for name in &self.config.send_headers {
            for value in request.headers().get_all(name) {
                key.push('\n');
                key.push_str(name);
                key.push(':');
                key.push_str(&value.escape_ascii().to_string());
            }
        }
        Some(key)
    }

    fn remembered(&self, key: &str) -> Option<Permission> {
        let mut remembered = self.remembered.borrow_mut();
        let permission = remembered.get(key)?;
        if time::monotonic() < permission.until {
            return Some(permission.clone());
        }
        remembered.remove(key);
        None
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
