//! What a token says, against what the configuration asks for.

use serde_json::{Map, Value};

use crate::config::Config;
use crate::seen::Accepted;
use crate::token::Rejected;

/// Looks at the claims of a token at a time in seconds since 1970.
pub(crate) fn check(
    config: &Config,
    claims: &Map<String, Value>,
    now: u64,
) -> Result<Accepted, Rejected> {
    let leeway = config.leeway_seconds;
    let expires = seconds(claims, "exp")?.ok_or(Rejected::Malformed(
        "the token does not say when it expires",
    ))?;
    let until = expires.saturating_add(leeway);
    if now >= until {
        return Err(Rejected::Expired);
    }
    for claim in ["nbf", "iat"] {
        let from = seconds(claims, claim)?.unwrap_or_default();
        if now.saturating_add(leeway) < from {
            return Err(Rejected::NotYet);
        }
    }
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    if let Some(issuer) = &config.issuer
        && text("iss") != Some(issuer.as_str())
    {
        return Err(Rejected::Issuer);
    }
    // An audience is one name or a list of them, and has no words in it.
    if !config.audiences.is_empty() {
        let named = |name: &Value| {
            let audiences = &config.audiences;
            audiences.iter().any(|wanted| name == wanted.as_str())
        };
        let audience = claims.get("aud").unwrap_or(&Value::Null);
        let any = audience
            .as_array()
            .map_or_else(|| named(audience), |list| list.iter().any(named));
        if !any {
            return Err(Rejected::Audience);
        }
    }
    for (claim, wanted) in &config.require {
        let value = claims.get(claim).unwrap_or(&Value::Null);
        if !values(claim, value)
            .iter()
            .any(|value| wanted.contains(value))
        {
            return Err(Rejected::Claim(claim.clone()));
        }
    }
    let mut headers = Vec::new();
    for (claim, header) in &config.forward {
        if let Some(value) = claims.get(claim).and_then(as_header) {
            headers.push((header.clone(), value));
        }
    }
    Ok(Accepted {
        until,
        subject: text("sub").map(str::to_owned),
        headers,
    })
}

/// A time; numbers with a fraction are allowed.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, Rejected> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .or_else(|| {
                value
                    .as_f64()
                    .filter(|time| *time >= 0.0)
                    .map(|time| time as u64)
            })
            .map(Some)
            .ok_or(Rejected::Malformed("a time in the token is no number")),
    }
}

/// Claims that are words with spaces between them. In another one a space is part of the value: who
/// may choose a name of several words must not have each of them.
const OF_WORDS: [&str; 2] = ["scope", "scp"];

/// The values of a claim: itself, its words where it has some, or those of a list.
fn values(claim: &str, value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if OF_WORDS.contains(&claim) => {
            text.split(' ').map(str::to_owned).collect()
        }
        Value::Array(list) => list.iter().filter_map(scalar).collect(),
        other => scalar(other).into_iter().collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// A list is written with commas, an object as JSON. What cannot stand in a header is left out: a
/// name with a line break must not become another header.
fn as_header(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::Array(list) if list.iter().all(|it| scalar(it).is_some()) => {
            let list: Vec<String> = list.iter().filter_map(scalar).collect();
            list.join(",")
        }
        other => scalar(other).unwrap_or_else(|| other.to_string()),
    };
    (!text.chars().any(char::is_control)).then_some(text)
}
