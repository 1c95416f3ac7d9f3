//! Values with variables: `${source.pod}`, `${header.user-agent}`.

use std::borrow::Cow;

use weft_sdk::{Attributes, Context as _, Error, Headers, Result};

/// A value, cut at its variables.
#[derive(Debug)]
pub(crate) struct Template(Vec<Piece>);

/// Reads one thing of what is known.
type Read = fn(&Attributes) -> &str;

#[derive(Debug)]
enum Piece {
    Text(String),
    Header(String),
    Attribute(Read),
    Label(String),
}

/// What a variable can stand for, besides `header.NAME` and `source.label.KEY`.
const ATTRIBUTES: [(&str, Read); 13] = [
    ("request.id", |known| &known.request_id),
    ("request.method", |known| &known.method),
    ("request.path", |known| &known.path),
    ("request.authority", |known| &known.authority),
    ("request.scheme", |known| &known.scheme),
    ("trace.id", |known| &known.trace_id),
    ("source.address", |known| &known.source.address),
    ("source.namespace", |known| &known.source.namespace),
    ("source.pod", |known| &known.source.pod),
    ("destination.address", |known| &known.destination.address),
    ("destination.namespace", |known| {
        &known.destination.namespace
    }),
    ("destination.pod", |known| &known.destination.pod),
    ("route", |known| &known.route),
];

impl Template {
    /// Reads a value; `$$` is a dollar sign.
    pub(crate) fn parse(value: &str) -> Result<Self> {
        Headers::check_value(value)?;
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                text.push('$');
                rest = after;
            } else if let Some(after) = after.strip_prefix('{') {
                let (name, after) = after
                    .split_once('}')
                    .context("a variable ends with a closing brace: ${source.pod}")?;
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(variable(name)?);
                rest = after;
            } else {
                return Err(Error::new(
                    "after $ comes a variable, ${source.pod}, or another $ for the sign itself",
                ));
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self(pieces))
    }

    pub(crate) fn needs_attributes(&self) -> bool {
        self.0
            .iter()
            .any(|piece| matches!(piece, Piece::Attribute(_) | Piece::Label(_)))
    }

    /// The value for a request. What is not known is empty.
    pub(crate) fn fill(&self, headers: &Headers, known: Option<&Attributes>) -> Cow<'_, [u8]> {
        if let [Piece::Text(text)] = self.0.as_slice() {
            return Cow::Borrowed(text.as_bytes());
        }
        let mut filled = Vec::new();
        for piece in &self.0 {
            match (piece, known) {
                (Piece::Text(text), _) => filled.extend_from_slice(text.as_bytes()),
                (Piece::Header(name), _) => {
                    if let Some(value) = headers.get(name) {
                        filled.extend_from_slice(&value);
                    }
                }
                (Piece::Attribute(read), Some(known)) => {
                    filled.extend_from_slice(read(known).as_bytes());
                }
                (Piece::Label(key), Some(known)) => {
                    let value = known.source.label(key).unwrap_or_default();
                    filled.extend_from_slice(value.as_bytes());
                }
                (Piece::Attribute(_) | Piece::Label(_), None) => {}
            }
        }
        Cow::Owned(filled)
    }
}

fn variable(name: &str) -> Result<Piece> {
    if let Some(header) = name.strip_prefix("header.") {
        Headers::check_readable(header)?;
        return Ok(Piece::Header(header.to_ascii_lowercase()));
    }
    if let Some(key) = name.strip_prefix("source.label.") {
        return Ok(Piece::Label(key.to_owned()));
    }
    match ATTRIBUTES.iter().find(|(key, _)| *key == name) {
        Some((_, read)) => Ok(Piece::Attribute(*read)),
        None => {
            let names: Vec<&str> = ATTRIBUTES.iter().map(|(key, _)| *key).collect();
            Err(Error::new(format_args!(
                "there is no variable {name}; there are header.NAME, source.label.KEY, {}",
                names.join(", ")
            )))
        }
    }
}
