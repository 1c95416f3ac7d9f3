//! Which stretch of the past: number, first or last, since, until.

use std::time::Duration;

use clap::ArgMatches;
use jiff::Timestamp as Instant;
use weft_api::hubble::wkt::Timestamp;

use super::flags::text;
use crate::Error;
use crate::print::time::parse_duration;

/// How many flows without any flag.
const DEFAULT_LAST: u64 = 20;

#[derive(Debug, PartialEq)]
pub(super) struct Selection {
    pub number: u64,
    pub first: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

pub(super) fn selection(matches: &ArgMatches) -> Result<Selection, Error> {
    let number = |name| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let (first, last) = (number("first"), number("last"));
    let (all, follow) = (matches.get_flag("all"), matches.get_flag("follow"));
    for (one, other, conflict) in [
        ("first", "last", first > 0 && last > 0),
        ("first", "all", first > 0 && all),
        ("first", "follow", first > 0 && follow),
        ("last", "all", last > 0 && all),
    ] {
        if conflict {
            return Err(Error::usage(format!(
                "cannot set both --{one} and --{other}"
            )));
        }
    }
    let since = time(matches, "since")?;
    // Whoever follows wants what is still to come.
    let until = if follow {
        None
    } else {
        time(matches, "until")?
    };
    let bounded = since.is_some() || until.is_some() || first > 0;
    let from_server = !matches.contains_id("input-file");
    let number = match (first, last) {
        (0, 0) if bounded => 0,
        (0, 0) if all => u64::MAX,
        (0, 0) if !follow && from_server => DEFAULT_LAST,
        (0, last) => {
            if all && !bounded {
                u64::MAX
            } else {
                last
            }
        }
        (first, _) => first,
    };
    Ok(Selection {
        number,
        first: first > 0,
        since,
        until,
    })
}

fn time(matches: &ArgMatches, name: &str) -> Result<Option<Timestamp>, Error> {
    let given = text(matches, name);
    if given.is_empty() {
        return Ok(None);
    }
    parse(given, Instant::now()).map(Some).ok_or_else(|| {
        Error::usage(format!(
            "failed to parse the {name} time: failed to convert {given} to time"
        ))
    })
}

/// A duration before `now`, or a date.
fn parse(given: &str, now: Instant) -> Option<Timestamp> {
    let (sign, ago) = given
        .strip_prefix('-')
        .map_or((-1, given), |rest| (1, rest));
    let instant = match parse_duration(ago) {
        Ok(ago) => shifted(now, sign, ago)?,
        Err(_) => date(given)?,
    };
    Some(Timestamp {
        seconds: instant.as_second(),
        nanos: instant.subsec_nanosecond(),
    })
}

fn shifted(now: Instant, sign: i64, by: Duration) -> Option<Instant> {
    let by = jiff::SignedDuration::try_from(by).ok()?;
    let by = if sign < 0 { by.checked_neg()? } else { by };
    now.checked_add(by).ok()
}

/// RFC 3339, also cut short after the minute, the hour or the day, or RFC 1123
/// with a numeric zone.
fn date(given: &str) -> Option<Instant> {
    if let Ok(full) = given.parse::<Instant>() {
        return Some(full);
    }
    if let Ok(mail) = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S %z", given) {
        return mail.to_timestamp().ok();
    }
    let day = given.get(..10)?;
    let rest = given.get(10..)?;
    if rest.is_empty() {
        return format!("{day}T00:00:00Z").parse().ok();
    }
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let clock = match clock.len() {
        3 => format!("{clock}:00:00"),
        6 => format!("{clock}:00"),
        _ => return None,
    };
    format!("{day}{clock}{zone}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(given: &str) -> Option<String> {
        let now: Instant = "2025-03-14T14:37:59.5Z".parse().unwrap();
        parse(given, now).map(|time| time.to_string())
    }

    #[test]
    fn durations_count_back_from_now() {
        assert_eq!(at("1h37m"), Some("2025-03-14T13:00:59.500Z".into()));
        assert_eq!(at("500ms"), Some("2025-03-14T14:37:59Z".into()));
        assert_eq!(at("-1m"), Some("2025-03-14T14:38:59.500Z".into()));
    }

    #[test]
    fn dates_may_be_cut_short() {
        for (given, wanted) in [
            ("2024-08-01", "2024-08-01T00:00:00Z"),
            ("2024-08-01T05Z", "2024-08-01T05:00:00Z"),
            ("2024-08-01T05:06+02:00", "2024-08-01T03:06:00Z"),
            ("2024-08-01T05:06:07.25Z", "2024-08-01T05:06:07.250Z"),
            ("Thu, 01 Aug 2024 05:06:07 +0100", "2024-08-01T04:06:07Z"),
        ] {
            assert_eq!(at(given).as_deref(), Some(wanted), "{given}");
        }
        assert_eq!(at("yesterday"), None);
        assert_eq!(at("2024-08-01T05:06"), None, "a time needs its zone");
    }
}
