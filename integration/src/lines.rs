//! What lines of output look like: the text as it is, and names for the parts
//! that differ from run to run.

use regex_automata::meta::Regex;

/// Names of the parts, in braces, and what they match.
const PARTS: [(&str, &str); 8] = [
    (
        "{time}",
        r"[A-Z][a-z]{2} [ 0-9][0-9] \d{2}:\d{2}:\d{2}\.\d{3}",
    ),
    ("{ID}", r"\(ID:\d+\)"),
    ("{port}", r"\d{1,5}"),
    (
        "{deathstar}",
        "default/deathstar-[a-z0-9]{5,10}-[a-z0-9]{5}",
    ),
    ("{ms}", r"\d+"),
    (
        "{uuid}",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    ),
    ("{word}", "[^ ]+"),
    ("{any}", ".*"),
];

/// A line's shape.
#[derive(Debug, Clone)]
pub struct Shape {
    text: String,
    regex: Regex,
}

impl Shape {
    /// The shape of a whole line.
    ///
    /// # Panics
    /// Never: everything but the named parts is taken as it is.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut pattern = escape(text);
        for (name, part) in PARTS {
            pattern = pattern.replace(&escape(name), part);
        }
        let regex = Regex::new(&format!("^(?:{pattern})$"));
        #[expect(
            clippy::expect_used,
            reason = "escaped text with parts that a test compiles"
        )]
        let regex = regex.expect("a valid pattern");
        Self {
            text: text.to_owned(),
            regex,
        }
    }

    /// Whether a line has it.
    #[must_use]
    pub fn fits(&self, line: &str) -> bool {
        self.regex.is_match(line)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Finds a line for each of the shapes, in any order.
///
/// # Errors
/// Says which shapes have no line.
pub fn all_there(output: &str, shapes: &[&str]) -> Result<(), String> {
    let missing: Vec<_> = shapes
        .iter()
        .filter(|shape| {
            let shape = Shape::new(shape);
            !output.lines().any(|line| shape.fits(line))
        })
        .copied()
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "no line like\n  {}\nin\n{output}",
            missing.join("\n  ")
        )),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        // Not every punctuation mark: `\<` is an anchor.
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_observer_has_its_shape() {
        let shape = Shape::new(
            "{time}: default/xwing:{port} {ID} -> {deathstar}:80 {ID} to-overlay FORWARDED (TCP Flags: SYN)",
        );
        let line = "Mar 14 14:37:59.855: default/xwing:51382 (ID:20417) -> default/deathstar-7d9c5f6b4-t8xzp:80 \
                    (ID:47013) to-overlay FORWARDED (TCP Flags: SYN)";
        assert!(shape.fits(line));
        assert!(!shape.fits(&line.replace("SYN", "SYN, ACK")));
        assert!(!shape.fits(&line.replace("default/xwing:51382", "default/xwing")));
        assert!(!shape.fits(&line.replace("->", "<>")));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(all_there("a 1\nb", &["b", "a {ms}"]), Ok(()));
        let missing = all_there("a", &["a", "b"]).unwrap_err();
        assert!(missing.contains("no line like\n  b\nin\na"), "{missing}");
    }
}
