//! Times and durations as Go programs print and read them.

use std::str::FromStr;
use std::time::Duration;

use weft_api::hubble::wkt::Timestamp;

/// The layouts that `--time-format` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// `Jan _2 15:04:05.000`
    #[default]
    StampMilli,
    /// `2006-01-02`
    YearMonthDay,
    /// `2006-01-02T15Z`
    YearMonthDayHour,
    /// `2006-01-02T15:04Z`
    YearMonthDayHourMinute,
    /// `2006-01-02T15:04:05Z` with up to this many decimals.
    Rfc3339(u8),
    /// `Mon, 02 Jan 2006 15:04:05 +0000`
    Rfc1123Z,
}

impl FromStr for TimeFormat {
    type Err = std::convert::Infallible;

    /// Unknown names mean the default, as they do for the stock client.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "yearmonthday" => Self::YearMonthDay,
            "yearmonthdayhour" => Self::YearMonthDayHour,
            "yearmonthdayhourminute" => Self::YearMonthDayHourMinute,
            "rfc3339" => Self::Rfc3339(0),
            "rfc3339milli" => Self::Rfc3339(3),
            "rfc3339micro" => Self::Rfc3339(6),
            "rfc3339nano" => Self::Rfc3339(9),
            "rfc1123z" => Self::Rfc1123Z,
            _ => Self::StampMilli,
        })
    }
}

impl TimeFormat {
    /// The time in UTC; `N/A` when there is none or it is out of range.
    #[must_use]
    pub fn format(self, time: Option<&Timestamp>) -> String {
        let valid = time.filter(|time| time.is_valid());
        let instant = valid.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
        let Some(instant) = instant else {
            return "N/A".to_owned();
        };
        let layout = match self {
            Self::StampMilli => "%b %e %H:%M:%S.%3f",
            Self::YearMonthDay => "%Y-%m-%d",
            Self::YearMonthDayHour => "%Y-%m-%dT%HZ",
            Self::YearMonthDayHourMinute => "%Y-%m-%dT%H:%MZ",
            Self::Rfc3339(_) => "%Y-%m-%dT%H:%M:%S",
            Self::Rfc1123Z => "%a, %d %b %Y %H:%M:%S +0000",
        };
        let text = instant.strftime(layout).to_string();
        match self {
            Self::Rfc3339(decimals) => {
                format!("{text}{}Z", fraction(instant.subsec_nanosecond(), decimals))
            }
            _ => text,
        }
    }
}

/// Cut off after so many decimals, without zeros at the end.
fn fraction(nanos: i32, decimals: u8) -> String {
    let all = format!("{nanos:09}");
    let digits = all.get(..usize::from(decimals)).unwrap_or_default();
    match digits.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    }
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads `1h43m`, `1.5s`, `0`.
///
/// # Errors
/// When the text is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(unit_at);
        let next = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next);
        let (_, nanos) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(invalid)?;
        let part = scaled(number, *nanos).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(total)
}

/// `12.5` of a unit of so many nanoseconds.
fn scaled(number: &str, unit: u64) -> Option<Duration> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && decimals.is_empty() || decimals.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in decimals.chars().map(|c| c.to_digit(10)) {
        place /= 10;
        nanos = nanos.checked_add(place * u64::from(digit?))?;
    }
    Some(Duration::from_nanos(nanos))
}

/// `1h2m3.5s`, `2.5ms`, `0s`.
#[must_use]
pub fn show_duration(nanos: u64) -> String {
    let with_decimals = |unit: u64, name: &str| {
        let all = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        match all.trim_end_matches('0') {
            "" => format!("{}{name}", nanos / unit),
            decimals => format!("{}.{decimals}{name}", nanos / unit),
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => with_decimals(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => with_decimals(1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = show_seconds(nanos % 60_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn show_seconds(nanos: u64) -> String {
    let decimals = format!("{:09}", nanos % 1_000_000_000);
    match decimals.trim_end_matches('0') {
        "" => format!("{}s", nanos / 1_000_000_000),
        decimals => format!("{}.{decimals}s", nanos / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let time = Timestamp {
            seconds: 1_722_488_767,
            nanos: 120_456_000,
        };
        let show = |name: &str| name.parse::<TimeFormat>().unwrap().format(Some(&time));
        assert_eq!(show("StampMilli"), "Aug  1 05:06:07.120");
        assert_eq!(show("YearMonthDay"), "2024-08-01");
        assert_eq!(show("YearMonthDayHour"), "2024-08-01T05Z");
        assert_eq!(show("YearMonthDayHourMinute"), "2024-08-01T05:06Z");
        assert_eq!(show("RFC3339"), "2024-08-01T05:06:07Z");
        assert_eq!(show("RFC3339Milli"), "2024-08-01T05:06:07.12Z");
        assert_eq!(show("RFC3339Micro"), "2024-08-01T05:06:07.120456Z");
        assert_eq!(show("RFC1123Z"), "Thu, 01 Aug 2024 05:06:07 +0000");
        assert_eq!(TimeFormat::StampMilli.format(None), "N/A");
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("1h43m"), Ok(Duration::from_secs(6_180)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration(".5ms"), Ok(Duration::from_micros(500)));
        for bad in ["", "1", "1h43", "s", "1.2.3s", "1d", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown() {
        for (nanos, shown) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5\u{b5}s"),
            (2_050_000, "2.05ms"),
            (1_000_000_000, "1s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(show_duration(nanos), shown);
        }
    }
}
