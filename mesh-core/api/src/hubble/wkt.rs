//! Well-known protobuf types with exactly the JSON that the protocol's clients
//! print and read.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANOS: i32 = 1_000_000_000;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

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

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with 0, 3, 6 or 9 decimals, whichever is enough.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = SignedDuration::from_secs(self.seconds);
        match EPOCH.checked_add(since) {
            Ok(time) => write!(f, "{}", time.strftime("%Y-%m-%dT%H:%M:%S"))?,
            // No calendar goes there; never valid.
            Err(_) => return write!(f, "{} s since 1970", self.seconds),
        }
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

/// Date, time and offset; without an offset it could be any time of the day.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.to_numeric_offset()?;
    let local = pieces.date().to_datetime(pieces.time()?);
    let since = local.duration_since(EPOCH);
    // What is left of a second counts forward, before 1970 too.
    let early = since.subsec_nanos() < 0;
    Some(Timestamp {
        seconds: since.as_secs() - i64::from(offset.seconds()) - i64::from(early),
        nanos: since.subsec_nanos() + if early { NANOS } else { 0 },
    })
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
            "2024-08-12T06:08:59Zulu",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
