//! Which publication a proxy's answer is about.
//!
//! An answer names a version, and versions come again: a policy that is added,
//! removed and added again makes the same snapshot twice. What was sent in
//! between may be in force between the two.

use std::collections::VecDeque;

/// The publications that were sent on one stream and not answered yet, and the
/// last one that was refused.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    sent: VecDeque<(u64, String)>,
    refused: Option<(u64, String)>,
}

impl Answers {
    /// This is sent now.
    pub(crate) fn sent(&mut self, number: u64, version: &str) {
        self.sent.push_back((number, version.to_owned()));
    }

    /// A version was accepted: returns its number. Answers come in the order in
    /// which snapshots were sent, save that one which was refused because it
    /// could not be stored is accepted later, when it could.
    pub(crate) fn accepted(&mut self, version: &str) -> Option<u64> {
        let answered = self.take(version);
        let refused = self.refused.take();
        answered.or_else(|| {
            let (number, _) = refused.filter(|(_, known)| known == version)?;
            Some(number)
        })
    }

    /// A version was refused. It may be in force all the same.
    pub(crate) fn refused(&mut self, version: &str) {
        if let Some(number) = self.take(version) {
            self.refused = Some((number, version.to_owned()));
        }
    }

    fn take(&mut self, version: &str) -> Option<u64> {
        let at = self.sent.iter().position(|(_, sent)| sent == version)?;
        self.sent.drain(..=at).next_back().map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::Answers;

    fn sent(versions: &[&str]) -> Answers {
        let mut answers = Answers::default();
        for (number, version) in (1..).zip(versions) {
            answers.sent(number, version);
        }
        answers
    }

    #[test]
    fn a_version_that_comes_again_is_answered_twice() {
        let mut answers = sent(&["a", "b", "a"]);
        assert_eq!(answers.accepted("a"), Some(1));
        assert_eq!(answers.accepted("b"), Some(2));
        assert_eq!(answers.accepted("a"), Some(3));
        assert_eq!(answers.accepted("a"), None, "nobody asked");
    }

    #[test]
    fn what_was_refused_may_be_accepted_later() {
        let mut answers = sent(&["a", "b"]);
        answers.refused("a");
        assert_eq!(answers.accepted("a"), Some(1), "stored after all");
        answers.refused("b");
        answers.sent(3, "c");
        assert_eq!(answers.accepted("c"), Some(3));
        assert_eq!(answers.accepted("b"), None, "there is a newer one");
    }
}
