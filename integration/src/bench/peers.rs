//! The programs that are measured against and with.

use std::collections::HashMap;
use std::path::PathBuf;

/// Where they are. `scripts/bench-peers` installs them and writes it down.
#[derive(Debug, Clone, Default)]
pub struct Peers(HashMap<String, PathBuf>);

impl Peers {
    /// Reads what the script wrote; nothing when it was never run.
    #[must_use]
    pub fn find() -> Self {
        let cache = std::env::var_os("WEFT_CACHE")
            .map(PathBuf::from)
            .or_else(|| {
                let home = std::env::var_os("HOME")?;
                Some(PathBuf::from(home).join(".cache/weft"))
            });
        let text = cache
            .and_then(|cache| std::fs::read_to_string(cache.join("bench-peers.env")).ok())
            .unwrap_or_default();
        Self(parse(&text))
    }

    /// Path of a program (`envoy`, `nginx`, `haproxy`, `h2load`). A variable
    /// `WEFT_BENCH_<NAME>` in the environment wins.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let key = format!("WEFT_BENCH_{}", name.to_uppercase());
        let chosen = std::env::var_os(&key).map(PathBuf::from);
        chosen.or_else(|| self.0.get(&key).cloned())
    }
}

fn parse(text: &str) -> HashMap<String, PathBuf> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), PathBuf::from(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_assignments() {
        let found = parse("# comment = none\nWEFT_BENCH_X=/usr/bin/x\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found["WEFT_BENCH_X"].to_str(), Some("/usr/bin/x"));
    }
}
