//! Whether the machine has a kubectl that can do everything here.

use std::process::Command;

/// Oldest minor version of 1.x whose `exec` speaks WebSocket.
pub const OLDEST_MINOR: u32 = 31;

/// Whether the kubectl in the path is recent enough; false where there is none.
#[must_use]
pub fn is_recent() -> bool {
    minor().is_some_and(|minor| minor >= OLDEST_MINOR)
}

/// Minor version of the kubectl in the path; none where there is no kubectl.
#[must_use]
pub fn minor() -> Option<u32> {
    let output = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output()
        .ok()?;
    minor_of(&output.stdout)
}

/// Minor version in what `kubectl version --client -o json` says.
fn minor_of(json: &[u8]) -> Option<u32> {
    let version: serde_json::Value = serde_json::from_slice(json).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?;
    minor.trim_end_matches('+').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read() {
        let json = br#"{"clientVersion": {"major": "1", "minor": "32+"}}"#;
        assert_eq!(minor_of(json), Some(32));
        assert_eq!(minor_of(b"{}"), None);
    }
}
