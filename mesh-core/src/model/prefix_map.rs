//! Longest-prefix lookup of addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by address prefix; the longest prefix that holds an address wins.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    /// Whole addresses, by far the most: one probe finds a pod.
    hosts: HashMap<IpAddr, T>,
    prefixes: HashMap<IpNet, T>,
    /// Lengths in use, longest first.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            prefixes: HashMap::new(),
            v4_lengths: Vec::new(),
            v6_lengths: Vec::new(),
        }
    }
}

impl<T> PrefixMap<T> {
    /// Adds a prefix; host bits are ignored. Returns what it replaced.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let prefix = prefix.trunc();
        if prefix.prefix_len() == prefix.max_prefix_len() {
            return self.hosts.insert(prefix.addr(), value);
        }
        let lengths = match prefix {
            IpNet::V4(_) => &mut self.v4_lengths,
            IpNet::V6(_) => &mut self.v6_lengths,
        };
        let length = prefix.prefix_len();
        if let Err(at) = lengths.binary_search_by(|probe| length.cmp(probe)) {
            lengths.insert(at, length);
        }
        self.prefixes.insert(prefix, value)
    }

    /// The value of the longest prefix that holds the address. IPv6 addresses
    /// that map IPv4 ones are looked up as IPv4.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let address = address.to_canonical();
        if let Some(value) = self.hosts.get(&address) {
            return Some(value);
        }
        let lengths = match address {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        lengths.iter().find_map(|length| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes.get(&prefix)
        })
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.hosts.len() + self.prefixes.len()
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> FromIterator<(IpNet, T)> for PrefixMap<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (prefix, value) in entries {
            map.insert(prefix, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_wins() {
        let map: PrefixMap<u32> = [
            ("10.0.0.0/8", 8),
            ("10.1.0.0/16", 16),
            ("10.1.2.3/32", 32),
            ("0.0.0.0/0", 0),
            ("fd00::/8", 108),
        ]
        .into_iter()
        .map(|(net, value)| (net.parse::<IpNet>().unwrap(), value))
        .collect();
        let at = |ip: &str| map.lookup(ip.parse().unwrap()).copied();
        assert_eq!(at("10.1.2.3"), Some(32));
        assert_eq!(at("10.1.2.4"), Some(16));
        assert_eq!(at("10.2.2.4"), Some(8));
        assert_eq!(at("11.2.2.4"), Some(0));
        assert_eq!(at("fd00::1"), Some(108));
        assert_eq!(at("::ffff:10.1.2.3"), Some(32));
        assert_eq!(at("fe80::1"), None);
    }
}
