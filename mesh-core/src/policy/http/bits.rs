//! Small sets of rule numbers.

/// Words kept without the heap: 512 rules.
const INLINE: usize = 8;

/// A set of numbers below a fixed bound. Sets that are combined have the same
/// bound.
#[derive(Clone, Debug)]
pub(super) enum Bits {
    Inline { words: [u64; INLINE], used: usize },
    Heap(Box<[u64]>),
}

impl Bits {
    /// The empty set of numbers below `bound`.
    pub(super) fn empty(bound: usize) -> Self {
        let used = bound.div_ceil(64);
        if used <= INLINE {
            Self::Inline {
                words: [0; INLINE],
                used,
            }
        } else {
            Self::Heap(vec![0; used].into())
        }
    }

    fn words(&self) -> &[u64] {
        match self {
            Self::Inline { words, used } => words.get(..*used).unwrap_or(words),
            Self::Heap(words) => words,
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Inline { words, .. } => words,
            Self::Heap(words) => words,
        }
    }

    pub(super) fn insert(&mut self, number: usize) {
        if let Some(word) = self.words_mut().get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    pub(super) fn unite(&mut self, other: &Self) {
        for (word, more) in self.words_mut().iter_mut().zip(other.words()) {
            *word |= more;
        }
    }

    pub(super) fn intersect(&mut self, other: &Self) {
        for (word, kept) in self.words_mut().iter_mut().zip(other.words()) {
            *word &= kept;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// The numbers in the set, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words().iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    index * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_sets_behave_alike() {
        for bound in [1, 64, 65, 512, 513, 5000] {
            let mut one = Bits::empty(bound);
            let mut two = Bits::empty(bound);
            let last = bound - 1;
            one.insert(0);
            two.insert(last);
            assert_eq!(one.iter().collect::<Vec<_>>(), [0]);
            one.unite(&two);
            let mut both = vec![0, last];
            both.dedup();
            assert_eq!(one.iter().collect::<Vec<_>>(), both);
            one.intersect(&two);
            assert_eq!(one.iter().collect::<Vec<_>>(), [last]);
            assert!(!one.is_empty() && Bits::empty(bound).is_empty());
        }
    }
}
