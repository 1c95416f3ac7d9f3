//! A token in its three parts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longer ones are refused before anything is decoded.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;

/// How a token is signed. `none` and shared secrets are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// Why a token is not accepted. The client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejected {
    NoToken,
    Malformed(&'static str),
    Algorithm,
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Issuer,
    Audience,
    /// This claim has none of the values that are needed.
    Claim(String),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken => f.write_str("a token is needed"),
            Self::Malformed(why) => f.write_str(why),
            Self::Algorithm => f.write_str("the token is signed in no way that is accepted"),
            Self::UnknownKey => f.write_str("the token is signed with a key that is not known"),
            Self::Signature => f.write_str("the token's signature is wrong"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet => f.write_str("the token is not valid yet"),
            Self::Issuer => f.write_str("the token is of another issuer"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Claim(claim) => write!(f, "the token's {claim} does not allow it"),
        }
    }
}

pub(crate) struct Token<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    pub(crate) claims: Map<String, Value>,
    /// What is signed.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Rejected> {
        let (signed, signature) = text
            .rsplit_once('.')
            .ok_or(Rejected::Malformed("the token has not three parts"))?;
        let (header, claims) = signed
            .split_once('.')
            .filter(|(_, claims)| !claims.contains('.'))
            .ok_or(Rejected::Malformed("the token has not three parts"))?;
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| Rejected::Malformed("the token's header is not JSON of its kind"))?;
        // Extensions that have to be understood, and are not.
        if header.crit.is_some() {
            return Err(Rejected::Malformed("the token has critical extensions"));
        }
        Ok(Self {
            algorithm: Algorithm::named(&header.alg).ok_or(Rejected::Algorithm)?,
            key_id: header.kid,
            claims: serde_json::from_slice(&decode(claims)?)
                .map_err(|_| Rejected::Malformed("the token's claims are no JSON object"))?,
            signed,
            signature: decode(signature)?,
        })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Rejected> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Rejected::Malformed("the token is not base64url"))
}
