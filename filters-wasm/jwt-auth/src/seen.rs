//! Tokens that were found valid.

use std::collections::HashMap;

use weft_sdk::prelude::Rc;

/// Beyond this the ones that expire first are forgotten.
const MAX_SEEN: usize = 1024;

/// What is done for a request with a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// From this second on it is examined again.
    pub(crate) until: u64,
    pub(crate) subject: Option<String>,
    /// Headers that are sent on.
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Default)]
pub(crate) struct Seen(HashMap<String, Rc<Accepted>>);

impl Seen {
    pub(crate) fn get(&mut self, token: &str, now: u64) -> Option<Rc<Accepted>> {
        let accepted = self.0.get(token)?;
        if now < accepted.until {
            return Some(accepted.clone());
        }
        self.0.remove(token);
        None
    }

    pub(crate) fn insert(&mut self, token: &str, accepted: Rc<Accepted>, now: u64) {
        if self.0.len() >= MAX_SEEN {
            self.0.retain(|_, accepted| now < accepted.until);
        }
        if self.0.len() >= MAX_SEEN {
            let mut times: Vec<u64> = self.0.values().map(|accepted| accepted.until).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_SEEN / 2);
            let middle = *middle;
            self.0.retain(|_, accepted| accepted.until > middle);
        }
        self.0.insert(token.to_owned(), accepted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(until: u64) -> Rc<Accepted> {
        Rc::new(Accepted {
            until,
            subject: None,
            headers: Vec::new(),
        })
    }

    #[test]
    fn a_token_is_remembered_until_it_expires() {
        let mut seen = Seen::default();
        seen.insert("a", until(10), 0);
        assert_eq!(seen.get("a", 9), Some(until(10)));
        assert_eq!(seen.get("a", 10), None);
        assert_eq!(seen.get("b", 0), None);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut seen = Seen::default();
        for number in 0..5 * MAX_SEEN as u64 {
            seen.insert(&number.to_string(), until(1000 + number), 0);
            assert!(seen.0.len() <= MAX_SEEN);
        }
        let last = (5 * MAX_SEEN - 1).to_string();
        assert!(seen.get(&last, 0).is_some());
        // The same time for all of them.
        let mut seen = Seen::default();
        for number in 0..2 * MAX_SEEN {
            seen.insert(&number.to_string(), until(5), 0);
            assert!(seen.0.len() <= MAX_SEEN);
        }
    }
}
