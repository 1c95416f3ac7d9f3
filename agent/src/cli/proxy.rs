//! What the node's proxy is told: limits, deadlines and names.

use std::time::Duration;

use clap::Args;
use k8s_openapi::jiff::SignedDuration;
use weft_core::snapshot::{Settings, SettingsError};

/// Limits, deadlines and names of the proxy, which the agent sends with its
/// snapshots. Sizes are written like `64Mi`, durations like `1m30s`.
#[derive(Debug, Clone, Args, PartialEq, Eq)]
pub struct ProxyArgs {
    /// The `server` header of responses; empty leaves the upstream's.
    #[arg(long, env = "WEFT_PROXY_SERVER_NAME", default_value = "envoy")]
    pub proxy_server_name: String,
    /// From a request's head to its response's head; above it 504.
    #[arg(long, env = "WEFT_PROXY_REQUEST_TIMEOUT", value_parser = duration, default_value = "1h")]
    pub proxy_request_timeout: Duration,
    /// How long a connection may stay without a request.
    #[arg(long, env = "WEFT_PROXY_IDLE_TIMEOUT", value_parser = duration, default_value = "5m")]
    pub proxy_idle_timeout: Duration,
    /// From the first byte of a request's head to its last; above it 408.
    #[arg(long, env = "WEFT_PROXY_HEADER_TIMEOUT", value_parser = duration, default_value = "10s")]
    pub proxy_header_timeout: Duration,
    /// How long a connection may take to show its protocol.
    #[arg(long, env = "WEFT_PROXY_DETECT_TIMEOUT", value_parser = duration, default_value = "1s")]
    pub proxy_detect_timeout: Duration,
    /// Largest head of a request; above it 431.
    #[arg(long, env = "WEFT_PROXY_MAX_HEADER_BYTES", value_parser = bytes, default_value = "60Ki")]
    pub proxy_max_header_bytes: u64,
    /// Most header lines of a request; above it 431.
    #[arg(long, env = "WEFT_PROXY_MAX_HEADERS", default_value_t = 100)]
    pub proxy_max_headers: u32,
    /// Most connections to the proxy.
    #[arg(long, env = "WEFT_PROXY_MAX_CONNECTIONS", default_value_t = 65_536)]
    pub proxy_max_connections: u32,
    /// Most connections of one source address to the proxy.
    #[arg(
        long,
        env = "WEFT_PROXY_MAX_CONNECTIONS_PER_SOURCE",
        default_value_t = 8_192
    )]
    pub proxy_max_connections_per_source: u32,
    /// Most connections of the proxy on behalf of one source address.
    #[arg(
        long,
        env = "WEFT_PROXY_MAX_UPSTREAM_PER_SOURCE",
        default_value_t = 4_096
    )]
    pub proxy_max_upstream_per_source: u32,
    /// Memory that one source address may make the proxy hold.
    #[arg(
        long,
        env = "WEFT_PROXY_MAX_MEMORY_PER_SOURCE",
        value_parser = bytes,
        default_value = "64Mi"
    )]
    pub proxy_max_memory_per_source: u64,
    /// Requests that one HTTP/2 connection may have open.
    #[arg(long, env = "WEFT_PROXY_MAX_STREAMS", default_value_t = 100)]
    pub proxy_max_streams: u32,
    /// What a peer may send ahead of a slow reader on one HTTP/2 stream.
    #[arg(long, env = "WEFT_PROXY_STREAM_WINDOW", value_parser = bytes, default_value = "256Ki")]
    pub proxy_stream_window: u64,
    /// The same on one HTTP/2 connection.
    #[arg(long, env = "WEFT_PROXY_CONNECTION_WINDOW", value_parser = bytes, default_value = "1Mi")]
    pub proxy_connection_window: u64,
    /// What may wait to be sent on one HTTP/2 stream.
    #[arg(long, env = "WEFT_PROXY_SEND_BUFFER", value_parser = bytes, default_value = "256Ki")]
    pub proxy_send_buffer: u64,
    /// Protocols that HTTP/1.1 connections may be upgraded to besides
    /// WebSocket, separated by commas. Behind an upgrade nothing is judged.
    #[arg(long, env = "WEFT_PROXY_UPGRADES", value_delimiter = ',')]
    pub proxy_upgrades: Vec<String>,
}

/// A flag that asks the proxy for something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--proxy-{} (or WEFT_PROXY_{}): {}", .0.field.replace('_', "-"), .0.field.to_uppercase(), .0.reason)]
pub struct ProxyArgsError(SettingsError);

impl ProxyArgs {
    /// The settings of a snapshot.
    ///
    /// # Errors
    /// The first flag that asks for something impossible.
    pub fn settings(&self) -> Result<Settings, ProxyArgsError> {
        let settings = Settings {
            server_name: self.proxy_server_name.as_str().into(),
            request_timeout: self.proxy_request_timeout,
            idle_timeout: self.proxy_idle_timeout,
            header_timeout: self.proxy_header_timeout,
            detect_timeout: self.proxy_detect_timeout,
            max_header_bytes: narrow(self.proxy_max_header_bytes),
            max_headers: self.proxy_max_headers,
            max_connections: self.proxy_max_connections,
            max_connections_per_source: self.proxy_max_connections_per_source,
            max_upstream_per_source: self.proxy_max_upstream_per_source,
            max_memory_per_source: self.proxy_max_memory_per_source,
            max_streams: self.proxy_max_streams,
            stream_window: narrow(self.proxy_stream_window),
            connection_window: narrow(self.proxy_connection_window),
            send_buffer: narrow(self.proxy_send_buffer),
            upgrades: self
                .proxy_upgrades
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
        };
        settings.check().map_err(ProxyArgsError)?;
        Ok(settings)
    }
}

/// What does not fit is far above every bound, and refused as such.
fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A size as Kubernetes writes it: `4096`, `60Ki`, `64Mi`, `1Gi`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text.get(digits.len()..) {
        Some("") => 0,
        Some("Ki") => 10,
        Some("Mi") => 20,
        Some("Gi") => 30,
        _ => return Err("not a size like 4096, 60Ki, 64Mi or 1Gi".into()),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".into())
}

/// A duration as Go and Kubernetes write it: `500ms`, `10s`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |_error| "not a duration like 500ms, 10s or 1h30m".to_owned();
    let duration: SignedDuration = text.parse().map_err(wrong)?;
    Duration::try_from(duration).map_err(|_negative| "must not be negative".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Role};
    use super::*;

    fn parsed(flags: &[&str]) -> Result<ProxyArgs, clap::Error> {
        let words = ["weft-agent", "run", "--node", "a"];
        let cli = Cli::try_parse_from(words.iter().chain(flags))?;
        match cli.role {
            Role::Run(args) => Ok(args.proxy),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_flags_the_proxy_has_its_own_defaults() {
        let settings = parsed(&[]).unwrap().settings().unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn every_flag_is_a_setting() {
        let flags = "--proxy-server-name= --proxy-request-timeout=1m30s --proxy-idle-timeout=1h \
             --proxy-header-timeout=500ms --proxy-detect-timeout=2s --proxy-max-header-bytes=4096 \
             --proxy-max-headers=20 --proxy-max-connections=30 --proxy-max-connections-per-source=4 \
             --proxy-max-upstream-per-source=5 --proxy-max-memory-per-source=1Gi \
             --proxy-max-streams=6 --proxy-stream-window=64Ki --proxy-connection-window=2Mi \
             --proxy-send-buffer=32Ki --proxy-upgrades=imap,tls/1.0";
        let flags: Vec<_> = flags.split_whitespace().collect();
        let settings = parsed(&flags).unwrap().settings().unwrap();
        let expected = Settings {
            server_name: "".into(),
            request_timeout: Duration::from_secs(90),
            idle_timeout: Duration::from_secs(3600),
            header_timeout: Duration::from_millis(500),
            detect_timeout: Duration::from_secs(2),
            max_header_bytes: 4096,
            max_headers: 20,
            max_connections: 30,
            max_connections_per_source: 4,
            max_upstream_per_source: 5,
            max_memory_per_source: 1 << 30,
            max_streams: 6,
            stream_window: 64 << 10,
            connection_window: 2 << 20,
            send_buffer: 32 << 10,
            upgrades: ["imap".into(), "tls/1.0".into()].into(),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_impossible_is_refused_by_its_flag() {
        let error = parsed(&["--proxy-max-headers=2"]).unwrap().settings();
        assert_eq!(
            error.unwrap_err().to_string(),
            "--proxy-max-headers (or WEFT_PROXY_MAX_HEADERS): must be from 8 to 1024, not 2"
        );
        for flags in [
            "--proxy-idle-timeout=0s",
            "--proxy-stream-window=9999Gi",
            "--proxy-upgrades=h2c",
        ] {
            let error = parsed(&[flags]).unwrap().settings().unwrap_err();
            let flag = flags.split('=').next().unwrap();
            assert!(error.to_string().starts_with(flag), "{error}");
        }
        for flags in [
            "--proxy-idle-timeout=5",
            "--proxy-idle-timeout=-1s",
            "--proxy-send-buffer=1MB",
            "--proxy-send-buffer=Ki",
            "--proxy-max-memory-per-source=99999999999Gi",
        ] {
            let error = parsed(&[flags]).unwrap_err().to_string();
            assert!(error.contains(flags.split('=').next().unwrap()), "{error}");
        }
    }
}
