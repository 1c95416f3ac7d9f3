//! Replaces what looks like a secret.

use std::borrow::Cow;

use regex::bytes::{NoExpand, Regex, RegexBuilder};
use weft_sdk::prelude::*;
use weft_sdk::text::percent_decode;

/// In place of a secret.
pub(crate) const HIDDEN: &str = "[redacted]";
/// Text beyond this is not written at all: a line of the log is no place for it.
const MAX_TEXT: usize = 4096;
/// A pattern takes at most this much memory, however it is written.
const MAX_COMPILED: usize = 1 << 20;

/// Where a parameter may begin.
const SEPARATORS: [char; 4] = ['?', '#', '&', ';'];

/// What is a secret wherever it stands.
const BUILT_IN: [(&str, &str); 4] = [
    // Before the mail address, which the end of a password might look like.
    ("//[redacted]@", r"//[^/?#\s]+@"),
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
        let mut bytes = Cow::Borrowed(text.as_bytes());
        for (regex, replacement) in &self.patterns {
            if let Cow::Owned(replaced) =
                regex.replace_all(&bytes, NoExpand(replacement.as_bytes()))
            {
                bytes = Cow::Owned(replaced);
            }
        }
        // Cut last: half of a secret does not look like one.
        shortened(&String::from_utf8_lossy(&bytes)).to_owned()
    }

    /// The same for path and query or a whole URL, with the values of some parameters replaced as a
    /// whole.
    pub(crate) fn target(&self, target: &str) -> String {
        // Once more without decoding: a parameter may be a URL with parameters of its own.
        let shown = self.without_secrets(target, decoded);
        self.text(&self.without_secrets(&shown, str::to_owned))
    }

    /// The same for a host, before which a name and a password may stand.
    pub(crate) fn authority(&self, authority: &str) -> String {
        match authority.rsplit_once('@') {
            Some((_, host)) => format!("{HIDDEN}@{}", self.text(host)),
            None => self.text(authority),
        }
    }

    /// Query and fragment with the values of secret parameters replaced, and `show` for the rest.
    fn without_secrets(&self, target: &str, show: fn(&str) -> String) -> String {
        let mut rest = target;
        let mut shown = String::new();
        loop {
            let (parameter, after) = split_at(rest, &SEPARATORS);
            match parameter.split_once('=') {
                Some((name, _)) if self.is_secret(name) => {
                    shown.push_str(name);
                    shown.push('=');
                    shown.push_str(HIDDEN);
                    // Whatever else stands in a secret is a part of it.
                    rest = split_at(rest, &['&']).1;
                }
                // Decoded, or an encoded mail address would not look like one.
                _ => {
                    shown.push_str(&show(parameter));
                    rest = after;
                }
            }
            let mut letters = rest.chars();
            match letters.next() {
                Some(separator) => shown.push(separator),
                None => return shown,
            }
            rest = letters.as_str();
        }
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
    let bytes = percent_decode(text, |byte| !byte.is_ascii_control());
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            shown.push_str(&format!("%{byte:02x}"));
        }
    }
    shown
}

/// What is before the first of some letters, and the rest with it.
fn split_at<'a>(text: &'a str, letters: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(letters).unwrap_or(text.len()))
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
            ("/ada%40example.test?x=%FF", "/[mail]?x=%ff"),
            ("/a?m=%ff,ada%40example.test", "/a?m=%ff,[mail]"),
            ("/a?m=%c3%a4", "/a?m=\u{e4}"),
            ("/a?token=b;c?d#e&f=1", "/a?token=[redacted]&f=1"),
            ("/a?next=%2Fb%3Ftoken%3Dc", "/a?next=/b?token=[redacted]"),
            (
                "https://a.test/b#token=c",
                "https://a.test/b#token=[redacted]",
            ),
            ("https://ada:p@w@a/?b=1", "https://[redacted]@a/?b=1"),
        ] {
            assert_eq!(redactor.target(target), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let text = "\u{e4}".repeat(MAX_TEXT);
        assert!(redactor().text(&text).len() <= MAX_TEXT);
    }

    #[test]
    fn a_secret_across_the_cut_is_replaced_first() {
        let text = format!("{}4111111111111111", "x".repeat(MAX_TEXT - 8));
        let shown = redactor().text(&text);
        assert!(!shown.contains("4111"), "{}", &shown[MAX_TEXT - 16..]);
        assert!(shown.ends_with("[card]"));
    }

    #[test]
    fn who_calls_a_host_is_not_shown() {
        let redactor = redactor();
        for (authority, expected) in [
            ("shop.test:8080", "shop.test:8080"),
            ("ada:pw@shop", "[redacted]@shop"),
            ("a@b@4111111111111111", "[redacted]@[card]"),
        ] {
            assert_eq!(redactor.authority(authority), expected);
        }
    }
}
