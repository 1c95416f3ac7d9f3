//! Replaces what looks like a secret.

use std::borrow::Cow;

use regex::bytes::{NoExpand, Regex, RegexBuilder};
use weft_sdk::prelude::*;

/// In place of a secret.
pub(crate) const HIDDEN: &str = "[redacted]";
/// Text beyond this is not written at all: a line of the log is no place for it.
const MAX_TEXT: usize = 4096;
/// A pattern takes at most this much memory, however it is written.
const MAX_COMPILED: usize = 1 << 20;

/// What is a secret wherever it stands.
const BUILT_IN: [(&str, &str); 3] = [
    (
        "[mail]",
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
    ),
    (
        "[token]",
        r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    ),
    // 13 to 19 digits, with the spaces and dashes that people put between them.
    ("[card]", r"[0-9](?:[ -]?[0-9]){12,18}"),
];

/// What is replaced, and by what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replacement {
    /// A regular expression of ASCII classes.
    pattern: String,
    /// What is written in its place.
    #[serde(default = "hidden")]
    replacement: String,
}

fn hidden() -> String {
    HIDDEN.to_owned()
}

#[derive(Debug)]
pub(crate) struct Redactor {
    patterns: Vec<(Regex, String)>,
    parameters: Vec<String>,
}

impl Redactor {
    pub(crate) fn new(own: &[Replacement], parameters: &[String]) -> Result<Self> {
        let mut patterns = Vec::new();
        for (at, replacement) in own.iter().enumerate() {
            let regex =
                compile(&replacement.pattern).context(format_args!("patterns[{at}].pattern"))?;
            patterns.push((regex, replacement.replacement.clone()));
        }
        for (replacement, pattern) in BUILT_IN {
            patterns.push((compile(pattern)?, replacement.to_owned()));
        }
        Ok(Self {
            patterns,
            parameters: parameters
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        })
    }

    /// A text with all that looks like a secret replaced.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut bytes = Cow::Borrowed(shortened(text).as_bytes());
        for (regex, replacement) in &self.patterns {
            if let Cow::Owned(replaced) =
                regex.replace_all(&bytes, NoExpand(replacement.as_bytes()))
            {
                bytes = Cow::Owned(replaced);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The same for path and query, with the values of some parameters replaced as a whole.
    pub(crate) fn target(&self, target: &str) -> String {
        let Some((path, query)) = target.split_once('?') else {
            return self.text(&decoded(target));
        };
        let parameters: Vec<String> = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((name, _)) if self.is_secret(name) => format!("{name}={HIDDEN}"),
                // Decoded, or an encoded mail address would not look like one.
                _ => decoded(parameter),
            })
            .collect();
        self.text(&format!("{}?{}", decoded(path), parameters.join("&")))
    }

    fn is_secret(&self, name: &str) -> bool {
        let name = decoded(name).to_ascii_lowercase();
        self.parameters.contains(&name)
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|err| match err {
            regex::Error::CompiledTooBig(_) => Error::new("it takes too much memory"),
            other => Error::new(other),
        })
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Percent-encoding undone; what is no text or a line break stays encoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|byte| !byte.is_ascii_control());
        if let Some(byte) = hex {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        let own = [Replacement {
            pattern: r"acct-[0-9]+".to_owned(),
            replacement: "acct-$0".to_owned(),
        }];
        Redactor::new(&own, &["Token".to_owned()]).expect("good patterns")
    }

    #[test]
    fn secrets_are_replaced_wherever_they_stand() {
        let redactor = redactor();
        for (text, expected) in [
            ("from ada.l@example.test, ok", "from [mail], ok"),
            ("Bearer eyJhbGci.eyJzdWIi.c2ln", "Bearer [token]"),
            ("4111 1111-1111 1111!", "[card]!"),
            ("order 12345", "order 12345"),
            ("acct-77", "acct-$0"),
            ("", ""),
        ] {
            assert_eq!(redactor.text(text), expected);
        }
    }

    #[test]
    fn parameters_are_replaced_as_a_whole() {
        let redactor = redactor();
        for (target, expected) in [
            ("/a?token=abc&b=1", "/a?token=[redacted]&b=1"),
            ("/a?TOKEN=abc=def", "/a?TOKEN=[redacted]"),
            ("/a?t%6Fken=abc", "/a?t%6Fken=[redacted]"),
            ("/a?tokens=1&token", "/a?tokens=1&token"),
            ("/ada%40example.test/x", "/[mail]/x"),
            ("/a?m=ada%40example.test", "/a?m=[mail]"),
            ("/a%0d%0aforged", "/a%0d%0aforged"),
            ("/a%ff%zz%", "/a%ff%zz%"),
        ] {
            assert_eq!(redactor.target(target), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let text = "\u{e4}".repeat(MAX_TEXT);
        assert!(redactor().text(&text).len() <= MAX_TEXT);
    }
}
