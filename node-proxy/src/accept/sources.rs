//! How many connections each source holds open, and whose memory they take.
//!
//! A pod that opens connections without end must run into a limit of its own
//! before it has taken the proxy's descriptors, and with them every other
//! pod's way through it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::memory::Account;

/// The connections of one worker by the address that they came from. Touched
/// when a connection comes and when it goes, by no request.
#[derive(Debug, Default)]
pub struct Sources(RefCell<HashMap<IpAddr, Source>>);

#[derive(Debug)]
struct Source {
    connections: usize,
    account: Arc<Account>,
}

impl Sources {
    /// The memory of `source`, if it has connections here.
    pub fn account(&self, source: IpAddr) -> Option<Arc<Account>> {
        let open = self.0.borrow();
        open.get(&source).map(|one| Arc::clone(&one.account))
    }

    /// Counts one more connection of `source`; `false` when it has `limit`
    /// already.
    pub fn enter(&self, source: IpAddr, account: &Arc<Account>, limit: usize) -> bool {
        let mut open = self.0.borrow_mut();
        let room = open.get(&source).map_or(0, |one| one.connections) < limit;
        if room {
            let one = open.entry(source).or_insert_with(|| Source {
                connections: 0,
                account: Arc::clone(account),
            });
            one.connections += 1;
        }
        room
    }

    /// One connection of `source` has ended.
    pub fn leave(&self, source: IpAddr) {
        let mut open = self.0.borrow_mut();
        if let Some(one) = open.get_mut(&source) {
            one.connections -= 1;
            if one.connections == 0 {
                open.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::Sources;
    use crate::memory::Account;

    #[test]
    fn each_source_has_a_limit_of_its_own_and_none_is_remembered_for_nothing() {
        let [greedy, modest] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let sources = Sources::default();
        let account = Account::unbounded();
        let enter = |source, limit| sources.enter(source, &account, limit);
        assert!(enter(greedy, 2));
        assert!(enter(greedy, 2));
        assert!(!enter(greedy, 2));
        assert!(enter(modest, 2));
        sources.leave(greedy);
        assert!(enter(greedy, 2));
        for source in [greedy, greedy, modest] {
            sources.leave(source);
        }
        assert!(!enter(modest, 0));
        assert!(sources.0.borrow().is_empty());
    }
}
