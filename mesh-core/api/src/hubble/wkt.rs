//! Well-known protobuf types with exactly the JSON that the protocol's clients
//! print and read.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANOS: i32 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A point in time, UTC, since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest, counted forward: 0 to 999 999 999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    #[must_use]
    pub fn from_unix_nanos(nanos: u64) -> Self {
        let nanos_per_second = u64::from(NANOS.unsigned_abs());
        Self {
            seconds: i64::try_from(nanos / nanos_per_second).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos % nanos_per_second).unwrap_or(0),
        }
    }

    /// Nanoseconds since 1970; 0 for anything earlier, saturating.
    #[must_use]
    pub fn unix_nanos(&self) -> u64 {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        let rest = u64::try_from(self.nanos).unwrap_or(0);
        seconds
            .saturating_mul(u64::from(NANOS.unsigned_abs()))
            .saturating_add(rest)
    }

    /// Whether clients would accept it: years 1 to 9999, nanoseconds in range.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (-62_135_596_800..=253_402_300_799).contains(&self.seconds)
            && (0..NANOS).contains(&self.nanos)
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        }
    }
}

impl From<pbjson_types::Timestamp> for Timestamp {
    fn from(time: pbjson_types::Timestamp) -> Self {
        Self {
            seconds: time.seconds,
            nanos: time.nanos,
        }
    }
}

/// A calendar date of the proleptic Gregorian calendar.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// Days since 1970 to a date, by counting in eras of 400 years from March on,
/// which puts the leap day at the end of the year.
fn date_of_days(days: i64) -> Date {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
    }
}

/// The inverse of [`date_of_days`].
fn days_of_date(date: &Date) -> i64 {
    let year = date.year - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (date.month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + date.day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with 0, 3, 6 or 9 decimals, whichever is enough.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let date = date_of_days(self.seconds.div_euclid(DAY));
        let time = self.seconds.rem_euclid(DAY);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            date.year,
            date.month,
            date.day,
            time / 3_600,
            time / 60 % 60,
            time % 60
        )?;
        match self.nanos {
            0 => {}
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000)?,
            n if n % 1_000 == 0 => write!(f, ".{:06}", n / 1_000)?,
            n => write!(f, ".{n:09}")?,
        }
        f.write_str("Z")
    }
}

/// The text is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time: {0:?}")]
pub struct NotATime(String);

impl std::str::FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rfc3339(text).ok_or_else(|| NotATime(text.to_owned()))
    }
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    let at = |index: usize, wanted: &str| {
        text.get(index..index + 1)?
            .eq_ignore_ascii_case(wanted)
            .then_some(())
    };
    at(4, "-")?;
    at(7, "-")?;
    at(10, "T")?;
    at(13, ":")?;
    at(16, ":")?;
    let date = Date {
        year: digits(0, 4)?,
        month: digits(5, 7)?,
        day: digits(8, 10)?,
    };
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let in_range = (1..=12).contains(&date.month)
        && (1..=31).contains(&date.day)
        && hour < 24
        && minute < 60
        && second < 60;
    let back = date_of_days(days_of_date(&date));
    if !in_range || back.day != date.day {
        return None;
    }
    let (nanos, zone) = fraction(text.get(19..)?)?;
    let seconds = days_of_date(&date) * DAY + hour * 3_600 + minute * 60 + second - offset(zone)?;
    Some(Timestamp { seconds, nanos })
}

/// Nanoseconds of a leading `.123`, and what follows it.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let (digits, zone) = rest.split_at_checked(end)?;
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    format!("{digits:0<9}")
        .parse()
        .ok()
        .map(|nanos| (nanos, zone))
}

/// Seconds east of UTC of `Z` or `+01:30`.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.get(0..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60)
        .then(|| sign * (i64::from(hours) * 3_600 + i64::from(minutes) * 60))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_valid() {
            return Err(S::Error::custom("time out of range"));
        }
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Field paths of a message, `source.pod_name`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FieldMask {
    /// In the message's own field names.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

impl Serialize for FieldMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.paths.join(","))
    }
}

impl<'de> Deserialize<'de> for FieldMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let paths = text.split(',').filter(|path| !path.is_empty());
        Ok(Self {
            paths: paths.map(str::to_owned).collect(),
        })
    }
}

/// A message of a type that only its users know; passed through.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message, Serialize, Deserialize)]
pub struct Any {
    /// `type.googleapis.com/package.Message`.
    #[prost(string, tag = "1")]
    #[serde(rename = "@type")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(default, skip)]
    pub value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_with_as_many_decimals_as_they_need() {
        let at = |seconds, nanos| Timestamp { seconds, nanos }.to_string();
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_723_442_939, 855_000_000), "2024-08-12T06:08:59.855Z");
        assert_eq!(at(1_709_164_800, 1_000), "2024-02-29T00:00:00.000001Z");
        assert_eq!(at(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn times_are_read_back_whatever_the_zone() {
        for seconds in [
            -62_135_596_800,
            -1,
            0,
            951_782_400,
            1_723_442_939,
            253_402_300_799,
        ] {
            let time = Timestamp {
                seconds,
                nanos: 120_000_000,
            };
            assert_eq!(time.to_string().parse(), Ok(time));
        }
        assert_eq!(
            "2024-08-12T08:08:59+02:00".parse::<Timestamp>(),
            "2024-08-12T06:08:59Z".parse::<Timestamp>()
        );
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2024-08-12T06:08:59",
            "2024-08-12 06:08",
            "2024-08-12T06:08:59.Z",
            "x024-08-12T06:08:59Z",
            "2024-08-12T06:08:59+0200",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
