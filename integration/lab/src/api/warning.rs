//! `Warning` headers, which kubectl prints.

use axum::http::{HeaderMap, HeaderValue};

/// Characters of one warning, and of all warnings of an answer, as Kubernetes bounds them.
const WARNING: usize = 256;
const ALL_WARNINGS: usize = 4096;

/// Adds a header for each text, once. Long ones are cut only
/// where all together are too long.
pub(super) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let length = |text: &str| text.chars().count();
    let total: usize = warnings.iter().map(|w| length(w)).sum();
    let most = if total > ALL_WARNINGS {
        WARNING
    } else {
        usize::MAX
    };
    let mut room = ALL_WARNINGS;
    for (i, warning) in warnings.iter().enumerate() {
        if warnings.iter().take(i).any(|earlier| earlier == warning) {
            continue;
        }
        let text: String = warning.chars().take(most).collect();
        let Some(rest) = room.checked_sub(length(&text)) else {
            return;
        };
        room = rest;
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {}", quoted(&text)).as_bytes()) {
            headers.append("Warning", value);
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
        let long = vec!["x".repeat(4096)];
        assert_eq!(warnings(&long)[0].len(), 4096 + "299 - ".len() + 2);
        let many: Vec<String> = (0..100)
            .map(|i| format!("{i}{}", "x".repeat(300)))
            .collect();
        let shown = warnings(&many);
        assert_eq!(shown.len(), 16);
        assert!(shown.iter().all(|w| w.len() == 256 + "299 - ".len() + 2));
    }
}
