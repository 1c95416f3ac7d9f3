//! What filters log.

use crate::exchange::Exchange;
use crate::types::Level;

/// Longest message that is kept.
const MAX_MESSAGE: usize = 4096;

/// One line.
#[derive(Clone, Copy)]
pub struct LogRecord<'a> {
    /// The filter.
    pub filter: &'a str,
    /// How much it has to say.
    pub level: Level,
    /// Without control characters, and of a bounded length.
    pub message: &'a str,
    /// The same holds for these.
    pub labels: &'a [(String, String)],
    /// The exchange that it is about.
    pub exchange: Option<&'a dyn Exchange>,
}

/// Where filters' lines go. Called on a worker: it must not wait.
pub trait Log: Send + Sync {
    /// Whether anybody reads such lines.
    fn enabled(&self, filter: &str, level: Level) -> bool;

    /// Takes one line.
    fn log(&self, record: LogRecord<'_>);
}

/// Nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLog;

impl Log for NoLog {
    fn enabled(&self, _filter: &str, _level: Level) -> bool {
        false
    }

    fn log(&self, _record: LogRecord<'_>) {}
}

/// As much of what a filter wants to say as makes a difference to [`one_line`]: the longest message
/// and a character, at which it ends.
pub(crate) fn beginning(text: &[u8]) -> &[u8] {
    &text[..text.len().min(MAX_MESSAGE + 4)]
}

/// What a filter wants to say, so that one line stays one line.
pub(crate) fn one_line(text: &str) -> String {
    one_line_of(text, MAX_MESSAGE)
}

/// The same, of at most about so many bytes.
pub(crate) fn one_line_of(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if line.len() >= most {
            line.push('…');
            break;
        }
        match c {
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{MAX_MESSAGE, beginning, one_line};

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(one_line("a\r\nb\tc\u{1b}[31m"), "a\\r\\nb\\tc\\u{1b}[31m");
        assert_eq!(one_line("prix: 5 €"), "prix: 5 €");
    }

    #[test]
    fn no_more_is_read_than_a_line_has() {
        for character in ["x", "é", "€", "𝄞", "\n"] {
            for before in 0..4 {
                let text = "x".repeat(before) + &character.repeat(2 * MAX_MESSAGE);
                let read = beginning(text.as_bytes());
                assert_eq!(read.len(), MAX_MESSAGE + 4);
                assert_eq!(one_line(&String::from_utf8_lossy(read)), one_line(&text));
            }
        }
        assert_eq!(beginning(b"short"), b"short");
    }

    #[test]
    fn a_line_has_an_end() {
        let line = one_line(&"x".repeat(10 * MAX_MESSAGE));
        assert_eq!(line.chars().count(), MAX_MESSAGE + 1);
    }
}
