//! Names of headers that a filter writes.

use std::cell::RefCell;

use http::HeaderName;

use crate::headers::{self, Refusal};

/// Names that are kept. A filter writes the same few again and again.
const KEPT: usize = 8;
/// Longest name that is kept.
const MAX_KEPT: usize = 64;

/// Those that an instance has used, so that a name is checked and copied once and not for each
/// request.
#[derive(Debug, Default)]
pub(crate) struct Names(RefCell<Kept>);

#[derive(Debug, Default)]
struct Kept {
    names: Vec<HeaderName>,
    /// The one that makes room for the next.
    oldest: usize,
}

impl Names {
    /// The name that a filter wrote.
    pub(crate) fn name(&self, written: &[u8]) -> Result<HeaderName, Refusal> {
        let mut kept = self.0.borrow_mut();
        let mut names = kept.names.iter();
        if let Some(name) =
            names.find(|name| name.as_str().as_bytes().eq_ignore_ascii_case(written))
        {
            return Ok(name.clone());
        }
        let name = headers::name(written)?;
        if written.len() <= MAX_KEPT {
            kept.keep(name.clone());
        }
        Ok(name)
    }
}

impl Kept {
    fn keep(&mut self, name: HeaderName) {
        match self.names.get_mut(self.oldest) {
            Some(oldest) => *oldest = name,
            None => self.names.push(name),
        }
        self.oldest = (self.oldest + 1) % KEPT;
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Names};

    #[test]
    fn a_name_is_the_same_whether_it_is_kept_or_not() {
        let names = Names::default();
        for round in 0..3 {
            for number in 0..=KEPT {
                let written = format!("x-{number}");
                let name = names.name(written.as_bytes()).expect("a name");
                assert_eq!(name.as_str(), written, "{round}");
            }
        }
        assert_eq!(names.0.borrow().names.len(), KEPT);
        assert_eq!(names.name(b"Host").expect("a name"), "host");
        assert!(names.name(b"no name").is_err());
        assert!(names.name(b"").is_err());
        let names = Names::default();
        for written in ["X-Own", "x-own", "X-OWN"] {
            assert_eq!(names.name(written.as_bytes()).expect("a name"), "x-own");
        }
        assert_eq!(names.0.borrow().names.len(), 1);
        let long = "x".repeat(100);
        assert_eq!(names.name(long.as_bytes()).expect("a name").as_str(), long);
        assert!(
            names
                .0
                .borrow()
                .names
                .iter()
                .all(|name| name.as_str() != long)
        );
    }
}
