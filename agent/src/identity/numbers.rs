//! The numbers that label sets have in the cluster.

use std::collections::{BTreeMap, HashMap};

use weft_core::model::{Labels, NumericIdentity};

/// Which number stands for which labels, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    by_labels: HashMap<Labels, NumericIdentity>,
    by_number: BTreeMap<NumericIdentity, Labels>,
}

impl Numbers {
    /// Of these identities. Should two carry the same labels, every node takes
    /// the one that comes first in the order of trying.
    pub fn new(identities: impl IntoIterator<Item = (NumericIdentity, Labels)>) -> Self {
        let mut numbers = Self::default();
        for (id, labels) in identities {
            numbers.insert(id, labels);
        }
        numbers
    }

    fn insert(&mut self, id: NumericIdentity, labels: Labels) {
        let taken = self.by_labels.get(&labels).copied().unwrap_or(id);
        let chosen = if taken == id {
            id
        } else {
            NumericIdentity::candidates(&labels)
                .find(|candidate| [taken, id].contains(candidate))
                .unwrap_or(taken)
        };
        self.by_labels.insert(labels.clone(), chosen);
        self.by_number.insert(id, labels);
    }

    /// The number of these labels.
    pub fn of(&self, labels: &Labels) -> Option<NumericIdentity> {
        self.by_labels.get(labels).copied()
    }

    /// The labels of this number.
    pub fn labels(&self, id: NumericIdentity) -> Option<&Labels> {
        self.by_number.get(&id)
    }

    /// All numbers with their labels.
    pub fn iter(&self) -> impl Iterator<Item = (NumericIdentity, &Labels)> {
        self.by_number.iter().map(|(id, labels)| (*id, labels))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_objects_with_the_same_labels_all_nodes_take_the_same() {
        let labels = Labels::parse_all(["k8s:app=a"]).expect("labels");
        let nth = |n| {
            NumericIdentity::candidates(&labels)
                .nth(n)
                .expect("a number")
        };
        let (early, late) = (nth(3), nth(60000));
        for order in [[early, late], [late, early]] {
            let numbers = Numbers::new(order.map(|id| (id, labels.clone())));
            assert_eq!(numbers.of(&labels), Some(early));
            assert_eq!(numbers.labels(late), Some(&labels));
        }
    }
}
