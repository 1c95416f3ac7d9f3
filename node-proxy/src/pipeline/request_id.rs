//! `x-request-id`: kept from sources that are trusted with it, or made.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::headers::Trust;

/// The header.
pub const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// Longest identifier that is kept. Longer ones are not identifiers but cargo
/// that every flow, span and log line would have to carry.
const MAX_LENGTH: usize = 128;

/// Identifies a request at every observation point that it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The request's own identifier when its source may choose it, otherwise
    /// a new one (UUID version 4), which is then also set in `headers`.
    #[must_use]
    pub fn of(headers: &mut HeaderMap, trust: Trust) -> Self {
        if trust == Trust::Cluster
            && let Some(value) = headers.get(&NAME)
            && well_formed(value.as_bytes())
        {
            let kept = value.clone();
            if headers.get_all(&NAME).iter().nth(1).is_some() {
                // One identifier: which of two is meant must not depend on
                // who reads them.
                headers.insert(NAME, kept.clone());
            }
            return Self(kept);
        }
        let made = make();
        headers.insert(NAME, made.clone());
        Self(made)
    }

    /// A new one, for a request whose headers are of no use.
    #[must_use]
    pub fn made() -> Self {
        Self(make())
    }

    /// As a header's value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// As text. Identifiers that were kept are printable ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn make() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Uuid::new_v4();
    let id: &str = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or_else(|_never| HeaderValue::from_static("invalid"))
}

fn well_formed(value: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{NAME, RequestId};
    use crate::pipeline::headers::Trust;

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_str(value).expect("valid"));
        }
        headers
    }

    #[test]
    fn pods_may_choose_it() {
        let mut headers = with(&["mine"]);
        assert_eq!(RequestId::of(&mut headers, Trust::Cluster).as_str(), "mine");
        assert_eq!(headers[NAME], "mine");
    }

    #[test]
    fn the_world_may_not() {
        let mut headers = with(&["forged"]);
        let id = RequestId::of(&mut headers, Trust::World);
        assert_ne!(id.as_str(), "forged");
        assert_eq!(headers[NAME], id.as_str());
        let parsed = uuid::Uuid::parse_str(id.as_str()).expect("a UUID");
        assert_eq!(parsed.get_version_num(), 4);
    }

    #[test]
    fn two_become_one() {
        let mut headers = with(&["first", "second"]);
        assert_eq!(
            RequestId::of(&mut headers, Trust::Cluster).as_str(),
            "first"
        );
        assert_eq!(headers.get_all(NAME).iter().count(), 1);
    }

    #[test]
    fn cargo_is_not_an_identifier() {
        for cargo in ["", "two words", &"x".repeat(129)] {
            let mut headers = with(&[cargo]);
            assert_ne!(RequestId::of(&mut headers, Trust::Cluster).as_str(), cargo);
        }
    }
}
