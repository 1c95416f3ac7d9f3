//! What has to give way where not everything fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use weft_core::model::{LabelSource, Labels, NAMESPACE_LABEL};
use weft_core::policy::{Bounded, EndpointPolicy, Excess, PortPolicy};

use super::policies::{Compiled, KernelEntries, Shared};

/// Bytes of tables that all expressions of a node may need: what the proxy keeps
/// of them.
pub(crate) const HTTP_TABLES: usize = 256 << 20;

/// What the proxy judges, by endpoint number.
pub type PortsByEndpoint = BTreeMap<u32, Vec<PortPolicy>>;

/// Something that takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a, K> {
    /// Whose it is.
    pub of: K,
    /// The namespace on whose account; empty for the cluster's.
    pub tenant: &'a str,
    /// How much it takes.
    pub size: usize,
    /// It is not in force yet, or changes.
    pub new: bool,
}

/// Who has to give way so that the rest fits into `room`: always somebody of the
/// tenant that takes most, whether it came before the others or after. Whoever
/// takes no more than an equal share of the room loses nothing to the others.
///
/// Of one tenant what is new gives way before what is in force, and of both the
/// largest first.
pub fn give_way<K: Ord + Copy>(claims: &[Claim<'_, K>], room: usize) -> BTreeSet<K> {
    let mut tenants: BTreeMap<&str, Vec<&Claim<'_, K>>> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim.size > 0) {
        tenants.entry(claim.tenant).or_default().push(claim);
    }
    // The last one of each is the next to give way; and of the tenants the
    // greatest by what it takes. Of equals whose next one is new.
    let next_is_new = |of: &[&Claim<'_, K>]| of.last().is_some_and(|claim| claim.new);
    let (mut total, mut order) = (0, BinaryHeap::new());
    for (name, of) in &mut tenants {
        of.sort_unstable_by_key(|claim| (claim.new, claim.size, Reverse(claim.of)));
        let takes = of.iter().map(|claim| claim.size).sum::<usize>();
        total += takes;
        order.push((takes, next_is_new(of), Reverse(*name)));
    }
    let mut leaving = BTreeSet::new();
    while total > room
        && let Some((takes, _, Reverse(name))) = order.pop()
    {
        let Some(of) = tenants.get_mut(name) else {
            continue;
        };
        if let Some(claim) = of.pop() {
            total -= claim.size;
            leaving.insert(claim.of);
            order.push((takes - claim.size, next_is_new(of), Reverse(name)));
        }
    }
    leaving
}

/// The namespace of the pods with these labels.
pub fn tenant(labels: &Labels) -> &str {
    let label = labels.get(LabelSource::K8s, NAMESPACE_LABEL);
    label.map_or("", |label| label.value())
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
        let (mut bytes, mut tables) = (Vec::new(), Vec::new());
        for (key, shared) in &self.subjects {
            let tenant = tenant(&key.labels);
            for id in &shared.endpoints {
                let policy = self.policies.get(id).unwrap_or(&shared.policy);
                bytes.push(Claim {
                    of: *id,
                    tenant,
                    size: policy.http_load.bytes,
                    new: changes(id, policy),
                });
            }
            // Endpoints with the same rules share the tables for them.
            let mut endpoints = shared.endpoints.iter();
            tables.extend(first(shared).map(|of| Claim {
                of,
                tenant,
                size: shared.policy.http_load.tables,
                new: endpoints.all(|id| changes(id, &shared.policy)),
            }));
        }
        let mut leaving = give_way(&bytes, room);
        let crowding = give_way(&tables, HTTP_TABLES);
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

    /// Denies everything to endpoints for whose entries the kernel's map has no
    /// room, of `room` for all of them. It holds those that are `held`.
    pub(super) fn fit_map(&mut self, room: usize, held: &KernelEntries) {
        let mut claims = Vec::new();
        for (key, shared) in &self.subjects {
            let size = shared.policy.entries.len();
            claims.extend(shared.endpoints.iter().map(|id| Claim {
                of: *id,
                tenant: tenant(&key.labels),
                size,
                new: held.get(id).is_none_or(|held| held.len() < size),
            }));
        }
        let leaving = give_way(&claims, room);
        let mut takes: BTreeMap<&str, usize> = BTreeMap::new();
        for claim in &claims {
            *takes.entry(claim.tenant).or_default() += claim.size;
        }
        for claim in claims.iter().filter(|claim| leaving.contains(&claim.of)) {
            let Some(policy) = self.policies.get_mut(&claim.of) else {
                continue;
            };
            policy.close();
            let takes = takes.get(claim.tenant).copied().unwrap_or_default();
            policy.excess = vec![Excess {
                of: Bounded::NodeEntries,
                limit: room,
                most: Some((format!("namespace {}", claim.tenant), takes)),
            }];
        }
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
    use proptest::prelude::*;

    use super::*;

    fn claim<'a>(tenant: &'a str, of: &'a str, size: usize, new: bool) -> Claim<'a, &'a str> {
        Claim {
            of,
            tenant,
            size,
            new,
        }
    }

    #[test]
    fn nobody_gives_way_where_there_is_room() {
        let claims = [claim("x", "a", 60, true), claim("x", "b", 40, false)];
        assert_eq!(give_way(&claims, 100), BTreeSet::new());
    }

    #[test]
    fn of_one_tenant_what_is_new_gives_way_first_and_the_largest_of_it() {
        let claims = [
            claim("x", "old and large", 90, false),
            claim("x", "new and small", 5, true),
            claim("x", "new and large", 30, true),
            claim("x", "nothing", 0, true),
        ];
        assert_eq!(give_way(&claims, 100), BTreeSet::from(["new and large"]));
        let both = BTreeSet::from(["new and large", "new and small"]);
        assert_eq!(give_way(&claims, 90), both);
        let all = BTreeSet::from(["new and large", "new and small", "old and large"]);
        assert_eq!(give_way(&claims, 0), all);
    }

    #[test]
    fn a_tenant_that_takes_most_makes_room_for_newcomers() {
        let claims = [
            claim("greedy", "a", 50, false),
            claim("greedy", "b", 40, false),
            claim("small", "c", 30, true),
        ];
        assert_eq!(give_way(&claims, 100), BTreeSet::from(["a"]));
        // Of two that take the same the newcomer gives way.
        let claims = [claim("late", "a", 60, true), claim("early", "b", 60, false)];
        assert_eq!(give_way(&claims, 100), BTreeSet::from(["a"]));
    }

    /// Sizes, and whether each is new, of two tenants.
    fn two() -> impl Strategy<Value = [Vec<(usize, bool)>; 2]> {
        let list = || prop::collection::vec((0_usize..50, any::<bool>()), 0..12);
        [list(), list()]
    }

    proptest! {
        #[test]
        fn the_rest_fits_and_nobody_within_a_fair_share_gives_way(
            tenants in two(),
            room in 0_usize..400,
        ) {
            let sizes = tenants.iter().zip(["one", "other"]).flat_map(|(list, tenant)| {
                list.iter().map(move |(size, new)| (tenant, *size, *new))
            });
            let claims: Vec<_> = sizes
                .enumerate()
                .map(|(of, (tenant, size, new))| Claim { of, tenant, size, new })
                .collect();
            let leaving = give_way(&claims, room);
            let takes = |tenant: Option<&str>, left: &BTreeSet<usize>| -> usize {
                let these = claims.iter().filter(|claim| !left.contains(&claim.of));
                let these = these.filter(|claim| tenant.is_none_or(|name| claim.tenant == name));
                these.map(|claim| claim.size).sum()
            };
            prop_assert!(takes(None, &leaving) <= room);
            prop_assert_eq!(takes(None, &BTreeSet::new()) <= room, leaving.is_empty());
            for tenant in ["one", "other"] {
                let loses = claims.iter().any(|claim| {
                    claim.tenant == tenant && leaving.contains(&claim.of)
                });
                if takes(Some(tenant), &BTreeSet::new()) <= room / 2 {
                    prop_assert!(!loses, "{} within its share", tenant);
                }
            }
            // Whatever the order in which they came.
            let turned: Vec<_> = claims.iter().rev().copied().collect();
            prop_assert_eq!(give_way(&turned, room), leaving);
        }
    }
}
