//! Limits, deadlines and names of the proxy, with their defaults and bounds.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Limits and names. Every field has a default ([`Settings::default`]) and
/// bounds ([`Settings::check`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The `server` header of responses. Default `envoy`: what clients of such
    /// meshes see. Empty leaves the upstream's.
    pub server_name: Box<str>,
    /// From a request's head to its response's head. Default 1 h: long polls
    /// are the application's business; this ends what nobody waits for.
    pub request_timeout: Duration,
    /// How long a connection may stay without a request. Default 5 min.
    pub idle_timeout: Duration,
    /// From the first byte of a head to its end. Default 10 s: a client that
    /// drips bytes costs one connection for no longer.
    pub header_timeout: Duration,
    /// How long a connection may take to show its protocol. Default 1 s.
    pub detect_timeout: Duration,
    /// Largest head in bytes, of a request (above it 431) and of a response
    /// (above it 502). Default 60 KiB.
    pub max_header_bytes: u32,
    /// Most header lines, likewise. Default 100.
    pub max_headers: u32,
    /// Most downstream connections of the proxy. Default 65,536.
    pub max_connections: u32,
    /// Most downstream connections of one source address; keeps one pod from
    /// taking them all. Default 8,192.
    pub max_connections_per_source: u32,
    /// Most upstream connections on behalf of one source address; keeps one
    /// pod from using up the ports of the node. Default 4,096.
    pub max_upstream_per_source: u32,
    /// Bytes that the proxy holds on behalf of one source address: its
    /// connections and requests, and what they make it buffer. Default 64 MiB.
    pub max_memory_per_source: u64,
    /// Requests that one HTTP/2 connection may have open. Default 100.
    pub max_streams: u32,
    /// Bytes that a peer may send ahead of a slow reader on one HTTP/2 stream.
    /// Default 256 KiB.
    pub stream_window: u32,
    /// The same for all streams of a connection together. Default 1 MiB.
    pub connection_window: u32,
    /// Bytes of one HTTP/2 stream that wait to be sent. Default 256 KiB.
    pub send_buffer: u32,
    /// Protocols that HTTP/1.1 connections may be upgraded to besides
    /// WebSocket: behind an upgrade nothing is judged. Default none.
    pub upgrades: Arc<[Box<str>]>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server_name: "envoy".into(),
            request_timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(300),
            header_timeout: Duration::from_secs(10),
            detect_timeout: Duration::from_secs(1),
            max_header_bytes: 60 * KIB,
            max_headers: 100,
            max_connections: 65_536,
            max_connections_per_source: 8_192,
            max_upstream_per_source: 4_096,
            max_memory_per_source: 64 * u64::from(MIB),
            max_streams: 100,
            stream_window: 256 * KIB,
            connection_window: MIB,
            send_buffer: 256 * KIB,
            upgrades: Arc::new([]),
        }
    }
}

/// A setting that holds something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SettingsError {
    /// The field of [`Settings`].
    pub field: &'static str,
    /// What is wrong with its value, and what it may be.
    pub reason: String,
}

impl SettingsError {
    /// This field is wrong for this reason.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { field, reason }
    }

    /// This deadline has passed before it begins.
    pub fn not_longer(field: &'static str) -> Self {
        Self::new(field, "must be longer than zero, such as `10s`")
    }
}

/// Most header lines that [`Settings::max_headers`] may allow.
pub const MOST_HEADERS: usize = 1024;

/// Smallest and largest sensible values; outside of them a typo is likelier
/// than an intention.
const HEADER_BYTES: RangeInclusive<u64> = 1024..=1024 * 1024;
const HEADERS: RangeInclusive<u64> = 8..=MOST_HEADERS as u64;
const STREAMS: RangeInclusive<u64> = 1..=10_000;
/// At least a frame of the usual size.
const STREAM_BYTES: RangeInclusive<u64> = 16 * 1024..=16 * 1024 * 1024;
/// The protocol begins with a window of 65,535 bytes.
const CONNECTION_BYTES: RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;
const MEMORY: RangeInclusive<u64> = 8 * 1024 * 1024..=1 << 40;
const ANY: RangeInclusive<u64> = 1..=u32::MAX as u64;

/// Windows that a source's memory has room for at least: with less, connections
/// would be cut that do nothing but wait for a slow reader.
const WINDOWS: u64 = 8;

impl Settings {
    /// Whether all fields are possible, alone and together.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.server_header()?;
        for (field, duration) in [
            ("request_timeout", self.request_timeout),
            ("idle_timeout", self.idle_timeout),
            ("header_timeout", self.header_timeout),
            ("detect_timeout", self.detect_timeout),
        ] {
            if duration.is_zero() {
                return Err(SettingsError::not_longer(field));
            }
        }
        self.check_numbers()?;
        if self.connection_window < self.stream_window {
            let reason = format!("must not be below stream_window, {}", self.stream_window);
            return Err(SettingsError::new("connection_window", reason));
        }
        let least = WINDOWS * u64::from(self.connection_window);
        if self.max_memory_per_source < least {
            let reason = format!("must be at least {WINDOWS} times connection_window, {least}");
            return Err(SettingsError::new("max_memory_per_source", reason));
        }
        self.upgrades.iter().try_for_each(|name| upgrade(name))
    }

    /// The `server` header of responses; none when the upstream's is to stay.
    ///
    /// # Errors
    /// When the name cannot stand in a header.
    pub fn server_header(&self) -> Result<Option<HeaderValue>, SettingsError> {
        let name = &*self.server_name;
        if name.is_empty() {
            return Ok(None);
        }
        HeaderValue::from_str(name).map(Some).map_err(|_error| {
            let reason = format!("{name:?} cannot stand in a header: leave line breaks and other control characters out");
            SettingsError::new("server_name", reason)
        })
    }

    fn check_numbers(&self) -> Result<(), SettingsError> {
        let numbers: [(_, u64, _); 10] = [
            (
                "max_header_bytes",
                self.max_header_bytes.into(),
                HEADER_BYTES,
            ),
            ("max_headers", self.max_headers.into(), HEADERS),
            ("max_connections", self.max_connections.into(), ANY),
            (
                "max_connections_per_source",
                self.max_connections_per_source.into(),
                ANY,
            ),
            (
                "max_upstream_per_source",
                self.max_upstream_per_source.into(),
                ANY,
            ),
            ("max_memory_per_source", self.max_memory_per_source, MEMORY),
            ("max_streams", self.max_streams.into(), STREAMS),
            ("stream_window", self.stream_window.into(), STREAM_BYTES),
            (
                "connection_window",
                self.connection_window.into(),
                CONNECTION_BYTES,
            ),
            ("send_buffer", self.send_buffer.into(), STREAM_BYTES),
        ];
        for (field, value, range) in numbers {
            if !range.contains(&value) {
                let (least, most) = (range.start(), range.end());
                let reason = format!("must be from {least} to {most}, not {value}");
                return Err(SettingsError::new(field, reason));
            }
        }
        Ok(())
    }
}

/// A protocol that connections may be upgraded to. HTTP/2 is none of them: its
/// requests would pass unjudged.
fn upgrade(name: &str) -> Result<(), SettingsError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(|byte| token(byte) || byte == b'/') {
        let reason = format!("`{name}` is not the name of a protocol");
        return Err(SettingsError::new("upgrades", reason));
    }
    if name.to_ascii_lowercase().starts_with("h2") {
        let reason = format!("`{name}`: HTTP/2 would pass unjudged");
        return Err(SettingsError::new("upgrades", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> SettingsError {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().unwrap_err()
    }

    #[test]
    fn the_defaults_are_possible() {
        assert_eq!(Settings::default().check(), Ok(()));
        let unnamed = Settings {
            server_name: "".into(),
            upgrades: ["imap".into(), "TLS/1.0".into()].into(),
            ..Settings::default()
        };
        assert_eq!(unnamed.check(), Ok(()));
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        type Change = fn(&mut Settings);
        let cases: [(&str, Change); 9] = [
            ("server_name", |one| one.server_name = "a\r\nb: c".into()),
            ("idle_timeout", |one| one.idle_timeout = Duration::ZERO),
            ("max_header_bytes", |one| one.max_header_bytes = 1),
            ("max_headers", |one| one.max_headers = 2000),
            ("max_connections", |one| one.max_connections = 0),
            ("max_streams", |one| one.max_streams = 0),
            ("send_buffer", |one| one.send_buffer = 1000),
            ("stream_window", |one| one.stream_window = u32::MAX),
            ("max_memory_per_source", |one| one.max_memory_per_source = 1),
        ];
        for (field, change) in cases {
            assert_eq!(refused(change).field, field);
        }
        let error = refused(|one| one.server_name = "a\nb".into()).to_string();
        assert!(
            error.starts_with(r#"server_name: "a\nb" cannot"#),
            "{error}"
        );
        let error = refused(|one| one.max_headers = 2);
        assert_eq!(
            error.to_string(),
            "max_headers: must be from 8 to 1024, not 2"
        );
    }

    #[test]
    fn windows_fit_into_each_other() {
        let error = refused(|one| one.stream_window = 2 * one.connection_window);
        assert_eq!(error.field, "connection_window");
        let error = refused(|one| one.connection_window = 16 * MIB);
        assert_eq!(error.field, "max_memory_per_source");
        assert!(error.reason.contains("8 times"), "{error}");
    }

    #[test]
    fn nothing_that_would_pass_unjudged_is_an_upgrade() {
        for name in ["", "a b", "h2c", "H2"] {
            let error = refused(|one| one.upgrades = ["imap".into(), name.into()].into());
            assert_eq!(error.field, "upgrades", "{name}");
        }
    }
}
