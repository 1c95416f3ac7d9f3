//! What has to give way where not everything fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use weft_core::policy::{EndpointPolicy, PortPolicy};

use super::policies::{Compiled, Shared};

/// Bytes of tables that all expressions of a node may need: what the proxy keeps
/// of them.
pub(crate) const HTTP_TABLES: usize = 256 << 20;

/// What the proxy judges, by endpoint number.
pub type PortsByEndpoint = BTreeMap<u32, Vec<PortPolicy>>;

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

impl Compiled {
    /// Closes the HTTP rules of endpoints for which a snapshot has no room: all
    /// of them together may take `room` bytes, and their expressions
    /// [`HTTP_TABLES`] in the proxy. `in_force` are the ports of the last
    /// snapshot that was published.
    pub fn make_room(&mut self, room: usize, in_force: &PortsByEndpoint) {
        let changes = |id: &u32, policy: &EndpointPolicy| {
            let before = in_force.get(id);
            !before.is_some_and(|ports| alike(ports, &policy.ports))
        };
        let bytes = self.policies.iter().map(|(id, policy)| Claim {
            of: *id,
            size: policy.http_load.bytes,
            new: changes(id, policy),
        });
        let mut leaving = give_way(&bytes.collect::<Vec<_>>(), room);
        // Endpoints with the same rules share the tables for them.
        let tables = self.subjects.values().filter_map(|shared| {
            let mut endpoints = shared.endpoints.iter();
            Some(Claim {
                of: first(shared)?,
                size: shared.policy.http_load.tables,
                new: endpoints.all(|id| changes(id, &shared.policy)),
            })
        });
        let crowding = give_way(&tables.collect::<Vec<_>>(), HTTP_TABLES);
        let shared = self.subjects.values();
        let crowding = shared.filter(|one| first(one).is_some_and(|id| crowding.contains(&id)));
        leaving.extend(crowding.flat_map(|shared| &shared.endpoints));
        for id in &leaving {
            if let Some(policy) = self.policies.get_mut(id) {
                policy.close_http();
            }
        }
        self.no_room = leaving;
    }
}

/// The endpoint that stands for all with the same rules.
fn first(shared: &Shared) -> Option<u32> {
    shared.endpoints.first().copied()
}

/// Whether the same is judged, for whichever endpoint.
fn alike(one: &[PortPolicy], other: &[PortPolicy]) -> bool {
    let what = |port: &PortPolicy| (port.direction, port.first, port.last, port.rules.clone());
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| what(a) == what(b))
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
