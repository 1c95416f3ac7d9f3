//! What the owner of the filter says.

use std::collections::BTreeMap;

use weft_sdk::prelude::*;
use weft_sdk::{Headers, serde_json::Value};

use crate::token::{MAX_TOKEN, Rejected};

/// Which tokens are good, and what becomes of requests with and without one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The `iss` that tokens must have; any if it is left out.
    pub(crate) issuer: Option<String>,
    /// One of these must be in `aud`; any if it is left out.
    #[serde(default)]
    pub(crate) audiences: Vec<String>,
    /// The issuer's keys.
    pub(crate) keys: Keys,
    /// Where the token is.
    #[serde(default)]
    pub(crate) from: TokenIn,
    /// Claims, and the headers in which they are sent on. What a client sends in these is removed.
    #[serde(default)]
    pub(crate) forward: BTreeMap<String, String>,
    /// Claims, and the values of which a token must have one. A claim may be a list; `scope` and
    /// `scp` may be words with spaces between them. Without one the answer is 403.
    #[serde(default)]
    pub(crate) require: BTreeMap<String, Vec<String>>,
    /// Requests without a token go on as well; a token that is there must be valid.
    #[serde(default)]
    pub(crate) optional: bool,
    /// Paths that need no token: these, and what is below them.
    #[serde(default)]
    pub(crate) except: Vec<String>,
    /// How far clocks may be apart.
    #[serde(default = "thirty")]
    pub(crate) leeway_seconds: u64,
}

/// Where the keys come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Keys {
    /// A JSON Web Key Set, as it is.
    Inline(Value),
    /// A Service of the mesh that has one.
    Service(Service),
}

/// A Service that has a key set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// `name.namespace:port`.
    pub(crate) service: String,
    /// Path of the key set.
    #[serde(default = "well_known")]
    pub(crate) path: String,
    /// After so many seconds it is fetched again.
    #[serde(default = "five_minutes")]
    pub(crate) refresh_seconds: u64,
    /// So long it is used when it cannot be fetched again.
    #[serde(default = "one_hour")]
    pub(crate) stale_seconds: u64,
    /// How long to wait for it.
    #[serde(default = "one_second")]
    pub(crate) timeout_ms: u64,
}

/// Where the token is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenIn {
    /// The header.
    pub(crate) header: String,
    /// What stands before the token, in any case; nothing if empty.
    pub(crate) scheme: String,
    /// The header is not sent on.
    pub(crate) strip: bool,
}

impl Default for TokenIn {
    fn default() -> Self {
        Self {
            header: "authorization".to_owned(),
            scheme: "Bearer".to_owned(),
            strip: false,
        }
    }
}

const fn thirty() -> u64 {
    30
}

fn well_known() -> String {
    "/.well-known/jwks.json".to_owned()
}

const fn five_minutes() -> u64 {
    300
}

const fn one_hour() -> u64 {
    3600
}

const fn one_second() -> u64 {
    1000
}

impl Config {
    pub(crate) fn check(&self) -> Result<()> {
        for (claim, values) in &self.require {
            if values.is_empty() {
                return Err(Error::new(format_args!(
                    "require.{claim}: no value is ever good; name one or leave the claim out"
                )));
            }
        }
        for (at, path) in self.except.iter().enumerate() {
            if !path.starts_with('/') {
                return Err(Error::new(format_args!(
                    "except[{at}]: a path begins with a slash"
                )));
            }
        }
        if self.from.header.is_empty() {
            return Err(Error::new("from.header: the name of a header"));
        }
        if let Some(claim) = self
            .forward
            .iter()
            .find(|(_, header)| header.eq_ignore_ascii_case(&self.from.header))
            .map(|(claim, _)| claim)
        {
            return Err(Error::new(format_args!(
                "forward.{claim}: the header in which the token comes"
            )));
        }
        for (claim, header) in &self.forward {
            Headers::check_request_name(header).context(format_args!("forward.{claim}"))?;
        }
        Headers::check_readable(&self.from.header).context("from.header")?;
        if self.from.strip {
            Headers::check_request_name(&self.from.header)
                .context("from.header: with strip it is removed")?;
        }
        let Keys::Service(service) = &self.keys else {
            return Ok(());
        };
        if !service.path.starts_with('/') {
            return Err(Error::new("keys.service.path: a path begins with a slash"));
        }
        if service.refresh_seconds == 0 || service.timeout_ms == 0 {
            return Err(Error::new(
                "keys.service: refresh_seconds and timeout_ms are at least 1",
            ));
        }
        Ok(())
    }

    /// A path, and what is below it; `/health` is not `/healthy`.
    pub(crate) fn is_excepted(&self, path_and_query: &str) -> bool {
        let path = path_and_query.split('?').next().unwrap_or_default();
        self.except.iter().any(|except| {
            let rest = path.strip_prefix(except.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl TokenIn {
    /// The token of a request, if it has one.
    pub(crate) fn token(&self, headers: &Headers) -> Result<Option<String>, Rejected> {
        let values = headers.get_all(&self.header);
        let Some(value) = values.first() else {
            return Ok(None);
        };
        // Behind the filter another one of them might be believed.
        if values.len() > 1 {
            return Err(Rejected::Malformed("there is more than one token"));
        }
        if value.len() > MAX_TOKEN {
            return Err(Rejected::Malformed("the token is too long"));
        }
        let text = value
            .to_str()
            .ok_or(Rejected::Malformed("the token is no text"))?
            .trim();
        if self.scheme.is_empty() {
            return Ok(Some(text.to_owned()));
        }
        // Who reads it behind the filter may take any of these for a space, and nothing for a
        // token that is empty.
        let (scheme, token) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Ok(match scheme.eq_ignore_ascii_case(&self.scheme) {
            true => Some(token.trim().to_owned()),
            // Another kind of credentials is none for this filter.
            false => None,
        })
    }
}
