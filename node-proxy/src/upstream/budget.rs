//! How many connections one source address may hold open.
//!
//! A source address has some ten thousand ports towards one destination; a pod
//! that opens requests without end must run into an answer of its own and not
//! take the ports, descriptors and memory of others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::failure::Failure;
use crate::memory::Held;

/// One per worker.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    open: RefCell<HashMap<Asker, usize>>,
}

/// Who asks: the source address that is kept, and the identity behind it. Where
/// the node's address stands in for every pod's, the identity tells them apart.
type Asker = (Option<IpAddr>, u32);

/// One open connection's share; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Rc<Shared>,
    asker: Asker,
    _memory: Held,
}

impl Budget {
    /// At most `limit` connections for each source.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            shared: Rc::new(Shared {
                limit,
                open: RefCell::default(),
            }),
        }
    }

    /// A share of the connections of `source` and the identity behind it, for
    /// one that takes so much memory.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when it has all of its connections open.
    pub fn take(
        &self,
        source: Option<IpAddr>,
        identity: u32,
        memory: Held,
    ) -> Result<Permit, Failure> {
        let asker = (source, identity);
        let mut open = self.shared.open.borrow_mut();
        let count = open.entry(asker).or_default();
        if *count >= self.shared.limit {
            return Err(Failure::Overloaded("upstream connections of one source"));
        }
        *count += 1;
        Ok(Permit {
            shared: Rc::clone(&self.shared),
            asker,
            _memory: memory,
        })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.borrow().values().sum()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.shared.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::Budget;
    use crate::memory::{Account, Held};

    #[test]
    fn one_source_cannot_take_the_share_of_another() {
        let greedy = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let modest = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let budget = Budget::new(2);
        let account = Account::unbounded();
        let take = |source, identity| budget.take(source, identity, Held::new(&account, 100));
        let first = take(greedy, 1).expect("within the limit");
        let _second = take(greedy, 1).expect("within the limit");
        assert!(take(greedy, 1).is_err());
        let _other = take(modest, 1).expect("a source of its own");
        let _behind = take(greedy, 2).expect("another pod behind it");
        drop(first);
        let _third = take(greedy, 1).expect("one was given back");
        assert_eq!(budget.open(), 4);
        assert_eq!(account.held(), 400);
    }
}
