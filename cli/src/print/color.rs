//! Colours, and keeping foreign text from steering the terminal.

/// Terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
    Cyan = 36,
}

const RESET: &str = "\x1b[0m";

/// Paints, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Painter {
    enabled: bool,
}

impl Painter {
    /// No colours.
    #[must_use]
    pub fn none() -> Self {
        Self { enabled: false }
    }

    /// `always`, `never`, or anything else for: when the output is a terminal
    /// that wants colours.
    #[must_use]
    pub fn choose(when: &str, terminal: bool) -> Self {
        let wanted = || {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            terminal && !plain && !dumb
        };
        let enabled = match when.to_ascii_lowercase().as_str() {
            "always" => true,
            "never" => false,
            _ => wanted(),
        };
        Self { enabled }
    }

    pub(crate) fn paint(self, color: Color, text: &str) -> String {
        if self.enabled {
            format!("\x1b[{}m{text}{RESET}", color as u8)
        } else {
            text.to_owned()
        }
    }

    /// Makes escape sequences and carriage returns visible, but for our own
    /// colours.
    pub(crate) fn escape(self, text: &str) -> String {
        if !text.contains(['\x1b', '\r']) {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let own = if self.enabled {
                own_sequence(rest)
            } else {
                None
            };
            let taken = match (own, c) {
                (Some(sequence), _) => {
                    out.push_str(sequence);
                    sequence.len()
                }
                (None, '\x1b') => {
                    out.push_str("^[");
                    1
                }
                (None, '\r') => {
                    out.push_str("\\r");
                    1
                }
                (None, c) => {
                    out.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[taken..];
        }
        out
    }
}

/// A colour or its end, when the text starts with one.
fn own_sequence(text: &str) -> Option<&'static str> {
    const OWN: [&str; 7] = [
        RESET, "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[35m", "\x1b[36m",
    ];
    OWN.into_iter().find(|own| text.starts_with(own))
}
