//! What the Service is asked.

use sha2::{Digest as _, Sha256};
use weft_sdk::prelude::*;

use crate::Config;
use crate::remembered::Digest;

/// Longest path and method that the proxy lets a filter ask with.
const MAX_TEXT: usize = 8 * 1024;
/// Longest value of a header that it lets a filter send.
const MAX_VALUE: usize = 16 * 1024;
/// So many headers at most.
const MAX_HEADERS: usize = 256;
/// Bytes of all their names and values.
const MAX_HEADER_BYTES: usize = 64 * 1024;

pub(crate) struct Question {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Question {
    pub(crate) fn of(config: &Config, request: &Request) -> Self {
        let (method, uri) = (request.method(), request.path());
        let mut headers = vec![
            ("x-forwarded-method".to_owned(), method.clone().into_bytes()),
            (
                "x-forwarded-host".to_owned(),
                request.authority().into_bytes(),
            ),
            ("x-forwarded-uri".to_owned(), uri.clone().into_bytes()),
        ];
        for name in &config.send_headers {
            for value in request.headers().get_all(name) {
                headers.push((name.to_ascii_lowercase(), value.into_bytes()));
            }
        }
        Self {
            method: config.method.clone().unwrap_or(method),
            path: format!("{}{uri}", config.path_prefix),
            headers,
        }
    }

    /// The answer to a request that the Service cannot be asked about. The proxy would refuse the
    /// question, which is the client's doing and no failure of the filter: where failures let
    /// requests through, a long path would be a way round the Service.
    pub(crate) fn refusal(&self) -> Option<Reply> {
        let refused = |status, why: &str| Some(Reply::new(status).reason(why));
        if self.path.len() > MAX_TEXT {
            return refused(414, "the path is too long to ask about");
        }
        if !self.path.starts_with('/') || self.method == "CONNECT" {
            return refused(400, "a request without a path cannot be asked about");
        }
        if self.method.len() > MAX_TEXT {
            return refused(400, "the method is too long to ask about");
        }
        let bytes = |(name, value): &(String, Vec<u8>)| name.len() + value.len();
        let too_large = self.headers.len() > MAX_HEADERS
            || self
                .headers
                .iter()
                .any(|(_, value)| value.len() > MAX_VALUE)
            || self.headers.iter().map(bytes).sum::<usize>() > MAX_HEADER_BYTES;
        if too_large {
            return refused(431, "the headers are too large to ask about");
        }
        None
    }

    /// The same for two questions only if they are the same.
    pub(crate) fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        // Each part with its length, so that none runs into the next.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.method.as_bytes());
        part(self.path.as_bytes());
        for (name, value) in &self.headers {
            part(name.as_bytes());
            part(value);
        }
        hash.finalize().into()
    }
}
