//! Conditions on application traffic: HTTP requests and responses, DNS queries.

use regex_automata::meta::Regex;

use super::super::flow::layer7::Record;
use super::super::flow::{Dns, Flow, FlowFilter, Http};
use super::{Condition, FilterError, when_any};

/// The event type of application traffic.
const L7_EVENT: i32 = 129;

pub(super) fn compile(filter: &FlowFilter, out: &mut Vec<Condition>) -> Result<(), FilterError> {
    compatible(filter)?;
    status_codes(&filter.http_status_code, out)
        .map_err(|error| error.within("invalid http status code filter"))?;
    when_any(out, &filter.http_method, |wanted, flow| {
        let method = http(flow).map_or("", |http| http.method.as_str());
        !method.is_empty() && wanted.iter().any(|want| want.eq_ignore_ascii_case(method))
    });
    let paths = regexes(&filter.http_path).map_err(|e| e.within("invalid http path filter"))?;
    when_any(out, &paths, |paths, flow| {
        let path = http(flow).and_then(|http| path_of(&http.url));
        path.is_some_and(|path| paths.iter().any(|regex| regex.is_match(&path)))
    });
    let urls = regexes(&filter.http_url).map_err(|e| e.within("invalid http url filter"))?;
    when_any(out, &urls, |urls, flow| {
        let url = http(flow).map_or("", |http| http.url.as_str());
        !url.is_empty() && urls.iter().any(|regex| regex.is_match(url))
    });
    when_any(out, &filter.http_header, |wanted, flow| {
        http(flow).is_some_and(|http| http.headers.iter().any(|header| wanted.contains(header)))
    });
    let queries = regexes(&filter.dns_query).map_err(|e| e.within("invalid DNS query filter"))?;
    when_any(out, &queries, |queries, flow| {
        dns(flow).is_some_and(|dns| queries.iter().any(|regex| regex.is_match(&dns.query)))
    });
    Ok(())
}

/// HTTP conditions beside event types that exclude application traffic could
/// never match: that is a mistake, not an empty answer.
fn compatible(filter: &FlowFilter) -> Result<(), FilterError> {
    let types = &filter.event_type;
    if types.is_empty() || types.iter().any(|wanted| wanted.r#type == L7_EVENT) {
        return Ok(());
    }
    let set = [
        ("status code", filter.http_status_code.is_empty()),
        ("method", filter.http_method.is_empty()),
        ("path", filter.http_path.is_empty()),
        ("url", filter.http_url.is_empty()),
        ("headers", filter.http_header.is_empty()),
    ];
    match set.iter().find(|(_, unset)| !unset) {
        None => Ok(()),
        Some((what, _)) => Err(FilterError::new(format!(
            "filtering by http {what} requires the event type filter to only match 'l7' events"
        ))),
    }
}

/// `404`, or a prefix such as `5+` and `40+`.
fn status_codes(wanted: &[String], out: &mut Vec<Condition>) -> Result<(), FilterError> {
    let mut patterns = Vec::new();
    for text in wanted {
        let (digits, prefix) = text
            .strip_suffix('+')
            .map_or((&text[..], false), |d| (d, true));
        let length = if prefix { 1..=2 } else { 3..=3 };
        let valid = length.contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.starts_with(|c| ('1'..='5').contains(&c));
        if !valid {
            return Err(FilterError::new(format!(
                "invalid status code prefix: {text:?}"
            )));
        }
        patterns.push(digits.to_owned());
    }
    when_any(out, &patterns, |patterns, flow| {
        let code = http(flow).map_or(0, |http| http.code);
        let text = format!("{code:03}");
        // A full code has three digits, so equality and prefix are the same.
        code != 0
            && patterns
                .iter()
                .any(|pattern| text.starts_with(pattern.as_str()))
    });
    Ok(())
}

fn regexes(patterns: &[String]) -> Result<Vec<Regex>, FilterError> {
    let compile = |pattern: &String| {
        Regex::new(pattern).map_err(|error| {
            // The parser draws a picture; its last line says what is wrong.
            let picture = error
                .syntax_error()
                .map_or_else(|| error.to_string(), ToString::to_string);
            let cause = picture.lines().last().unwrap_or_default();
            let cause = cause.strip_prefix("error: ").unwrap_or(cause);
            FilterError::new(format!("{pattern}: {cause}"))
        })
    };
    patterns.iter().map(compile).collect()
}

fn http(flow: &Flow) -> Option<&Http> {
    match flow.l7.as_ref()?.record.as_ref()? {
        Record::Http(http) => Some(http),
        _ => None,
    }
}

fn dns(flow: &Flow) -> Option<&Dns> {
    match flow.l7.as_ref()?.record.as_ref()? {
        Record::Dns(dns) => Some(dns),
        _ => None,
    }
}

/// The decoded path of an absolute URL or of a request target.
pub(super) fn path_of(url: &str) -> Option<String> {
    let target = if url.starts_with('/') {
        url
    } else {
        let (_, rest) = url.split_once("://")?;
        rest.find(['/', '?']).map_or("", |at| &rest[at..])
    };
    let path = target.split('?').next().unwrap_or_default();
    percent_decode(path)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).ok()?);
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
