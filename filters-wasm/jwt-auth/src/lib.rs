//! Lets requests through that carry a valid JSON Web Token: signed by a key of the issuer's key set
//! (RS256, ES256 or EdDSA), in time, for this audience.
//!
//! The key set is in the configuration or fetched from a Service of the mesh, once for all requests
//! that wait for it, and kept for a while. Tokens that were found valid are remembered as long as
//! they are: checking a signature is by far the most expensive part.

mod claims;
mod config;
mod keys;
mod remote;
mod seen;
mod token;

use std::cell::RefCell;

pub use config::Config;
use keys::KeySet;
use remote::Remote;
use seen::{Accepted, Seen};
use token::{Rejected, Token};
use weft_sdk::prelude::*;
use weft_sdk::{Headers, time};

/// The filter.
pub struct JwtAuth {
    config: Config,
    keys: Keys,
    seen: RefCell<Seen>,
    accepted: Counter,
    rejected: Counter,
}

enum Keys {
    Inline(Rc<KeySet>),
    Remote(Box<Remote>),
}

#[filter]
impl Filter for JwtAuth {
    const NAME: &'static str = "jwt-auth";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS;

    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        config.check()?;
        let keys = match &config.keys {
            config::Keys::Inline(set) => Keys::Inline(Rc::new(
                KeySet::of(set).map_err(|why| Error::new(format_args!("keys.inline: {why}")))?,
            )),
            config::Keys::Service(service) => {
                Keys::Remote(Box::new(Remote::new(service.clone(), plugin)))
            }
        };
        Ok(Self {
            keys,
            seen: RefCell::default(),
            accepted: plugin.counter("tokens", &[("outcome", "accepted")])?,
            rejected: plugin.counter("tokens", &[("outcome", "rejected")])?,
            config,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let headers = request.headers();
        // What a client says of itself here must not be believed behind the filter.
        for header in self.config.forward.values() {
            headers.remove(header)?;
        }
        if self.config.is_excepted(&request.path()) {
            return Ok(Flow::Continue);
        }
        let token = match self.config.from.token(&headers) {
            Ok(Some(token)) => token,
            Ok(None) if self.config.optional => return Ok(Flow::Continue),
            Ok(None) => return Ok(self.reject(&request, &Rejected::NoToken)),
            Err(rejected) => return Ok(self.reject(&request, &rejected)),
        };
        let now = time::wall_clock().as_secs();
        let known = self.seen.borrow_mut().get(&token, now);
        let accepted = match known {
            Some(accepted) => accepted,
            None => match self.examine(&request, &token, now).await? {
                Ok(accepted) => accepted,
                Err(rejected) => return Ok(self.reject(&request, &rejected)),
            },
        };
        self.let_through(&request, &headers, &accepted)
    }
}

impl JwtAuth {
    /// The outer error: it cannot be known.
    async fn examine(
        &self,
        request: &Request,
        text: &str,
        now: u64,
    ) -> Result<Result<Rc<Accepted>, Rejected>> {
        let token = match Token::parse(text) {
            Ok(token) => token,
            Err(rejected) => return Ok(Err(rejected)),
        };
        // Before the signature, for that costs more; what is said of a token that nobody signed
        // is the same either way.
        let mut accepted = match claims::check(&self.config, &token.claims, now) {
            Ok(accepted) => accepted,
            Err(rejected) => return Ok(Err(rejected)),
        };
        let verified = match &self.keys {
            Keys::Inline(keys) => keys.verify(&token),
            Keys::Remote(remote) => {
                let mut known = remote.keys(request, false).await?;
                let mut verified = known.keys.verify(&token);
                // The issuer may have a new key since.
                if verified == Err(Rejected::UnknownKey) {
                    known = remote.keys(request, true).await?;
                    verified = known.keys.verify(&token);
                }
                let until = now.saturating_add(known.good_for.as_secs());
                accepted.until = accepted.until.min(until);
                verified
            }
        };
        let accepted = Rc::new(accepted);
        Ok(verified.map(|()| {
            self.seen.borrow_mut().insert(text, accepted.clone(), now);
            accepted
        }))
    }

    fn let_through(
        &self,
        request: &Request,
        headers: &Headers,
        accepted: &Accepted,
    ) -> Result<Flow> {
        self.accepted.increment();
        for (header, value) in &accepted.headers {
            headers.set(header, value)?;
        }
        if self.config.from.strip {
            headers.remove(&self.config.from.header)?;
        }
        if let Some(subject) = &accepted.subject {
            request.span().set("enduser.id", subject);
        }
        Ok(Flow::Continue)
    }

    fn reject(&self, request: &Request, rejected: &Rejected) -> Flow {
        self.rejected.increment();
        request.span().set("jwt.rejected", rejected);
        let (status, error) = match rejected {
            Rejected::NoToken => (401, None),
            Rejected::Claim(_) => (403, Some("insufficient_scope")),
            _ => (401, Some("invalid_token")),
        };
        let challenge = error.map_or_else(
            || "Bearer".to_owned(),
            |error| format!("Bearer error=\"{error}\", error_description=\"{rejected}\""),
        );
        Reply::new(status)
            .header("www-authenticate", challenge)
            .body(format!("{rejected}\n"))
            .reason(rejected.to_string())
            .into()
    }
}
