//! Name patterns with `*`: domain names and node names.

use super::FilterError;

/// A domain name in which `*` stands for any run of letters, digits, hyphens
/// and dots. Case and one trailing dot do not matter in the pattern.
#[derive(Debug, Clone)]
pub(super) struct Fqdn(Vec<String>);

impl Fqdn {
    pub(super) fn new(pattern: &str) -> Result<Self, FilterError> {
        let text = pattern.trim();
        let text = text.strip_suffix('.').unwrap_or(text).to_lowercase();
        if text.is_empty() {
            return Err(FilterError::new("empty pattern"));
        }
        if text.ends_with('.') {
            return Err(FilterError::new("multiple trailing dots in pattern"));
        }
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.*".contains(c);
        if let Some(bad) = text.chars().find(|c| !valid(*c)) {
            return Err(FilterError::new(format!(
                "{bad:?}: invalid rune in pattern"
            )));
        }
        Ok(Self(text.split('*').map(str::to_owned).collect()))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self.0.as_slice() {
            [] => false,
            [exact] => exact == name,
            [first, middle @ .., last] => {
                let Some(rest) = name.strip_prefix(first.as_str()) else {
                    return false;
                };
                let Some(rest) = rest.strip_suffix(last.as_str()) else {
                    return false;
                };
                between(middle, rest)
            }
        }
    }
}

/// Whether `text` is the pieces in order with wildcards before, between and
/// after them. Taking each piece at its first place is enough: it leaves the
/// most for the pieces after it. What the wildcards swallow must be legal in
/// names.
fn between(pieces: &[String], text: &str) -> bool {
    let swallowed = |part: &str| {
        part.bytes()
            .all(|b| b"-.".contains(&b) || b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    let mut rest = text;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let Some(at) = rest.find(piece.as_str()) else {
            return false;
        };
        if !swallowed(&rest[..at]) {
            return false;
        }
        rest = &rest[at + piece.len()..];
    }
    swallowed(rest)
}

/// `[cluster/]node`; an empty part matches any name.
#[derive(Debug, Clone)]
pub(super) struct NodePattern {
    cluster: Option<Fqdn>,
    node: Option<Fqdn>,
}

impl NodePattern {
    pub(super) fn compile(patterns: &[String]) -> Result<Vec<Self>, FilterError> {
        patterns.iter().map(|pattern| Self::new(pattern)).collect()
    }

    fn new(pattern: &str) -> Result<Self, FilterError> {
        if pattern.is_empty() {
            return Err(FilterError::new("empty pattern"));
        }
        let (cluster, node) = match pattern.split('/').collect::<Vec<_>>()[..] {
            [node] => ("", node),
            [cluster, node] => (cluster, node),
            _ => return Err(FilterError::new("too many slashes in pattern")),
        };
        let part = |text: &str| (!text.is_empty()).then(|| Fqdn::new(text)).transpose();
        Ok(Self {
            cluster: part(cluster)?,
            node: part(node)?,
        })
    }

    pub(super) fn matches(&self, cluster: &str, node: &str) -> bool {
        let part = |pattern: &Option<Fqdn>, name| pattern.as_ref().is_none_or(|p| p.matches(name));
        part(&self.cluster, cluster) && part(&self.node, node)
    }
}
