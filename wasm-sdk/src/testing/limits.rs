//! What the proxy lets one filter do, as its host of filters has it (`node-proxy/wasm-host`): a test
//! must not pass with what the proxy refuses. Where a filter's owner can set a limit, these are the
//! ones that hold unless it is set.

use super::message::Pairs;
use crate::headers::{MAX_VALUE, is_name, is_value};
use crate::sys::types::{FetchError, FetchRequest, Header, KvError, Label, Reply};

/// Fields that a message may have before a filter can add no more.
const MAX_FIELDS: usize = 256;
/// Bytes of names and values that a filter may write to one exchange, a reply or a fetch.
pub(super) const MAX_WRITTEN: usize = 64 * 1024;
/// Longest service, path and method of a fetch.
const MAX_TEXT: usize = 8 * 1024;
/// Bytes of the body of a fetch.
const MAX_BODY: usize = 1 << 20;
/// Fetches, and timers, of one exchange at once.
const OF_EXCHANGE: usize = 16;
/// The same of the instance itself.
const OF_INSTANCE: usize = 1024;
/// Fetches and timers that one call may ask for.
pub(super) const ASKED_PER_CALL: usize = 256;
/// Lines that one call may log, and as many things that it may say of the span.
pub(super) const SAID_PER_CALL: usize = 64;
/// Longest key and value that are stored.
const MAX_KEY: usize = 512;
const MAX_STORED: usize = 1 << 20;
/// Keys that are stored, and bytes of keys and values.
pub(super) const KV_QUOTA: (usize, usize) = (65_536, 16 << 20);
/// Metrics of a filter; labels of each; bytes of a name, a key, a value.
const MAX_METRICS: usize = 1024;
const MAX_LABELS: usize = 16;
const MAX_METRIC_TEXT: usize = 256;

/// How many fetches or timers may be waited for at once.
pub(super) const fn at_once(ctx: u64) -> usize {
    if ctx == 0 { OF_INSTANCE } else { OF_EXCHANGE }
}

/// Whether there is room for one more field.
pub(super) fn has_room(fields: &Pairs, replaces: &[u8]) -> bool {
    fields.len() < MAX_FIELDS || fields.iter().any(|(name, _)| name == replaces)
}

/// Whether the proxy makes headers of these.
fn check_headers(headers: &[Header]) -> Result<(), String> {
    let mut bytes = 0;
    for Header { name, value } in headers {
        bytes += name.len() + value.len();
        let shown = String::from_utf8_lossy(name);
        if !is_name(name) {
            return Err(format!("{shown:?} is no name of a header"));
        }
        if !is_value(value) {
            return Err(format!("the value of {shown} has control characters"));
        }
        if value.len() > MAX_VALUE {
            return Err(format!("the value of {shown} is too large"));
        }
    }
    if headers.len() > MAX_FIELDS || bytes > MAX_WRITTEN {
        return Err("there are too many headers, or too large ones".to_owned());
    }
    Ok(())
}

/// Whether the proxy can send it.
pub(super) fn check_fetch(request: &FetchRequest) -> Result<(), FetchError> {
    let invalid = |why: String| Err(FetchError::Invalid(why));
    let texts = [&request.service, &request.path, &request.method];
    if texts.iter().any(|text| text.len() > MAX_TEXT) {
        return invalid(format!(
            "service, path and method have at most {MAX_TEXT} bytes"
        ));
    }
    let bad = |byte: u8| byte <= b' ' || byte == 0x7f;
    if !request.path.starts_with('/') || request.path.bytes().any(bad) {
        return invalid("the path must begin with / and have no spaces".to_owned());
    }
    if !is_name(request.method.as_bytes()) || request.method == "CONNECT" {
        return invalid("the method is not allowed".to_owned());
    }
    if request.body.len() > MAX_BODY {
        return invalid(format!("a body has at most {MAX_BODY} bytes"));
    }
    for headers in [&request.headers, &request.trailers] {
        if let Err(why) = check_headers(headers) {
            return invalid(why);
        }
    }
    Ok(())
}

/// Whether the proxy can send it.
pub(super) fn check_reply(reply: &Reply) -> Result<(), String> {
    if !(200..600).contains(&reply.status) {
        return Err(format!(
            "a reply of status {}, which is not between 200 and 599",
            reply.status
        ));
    }
    check_headers(&reply.headers)
        .map_err(|why| format!("a reply whose headers cannot be sent: {why}"))
}

/// Whether it can be stored.
pub(super) fn check_stored(key: &str, value: usize) -> Result<(), KvError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(KvError::Invalid(format!("a key has 1 to {MAX_KEY} bytes")));
    }
    if value > MAX_STORED {
        return Err(KvError::Invalid(format!(
            "a value has at most {MAX_STORED} bytes"
        )));
    }
    Ok(())
}

/// Whether there can be such a metric beside so many others.
pub(super) fn check_metric(name: &str, labels: &[Label], others: usize) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > MAX_METRIC_TEXT || !name.bytes().all(good) {
        return Err(format!(
            "a name has letters, digits and underscores, {MAX_METRIC_TEXT} at most"
        ));
    }
    let fits = |label: &Label| {
        (1..=MAX_METRIC_TEXT).contains(&label.key.len()) && label.value.len() <= MAX_METRIC_TEXT
    };
    if labels.len() > MAX_LABELS || !labels.iter().all(fits) {
        return Err(format!(
            "at most {MAX_LABELS} labels, keys and values of at most {MAX_METRIC_TEXT} bytes"
        ));
    }
    let twice = |(at, label): (usize, &Label)| labels[..at].iter().any(|it| it.key == label.key);
    if labels.iter().enumerate().any(twice) {
        return Err("a label is there twice".to_owned());
    }
    if others >= MAX_METRICS {
        return Err(format!("a filter has at most {MAX_METRICS} metrics"));
    }
    Ok(())
}
