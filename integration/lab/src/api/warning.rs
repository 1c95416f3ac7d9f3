//! `Warning` headers, which kubectl prints.

use axum::http::{HeaderMap, HeaderValue};

/// Characters of all warnings of an answer: what comes after them is left out. Clients take no
/// headers of any length.
const MAX_WARNINGS: usize = 4096;

/// Adds a header for each text, once.
pub(super) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut room = MAX_WARNINGS;
    for (i, warning) in warnings.iter().enumerate() {
        if warnings.iter().take(i).any(|earlier| earlier == warning) {
            continue;
        }
        let text: String = warning.chars().take(room).collect();
        room -= text.chars().count();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {}", quoted(&text)).as_bytes()) {
            headers.append("Warning", value);
        }
        if room == 0 {
            return;
        }
    }
}

/// A quoted string of HTTP: no line ends in it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(texts: &[String]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        warn(&mut headers, texts);
        let all = headers.get_all("warning").iter();
        all.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    }

    #[test]
    fn warnings_are_one_line_each() {
        let texts = ["a \"b\"", "é\nc\\", "a \"b\""].map(str::to_owned);
        assert_eq!(warnings(&texts), [r#"299 - "a \"b\"""#, r#"299 - "é c\\""#]);
    }

    #[test]
    fn warnings_are_bounded() {
        let framed = |length: usize| length + "299 - ".len() + 2;
        let texts = [1000, 4000, 1].map(|length| "x".repeat(length));
        let lengths: Vec<usize> = warnings(&texts).iter().map(String::len).collect();
        assert_eq!(lengths, [framed(1000), framed(3096)]);
    }
}
