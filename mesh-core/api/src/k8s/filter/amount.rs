//! Amounts as manifests write them: `5ms`, `32Mi`, `8000-8080`.

use std::time::Duration;

use weft_core::policy::PortRange;

use super::spec::IntOrText;

/// A duration as Go writes it: `1m30s`, `1.5s`, `500us`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 5ms, 1.5s or 1m30s");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let numeric = |char: char| char.is_ascii_digit() || char == '.';
        let unit_at = rest.find(|char| !numeric(char)).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(unit_at);
        let next = behind.find(numeric).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(next);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = behind;
    }
    Ok(sum)
}

/// Whole bytes, or a quantity of them: `65536`, `64Ki`, `1M`.
pub(super) fn bytes(value: &IntOrText) -> Result<u64, String> {
    let text = match value {
        IntOrText::Int(number) => {
            return u64::try_from(*number).map_err(|_| format!("{number} is negative"));
        }
        IntOrText::Text(text) => text,
    };
    let wrong = || format!("`{text}` is no quantity of bytes: write 65536, 64Ki or 1Mi");
    let unit_at = text
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A port, or a range of them.
pub(super) fn port(value: &IntOrText) -> Result<PortRange, String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!(
            "`{text}` is no port: write a number from 1 to 65535, or a range such as 8000-8080"
        )),
    };
    let text = match value {
        IntOrText::Int(number) => number.to_string(),
        IntOrText::Text(text) => text.clone(),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first.trim())?, number(last.trim())?),
        None => (number(&text)?, number(&text)?),
    };
    if last < first {
        return Err(format!("{last} is below {first}"));
    }
    Ok(PortRange { first, last })
}

/// Sorted, with those that touch made one.
pub(super) fn merged(mut ports: Vec<PortRange>) -> Vec<PortRange> {
    ports.sort_unstable_by_key(|range| (range.first, range.last));
    let mut merged: Vec<PortRange> = Vec::with_capacity(ports.len());
    for range in ports {
        match merged.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> IntOrText {
        IntOrText::Text(text.to_owned())
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        for (written, millis) in [
            ("5ms", 5),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("2000us", 2),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(written), Ok(Duration::from_millis(millis)));
        }
        for wrong in ["", "5", "ms", "5 ms", "5d", "-1s", "1..5s", "1e9999h"] {
            let told = duration(wrong).unwrap_err();
            assert!(told.contains(wrong) && told.contains("5ms"), "{told}");
        }
    }

    #[test]
    fn quantities_are_whole_bytes() {
        for (written, expected) in [
            (text("65536"), 65_536),
            (text("64Ki"), 65_536),
            (text("1M"), 1_000_000),
            (IntOrText::Int(7), 7),
        ] {
            assert_eq!(bytes(&written), Ok(expected));
        }
        for wrong in ["", "Mi", "1.5Mi", "1mi", "-1", "99999999999Gi"] {
            assert!(bytes(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(bytes(&IntOrText::Int(-1)).is_err());
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(port(&IntOrText::Int(80)), Ok(range(80, 80)));
        assert_eq!(port(&text("80")), Ok(range(80, 80)));
        assert_eq!(port(&text("8000-8080")), Ok(range(8000, 8080)));
        for wrong in [
            text("0"),
            text("http"),
            text("1-"),
            text("2-1"),
            IntOrText::Int(65_536),
        ] {
            assert!(port(&wrong).is_err(), "{wrong:?}");
        }
        let ports = vec![range(90, 90), range(80, 85), range(84, 88), range(89, 89)];
        assert_eq!(merged(ports), [range(80, 90)]);
        assert_eq!(
            merged(vec![range(1, 1), range(3, 3)]),
            [range(1, 1), range(3, 3)]
        );
    }
}
