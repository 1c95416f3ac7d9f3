//! YAML to JSON, scalar by scalar as kubectl does it.
//!
//! kubectl reads manifests with a YAML 1.1 library: a plain `yes` (or `y`, even as a key)
//! is true, `0777` is 511, `1_000` is 1000, and a date is text. Whoever writes `yes` for
//! an annotation is told of the wrong type by a real server, and so here. Quoted scalars
//! are always text. Unlike kubectl this refuses a key that is there twice.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

use super::object;

/// How deep anchors may blow a document up: scalars and containers it may have in all.
const MAX_NODES: usize = 1_000_000;

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is not YAML.
    #[error("{0}")]
    Syntax(String),
    /// It is YAML that has no JSON.
    #[error("line {line}: {problem}")]
    Content {
        /// One-based line.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// The documents of a file, without the empty ones; the items of a `List` for the list.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: Vec::new(),
        nodes: 0,
    };
    let mut out = Vec::new();
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(out),
            Event::DocumentStart(..) => {
                reader.anchors.clear();
                let (event, line) = reader.next()?;
                if !matches!(event, Event::DocumentEnd) {
                    flatten(reader.node(event, line)?, &mut out);
                }
            }
            Event::StreamStart | Event::DocumentEnd => {}
            other => return Err(unexpected(&other, line)),
        }
    }
}

fn flatten(document: Value, out: &mut Vec<Value>) {
    let is_list = document["apiVersion"] == "v1" && document["kind"] == "List";
    if is_list {
        let items = object::list(&document, "/items").iter().cloned();
        items.for_each(|item| flatten(item, out));
    } else if !document.is_null() {
        out.push(document);
    }
}

fn unexpected(event: &Event<'_>, line: usize) -> YamlError {
    YamlError::Content {
        line,
        problem: format!("did not expect {event:?}"),
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Anchored values by the parser's number.
    anchors: Vec<(usize, Value)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), YamlError> {
        loop {
            return match self.parser.next_event() {
                None => Ok((Event::StreamEnd, 0)),
                Some(Err(error)) => Err(YamlError::Syntax(error.to_string())),
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok((event, span))) => Ok((event, span.start.line())),
            };
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize) -> Result<Value, YamlError> {
        self.count(1, line)?;
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let found = self.anchors.iter().find(|(known, _)| *known == id);
                let value = found.map(|(_, value)| value.clone()).unwrap_or_default();
                self.count(size(&value), line)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(&text, style, tag.as_deref(), line)?)
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence()?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping()?),
            other => return Err(unexpected(&other, line)),
        };
        if anchor != 0 {
            self.anchors.push((anchor, value.clone()));
        }
        Ok(value)
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), YamlError> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            let problem = "the document is too large once its aliases are followed".to_owned();
            return Err(YamlError::Content { line, problem });
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, line) => items.push(self.node(event, line)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, YamlError> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, line) = self.next()?;
            let plain_merge = match &event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, ..) => text == "<<",
                _ => false,
            };
            let key = self.node(event, line)?;
            let (event, line) = self.next()?;
            let value = self.node(event, line)?;
            if plain_merge {
                merged.push(value);
                continue;
            }
            let key = key_text(key).ok_or_else(|| YamlError::Content {
                line,
                problem: "a key must be text, a number or a boolean".to_owned(),
            })?;
            if map.contains_key(&key) {
                let problem = format!("key {key:?} already set in map");
                return Err(YamlError::Content { line, problem });
            }
            map.insert(key, value);
        }
        for value in merged {
            merge_into(&mut map, value);
        }
        Ok(Value::Object(map))
    }
}

/// `<<`: what the map itself says wins.
fn merge_into(map: &mut Map<String, Value>, value: Value) {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Value::Array(items) => items.into_iter().for_each(|item| merge_into(map, item)),
        _ => {}
    }
}

fn key_text(key: Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Value, YamlError> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain if is_not_finite(text) => {
                let problem = format!("JSON has no number {text}");
                return Err(YamlError::Content { line, problem });
            }
            ScalarStyle::Plain => plain(text),
            _ => Value::String(text.to_owned()),
        });
    };
    let wrong = || YamlError::Content {
        line,
        problem: format!("cannot read {text:?} as {}", tag.original()),
    };
    if tag.is_yaml_core_schema_tag("binary") || tag.suffix() == "binary" {
        let packed: String = text.split_whitespace().collect();
        let bytes = STANDARD.decode(packed).map_err(|_| wrong())?;
        return String::from_utf8(bytes)
            .map(Value::String)
            .map_err(|_| wrong());
    }
    match tag.core_suffix() {
        Some("str") => Ok(Value::String(text.to_owned())),
        Some("null") => Ok(Value::Null),
        Some("bool") => Some(plain(text))
            .filter(Value::is_boolean)
            .ok_or_else(wrong),
        Some("int") => Some(plain(text)).filter(Value::is_number).ok_or_else(wrong),
        Some("float") => Some(plain(text)).filter(Value::is_number).ok_or_else(wrong),
        _ => Ok(plain(text)),
    }
}

fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    )
}

/// An unquoted scalar's value.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let starts_number = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_digit() || b"+-.".contains(&b));
    let number = starts_number.then(|| number(text)).flatten();
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let plain = text.replace('_', "");
    if let Some(integer) = integer(&plain) {
        return Some(integer);
    }
    if !is_float(&plain) {
        return None;
    }
    let float: f64 = plain.parse().ok()?;
    // Go's JSON writes whole floats without a point, so 1e3 is the integer 1000.
    let whole = float.fract() == 0.0 && float.abs() < 1e15;
    if whole {
        return format!("{float:.0}").parse::<i64>().ok().map(Number::from);
    }
    Number::from_f64(float)
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(Number::from(magnitude));
    }
    let signed = 0_i64.checked_sub_unsigned(magnitude)?;
    Some(Number::from(signed))
}

/// `^[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$`, and a trailing point.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_fine =
        digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_fine = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_fine && exponent_fine
}

#[cfg(test)]
mod tests;
