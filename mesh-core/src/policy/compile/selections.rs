//! Which identities the peers of rules mean, found once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::PeerSet;
use crate::model::{NumericIdentity, Protocol};
use crate::policy::{CidrPeer, Entity, IdentityTable, Peer};

/// The ports that a name means, each with the peers that call it so.
pub(super) type NamedPorts = Arc<[((Protocol, u16), PeerSet)]>;

/// A list of peers by its address, a port's name, and the only protocol that is
/// meant.
type NameKey = (usize, Box<str>, Option<Protocol>);

/// What is remembered for all endpoints of a pass: most rules name the same few
/// peers, and the rules of one object are compiled for every pod that it
/// selects.
#[derive(Debug)]
pub(super) struct Selections<'a> {
    identities: &'a IdentityTable,
    /// The identities of prefixes: what lies in a prefix is side by side.
    cidrs: BTreeMap<IpNet, NumericIdentity>,
    one: HashMap<Peer, Arc<[NumericIdentity]>>,
    lists: HashMap<Box<[Peer]>, Option<PeerSet>>,
    names: HashMap<NameKey, NamedPorts>,
}

impl<'a> Selections<'a> {
    pub(super) fn new(identities: &'a IdentityTable) -> Self {
        let cidrs = identities
            .iter()
            .filter_map(|(identity, known)| Some((known.cidr?, identity)));
        Self {
            identities,
            cidrs: cidrs.collect(),
            one: HashMap::new(),
            lists: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// The ranges of addresses that have an identity, with it.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (&IpNet, NumericIdentity)> {
        self.cidrs
            .iter()
            .map(|(range, identity)| (range, *identity))
    }

    /// Everybody that a list of peers means; `None` when it selects nothing.
    pub(super) fn peers(&mut self, peers: &[Peer]) -> Option<PeerSet> {
        if let Some(known) = self.lists.get(peers) {
            return known.clone();
        }
        let set = self.union(peers);
        self.lists.insert(peers.into(), set.clone());
        set
    }

    fn union(&mut self, peers: &[Peer]) -> Option<PeerSet> {
        if peers.contains(&Peer::Entity(Entity::All)) {
            return Some(PeerSet::Any);
        }
        let mut union: Vec<NumericIdentity> = Vec::new();
        for peer in peers {
            let selected = self.select(peer);
            if let [_] = peers {
                return (!selected.is_empty()).then_some(PeerSet::These(selected));
            }
            union.extend(selected.iter());
        }
        union.sort_unstable();
        union.dedup();
        (!union.is_empty()).then(|| PeerSet::These(union.into()))
    }

    /// The identities that a peer means, sorted.
    fn select(&mut self, peer: &Peer) -> Arc<[NumericIdentity]> {
        if let Some(known) = self.one.get(peer) {
            return known.clone();
        }
        let selected: Arc<[NumericIdentity]> = match peer {
            // Prefixes of length 0 mean more than other prefixes.
            Peer::Cidr(cidr) if cidr.cidr.prefix_len() > 0 => self.inside(cidr).into(),
            peer => self.identities.select(peer).into_iter().collect(),
        };
        self.one.insert(peer.clone(), selected.clone());
        selected
    }

    /// The identities of the prefixes inside one, less its exceptions.
    fn inside(&self, peer: &CidrPeer) -> Vec<NumericIdentity> {
        let mut found: BTreeMap<IpNet, NumericIdentity> = self.within(peer.cidr).collect();
        for except in &peer.except {
            for (cidr, _) in self.within(*except) {
                found.remove(&cidr);
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_unstable();
        found
    }

    fn within(&self, outer: IpNet) -> impl Iterator<Item = (IpNet, NumericIdentity)> + '_ {
        // Sorted by address, then length: a longer prefix comes after a shorter
        // one that begins where it does.
        let last = IpNet::from(outer.broadcast());
        self.cidrs
            .range(outer.trunc()..=last)
            .filter(move |(cidr, _)| outer.contains(*cidr))
            .map(|(cidr, identity)| (*cidr, *identity))
    }

    /// The ports that a name means where these peers receive the traffic.
    pub(super) fn named(
        &mut self,
        name: &str,
        protocol: Option<Protocol>,
        peers: &PeerSet,
    ) -> NamedPorts {
        // Lists stay as long as this does, so an address is of one list only.
        let address = match peers {
            PeerSet::Any => 0,
            PeerSet::These(these) => these.as_ptr().addr(),
        };
        let key = (address, name.into(), protocol);
        if let Some(known) = self.names.get(&key) {
            return known.clone();
        }
        let mut by_port: BTreeMap<(Protocol, u16), Vec<NumericIdentity>> = BTreeMap::new();
        for (identity, known) in self.identities.iter() {
            if peers.contains(identity) {
                let ports = known.named_ports.get(name);
                for port in ports.filter(|(own, _)| protocol.is_none_or(|only| only == *own)) {
                    by_port.entry(port).or_default().push(identity);
                }
            }
        }
        let found: NamedPorts = by_port
            .into_iter()
            .map(|(port, identities)| (port, PeerSet::These(identities.into())))
            .collect();
        self.names.insert(key, found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefixes that enclose each other, and neighbours.
    const CIDRS: [&str; 9] = [
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.0.0.0/32",
        "10.0.255.255/32",
        "10.1.0.0/16",
        "10.255.255.255/32",
        "11.0.0.0/8",
        "9.255.255.255/32",
        "2001:db8::/32",
    ];

    #[test]
    fn what_lies_in_a_prefix_is_found_as_by_asking_all() {
        let mut table = IdentityTable::new();
        for (number, cidr) in (1 << 24..).zip(CIDRS) {
            table.insert_cidr(NumericIdentity(number), cidr.parse().unwrap());
        }
        let mut selections = Selections::new(&table);
        let lists: [&[&str]; 4] = [
            &[],
            &["10.0.0.0/16"],
            &["10.0.0.0/32", "10.1.0.0/16"],
            &["10.0.0.0/8"],
        ];
        for cidr in CIDRS {
            for except in lists {
                let peer = Peer::Cidr(CidrPeer {
                    cidr: cidr.parse().unwrap(),
                    except: except.iter().map(|text| text.parse().unwrap()).collect(),
                });
                let asked: Vec<_> = table.select(&peer).into_iter().collect();
                assert_eq!(*selections.select(&peer), asked, "{cidr} less {except:?}");
            }
        }
    }
}
