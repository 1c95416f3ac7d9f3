//! Port ranges as prefixes.

use super::PortMatch;

/// All ports that share the leading `length` bits of `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortPrefix {
    /// First port; bits after `length` are zero.
    pub port: u16,
    /// 0 (every port) to 16 (one port).
    pub length: u8,
}

/// The fewest prefixes that together are exactly `first..=last`; none when
/// `first` is above `last`. At most 30.
pub(super) fn port_prefixes(first: u16, last: u16) -> Vec<PortPrefix> {
    let mut prefixes = Vec::new();
    let mut next = u32::from(first);
    let end = u32::from(last);
    while next <= end {
        // As wide as its alignment allows without passing the end.
        let mut bits = next.trailing_zeros().min(16);
        while next + (1 << bits) - 1 > end {
            bits -= 1;
        }
        prefixes.push(PortPrefix {
            port: u16::try_from(next).unwrap_or(u16::MAX),
            length: u8::try_from(16 - bits).unwrap_or(16),
        });
        next += 1 << bits;
    }
    prefixes
}

/// How many keys of the policy map a port or range takes for each peer and
/// protocol.
pub fn port_parts(port: &PortMatch) -> usize {
    match port {
        PortMatch::All | PortMatch::Named(_) => 1,
        PortMatch::Range(range) => port_prefixes(range.first, range.last).len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(prefixes: &[PortPrefix]) -> Vec<u16> {
        let mut ports = Vec::new();
        for prefix in prefixes {
            let size = 1u32 << (16 - u32::from(prefix.length));
            ports.extend(
                (0..size).map(|offset| u16::try_from(u32::from(prefix.port) + offset).unwrap()),
            );
        }
        ports
    }

    #[test]
    fn prefixes_are_exactly_the_range() {
        for (first, last) in [
            (80, 80),
            (0, 65535),
            (1, 65535),
            (65535, 65535),
            (1, 65534),
            (8000, 8999),
            (1024, 2047),
        ] {
            let prefixes = port_prefixes(first, last);
            assert!(prefixes.len() <= 30, "{first}-{last}");
            assert_eq!(covered(&prefixes), (first..=last).collect::<Vec<_>>());
        }
    }

    #[test]
    fn as_few_as_possible() {
        assert_eq!(port_prefixes(0, 65535), [PortPrefix { port: 0, length: 0 }]);
        assert_eq!(port_prefixes(1024, 2047).len(), 1);
        assert_eq!(port_prefixes(81, 80), []);
    }
}
