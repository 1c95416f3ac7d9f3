//! Ages the way kubectl writes them.

use jiff::Timestamp;
use serde_json::Value;

/// Time since an object was made.
pub(super) fn of(object: &Value, now: Timestamp) -> String {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// Time since a timestamp; `<unknown>` when there is none.
pub(super) fn since(timestamp: &Value, now: Timestamp) -> String {
    let Some(then) = timestamp.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    human(now.as_second() - then.as_second())
}

/// A duration in seconds, in at most two units, the finer one only while it matters.
pub(super) fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_name: &str, small: i64, small_name: &str| {
        let rest = seconds % big / small;
        if rest == 0 {
            format!("{}{big_name}", seconds / big)
        } else {
            format!("{}{big_name}{rest}{small_name}", seconds / big)
        }
    };
    match seconds {
        // Clocks may differ by a moment.
        -1..0 => "0s".to_owned(),
        i64::MIN..-1 => "<invalid>".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(DAY, "d", HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}
