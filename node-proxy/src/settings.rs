//! Limits and deadlines of the data plane.
//!
//! What a snapshot may set is [`Settings`], with its defaults; what it may not
//! is constant here. Every one of them is on.

use std::time::Duration;

use weft_api::node as wire;
pub use weft_core::snapshot::{Settings, SettingsError};

/// Longest time without a byte of either body. Long enough for streams that
/// send something now and then; HTTP/2 pings do not count.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Longest request target, in bytes; above it 414.
pub const MAX_URI_BYTES: usize = weft_core::filter::target::MAX_URI_BYTES;

/// How long a request whose client has closed its half of the connection may
/// wait for its response.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request that was cut may take to end, before its connection is
/// closed under it.
pub const LINGERING: Duration = Duration::from_secs(1);

/// Longest wait for the handshake with an address that was dialled directly.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a snapshot's settings; unset fields keep their defaults.
///
/// # Errors
/// Names the first field that holds something impossible.
pub fn from_wire(wire: Option<&wire::Settings>) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    let Some(wire) = wire else {
        return Ok(settings);
    };
    if let Some(name) = &wire.server_name {
        settings.server_name = name.as_str().into();
    }
    settings.upgrades = wire
        .upgrades
        .iter()
        .map(|name| &**name)
        .map(Into::into)
        .collect();
    durations(&mut settings, wire)?;
    numbers(&mut settings, wire);
    settings.check()?;
    Ok(settings)
}

fn durations(settings: &mut Settings, wire: &wire::Settings) -> Result<(), SettingsError> {
    let durations = [
        (
            &mut settings.request_timeout,
            "request_timeout",
            &wire.request_timeout,
        ),
        (
            &mut settings.idle_timeout,
            "idle_timeout",
            &wire.idle_timeout,
        ),
        (
            &mut settings.header_timeout,
            "header_timeout",
            &wire.header_timeout,
        ),
        (
            &mut settings.detect_timeout,
            "detect_timeout",
            &wire.detect_timeout,
        ),
    ];
    for (setting, field, value) in durations {
        if let Some(value) = value {
            *setting = duration(value).ok_or_else(|| SettingsError::not_longer(field))?;
        }
    }
    Ok(())
}

fn numbers(settings: &mut Settings, wire: &wire::Settings) {
    let numbers = [
        (&mut settings.max_header_bytes, wire.max_header_bytes),
        (&mut settings.max_headers, wire.max_headers),
        (&mut settings.max_connections, wire.max_connections),
        (
            &mut settings.max_connections_per_source,
            wire.max_connections_per_source,
        ),
        (
            &mut settings.max_upstream_per_source,
            wire.max_upstream_per_source,
        ),
        (&mut settings.max_streams, wire.max_streams),
        (&mut settings.stream_window, wire.stream_window),
        (&mut settings.connection_window, wire.connection_window),
        (&mut settings.send_buffer, wire.send_buffer),
    ];
    for (setting, value) in numbers {
        *setting = value.unwrap_or(*setting);
    }
    let memory = &mut settings.max_memory_per_source;
    *memory = wire.max_memory_per_source.unwrap_or(*memory);
}

/// A duration of the wire; `None` when it is negative, zero or malformed.
#[must_use]
pub fn duration(value: &pbjson_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(value.seconds).ok()?;
    let nanos = u32::try_from(value.nanos).ok()?;
    let duration = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))?;
    (!duration.is_zero()).then_some(duration)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{from_wire, wire};

    #[test]
    fn unset_fields_keep_their_defaults() {
        let wire = wire::Settings {
            max_headers: Some(50),
            ..Default::default()
        };
        let settings = from_wire(Some(&wire)).expect("valid");
        assert_eq!(settings.max_headers, 50);
        assert_eq!(settings.detect_timeout, Duration::from_secs(1));
        let server = settings.server_header().expect("valid").expect("default");
        assert_eq!(server, "envoy");
    }

    #[test]
    fn an_empty_server_name_leaves_the_upstreams() {
        let wire = wire::Settings {
            server_name: Some(String::new()),
            ..Default::default()
        };
        let settings = from_wire(Some(&wire)).expect("valid");
        assert_eq!(settings.server_header().expect("valid"), None);
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let zero = wire::Settings {
            idle_timeout: Some(pbjson_types::Duration::default()),
            ..Default::default()
        };
        assert_eq!(
            from_wire(Some(&zero)).expect_err("zero").field,
            "idle_timeout"
        );
        let unsafe_upgrade = wire::Settings {
            upgrades: vec!["imap".into(), "h2c".into()],
            ..Default::default()
        };
        let error = from_wire(Some(&unsafe_upgrade)).expect_err("no such upgrade");
        assert_eq!(error.field, "upgrades");
        let tiny = wire::Settings {
            max_memory_per_source: Some(1),
            ..Default::default()
        };
        assert_eq!(
            from_wire(Some(&tiny)).expect_err("too small").field,
            "max_memory_per_source"
        );
    }
}
