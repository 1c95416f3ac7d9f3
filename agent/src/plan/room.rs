//! What has to give way where not everything fits.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Something that takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<K> {
    /// Whose it is.
    pub of: K,
    /// How much it takes.
    pub size: usize,
    /// It is not in force yet, or changes.
    pub new: bool,
}

/// Who has to give way so that the rest fits into `room`: what is new before
/// what is in force, and of both the largest first. One that takes a lot cannot
/// push others out, whether it came before them or after.
pub fn give_way<K: Ord + Copy>(claims: &[Claim<K>], room: usize) -> BTreeSet<K> {
    let mut total: usize = claims.iter().map(|claim| claim.size).sum();
    let mut order: Vec<&Claim<K>> = claims.iter().collect();
    order.sort_unstable_by_key(|claim| (Reverse((claim.new, claim.size)), claim.of));
    let mut leaving = BTreeSet::new();
    for claim in order {
        if total <= room {
            break;
        }
        if claim.size > 0 {
            total -= claim.size;
            leaving.insert(claim.of);
        }
    }
    leaving
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(of: &str, size: usize, new: bool) -> Claim<&str> {
        Claim { of, size, new }
    }

    #[test]
    fn nobody_gives_way_where_there_is_room() {
        let claims = [claim("a", 60, true), claim("b", 40, false)];
        assert_eq!(give_way(&claims, 100), BTreeSet::new());
    }

    #[test]
    fn what_is_new_gives_way_first_and_the_largest_of_it() {
        let claims = [
            claim("old and large", 90, false),
            claim("new and small", 5, true),
            claim("new and large", 30, true),
            claim("nothing", 0, true),
        ];
        assert_eq!(give_way(&claims, 100), BTreeSet::from(["new and large"]));
        let both = BTreeSet::from(["new and large", "new and small"]);
        assert_eq!(give_way(&claims, 90), both);
        let all = BTreeSet::from(["new and large", "new and small", "old and large"]);
        assert_eq!(give_way(&claims, 0), all);
    }
}
