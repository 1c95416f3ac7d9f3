//! How many connections each source holds open.
//!
//! A pod that opens connections without end must run into a limit of its own
//! before it has taken the proxy's descriptors, and with them every other
//! pod's way through it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

/// The connections of one worker by the address that they came from. Touched
/// when a connection comes and when it goes, by no request.
#[derive(Debug, Default)]
pub struct Sources(RefCell<HashMap<IpAddr, usize>>);

impl Sources {
    /// Counts one more connection of `source`; `false` when it has `limit`
    /// already.
    pub fn enter(&self, source: IpAddr, limit: usize) -> bool {
        let mut open = self.0.borrow_mut();
        let count = open.entry(source).or_default();
        let room = *count < limit;
        if room {
            *count += 1;
        } else if *count == 0 {
            open.remove(&source);
        }
        room
    }

    /// One connection of `source` has ended.
    pub fn leave(&self, source: IpAddr) {
        let mut open = self.0.borrow_mut();
        if let Some(count) = open.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::Sources;

    #[test]
    fn each_source_has_a_limit_of_its_own_and_none_is_remembered_for_nothing() {
        let [greedy, modest] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let sources = Sources::default();
        assert!(sources.enter(greedy, 2));
        assert!(sources.enter(greedy, 2));
        assert!(!sources.enter(greedy, 2));
        assert!(sources.enter(modest, 2));
        sources.leave(greedy);
        assert!(sources.enter(greedy, 2));
        for source in [greedy, greedy, modest] {
            sources.leave(source);
        }
        assert!(!sources.enter(modest, 0));
        assert!(sources.0.borrow().is_empty());
    }
}
