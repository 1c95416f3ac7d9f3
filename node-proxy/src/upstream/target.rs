//! Where a request goes, and from which address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is spoken with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a pooled connection.
    Http1,
    /// HTTP/2 with prior knowledge, many requests on one connection.
    Http2,
}

/// One upstream as one source sees it: the key of the pools.
///
/// The source's port is not part of it: keeping ports would mean one upstream
/// connection for each downstream one, and an `EADDRNOTAVAIL` for each port
/// that the pod still holds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Address to bind, which may be a pod's; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Identity of who asks. A connection that was opened for one pod, and
    /// admitted as that pod's, must not carry requests of another one that
    /// has its address now.
    pub identity: u32,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Longest wait for the handshake.
    pub connect_timeout: Duration,
}

impl Hash for Target {
    /// Feeds few and large words: each request looks its target up twice.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(bits(self.address.ip()));
        state.write_u128(self.source.map_or(0, bits));
        let protocol = u64::from(self.protocol == Protocol::Http2);
        let port = u64::from(self.address.port());
        state.write_u64(u64::from(self.identity) << 32 | port << 16 | protocol);
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Something for each target.
pub type ByTarget<T> = HashMap<Target, T, Folds>;

/// Makes a [`Fold`] for a map of a worker. The standard library's hasher costs
/// as much as judging a request does. What keeps a pod from choosing addresses
/// that collide is the secret that each map starts from.
#[derive(Debug, Clone)]
pub struct Folds(u64);

impl Default for Folds {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Folds {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold(self.0)
    }
}

/// Hashes by folded multiplication: the halves of each product are added
/// without carry, so that every bit of a word reaches every bit of the hash.
#[derive(Debug)]
pub struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // An odd number without structure: the golden ratio's fraction.
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word) * FACTOR;
        self.0 = (product ^ (product >> 64)) as u64;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::{Folds, Protocol, Target};

    fn target(address: u32, port: u16) -> Target {
        Target {
            address: SocketAddr::from((Ipv4Addr::from(address), port)),
            source: Some(IpAddr::V4(Ipv4Addr::from(0x0af4_0001))),
            identity: 1000,
            protocol: Protocol::Http1,
            connect_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn neighbours_spread_over_a_map() {
        let folds = Folds::default();
        let hash = |address, port| folds.hash_one(target(address, port));
        // A map takes its place from the low bits and a tag from the high ones.
        for shift in [0, 52] {
            let ports: HashSet<_> = (0..4096).map(|n| hash(1, n) >> shift & 0xfff).collect();
            let pods: HashSet<_> = (0..4096).map(|n| hash(n, 80) >> shift & 0xfff).collect();
            // A random function of 4,096 values hits 2,589 of 4,096 places.
            assert!(ports.len() > 2300, "{} places for ports", ports.len());
            assert!(pods.len() > 2300, "{} places for pods", pods.len());
        }
    }

    #[test]
    fn all_that_tells_targets_apart_is_hashed() {
        let folds = Folds::default();
        let one = target(1, 80);
        let others = [
            Target {
                address: target(2, 80).address,
                ..one
            },
            Target {
                address: target(1, 81).address,
                ..one
            },
            Target {
                source: None,
                ..one
            },
            Target {
                identity: 1001,
                ..one
            },
            Target {
                protocol: Protocol::Http2,
                ..one
            },
        ];
        for other in others {
            assert_ne!(folds.hash_one(one), folds.hash_one(other), "{other:?}");
        }
        assert_eq!(folds.hash_one(one), folds.hash_one(target(1, 80)));
    }
}
