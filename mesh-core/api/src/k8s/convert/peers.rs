//! The other ends of a rule.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::policy::{CidrPeer, Entity, Peer, Peers};

use super::super::error::Path;
use super::super::spec::{CidrRule, LabelSelector};
use super::super::strict::none_of;
use super::Converter;

/// The peer lists of a rule; `None` where a list is not there, which differs
/// from an empty one.
pub(super) struct PeerLists<'a> {
    /// `from` or `to`.
    pub prefix: &'static str,
    pub endpoints: Option<&'a [LabelSelector]>,
    pub cidrs: Option<&'a [String]>,
    pub cidr_sets: Option<&'a [CidrRule]>,
    pub entities: Option<&'a [String]>,
}

impl PeerLists<'_> {
    /// Names of the lists that are there, and how long they are.
    fn present(&self) -> Vec<(String, usize)> {
        let lists = [
            ("Endpoints", self.endpoints.map(<[_]>::len)),
            ("CIDR", self.cidrs.map(<[_]>::len)),
            ("CIDRSet", self.cidr_sets.map(<[_]>::len)),
            ("Entities", self.entities.map(<[_]>::len)),
        ];
        lists
            .into_iter()
            .filter_map(|(name, length)| Some((format!("{}{name}", self.prefix), length?)))
            .collect()
    }
}

impl Converter<'_> {
    pub(super) fn peers(&mut self, lists: &PeerLists<'_>, path: &Path) -> Option<Peers> {
        let present = lists.present();
        let mut filled = present.iter().filter(|(_, length)| *length > 0);
        if let (Some((one, _)), Some((two, _))) = (filled.next(), filled.next()) {
            let message = format!("{one} and {two} cannot be in one rule; make two rules");
            self.errors.add(&path.field(two), message);
            return None;
        }
        if present.is_empty() {
            return Some(Peers::Unnamed);
        }
        let field = |name: &str| path.field(&format!("{}{name}", lists.prefix));
        let mut peers: Vec<Option<Peer>> = Vec::new();
        for (index, selector) in lists.endpoints.unwrap_or_default().iter().enumerate() {
            let selector = self.selector(selector, &field("Endpoints").index(index));
            let scoped = selector.map(|selector| selector.for_peer(self.namespace));
            peers.push(scoped.map(Peer::Endpoints));
        }
        for (index, cidr) in lists.cidrs.unwrap_or_default().iter().enumerate() {
            let cidr = self.address(cidr, &field("CIDR").index(index));
            let except = Vec::new();
            peers.push(cidr.map(|cidr| Peer::Cidr(CidrPeer { cidr, except })));
        }
        for (index, set) in lists.cidr_sets.unwrap_or_default().iter().enumerate() {
            let set = self.cidr_set(set, &field("CIDRSet").index(index));
            peers.push(set.map(Peer::Cidr));
        }
        for (index, name) in lists.entities.unwrap_or_default().iter().enumerate() {
            let entity = self.entity(name, &field("Entities").index(index));
            peers.push(entity.map(Peer::Entity));
        }
        Some(Peers::Listed(peers.into_iter().collect::<Option<_>>()?))
    }

    fn entity(&mut self, name: &str, path: &Path) -> Option<Entity> {
        let entity = Entity::from_name(name);
        if entity.is_none() {
            let known = Entity::NAMES.map(|(name, _)| name);
            self.errors.add_with(path, || none_of(name, &known));
        }
        if entity == Some(Entity::WorldIpv6) {
            self.no_ipv6(name, path);
            return None;
        }
        entity
    }

    /// A prefix or a bare address.
    fn address(&mut self, text: &str, path: &Path) -> Option<IpNet> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.enforced(address.into(), path);
        }
        self.prefix(text, path)
    }

    fn enforced(&mut self, prefix: IpNet, path: &Path) -> Option<IpNet> {
        if matches!(prefix, IpNet::V6(_)) {
            self.no_ipv6(&prefix.to_string(), path);
            return None;
        }
        Some(prefix)
    }

    /// Policies know no IPv6: a rule that counts on it must not look as if it
    /// did something.
    fn no_ipv6(&mut self, what: &str, path: &Path) {
        let message = format!("{what}: IPv6 is not supported yet");
        self.errors.add(path, message);
    }

    fn prefix(&mut self, text: &str, path: &Path) -> Option<IpNet> {
        match text.parse::<IpNet>() {
            Ok(prefix) => self.enforced(prefix.trunc(), path),
            Err(_) => {
                let message = format!("`{text}` is no address prefix such as 10.0.0.0/8");
                self.errors.add(path, message);
                None
            }
        }
    }

    fn cidr_set(&mut self, set: &CidrRule, path: &Path) -> Option<CidrPeer> {
        let Some(cidr) = set.cidr.as_deref().filter(|cidr| !cidr.is_empty()) else {
            self.errors.add(&path.field("cidr"), "is required");
            return None;
        };
        let cidr = self.prefix(cidr, &path.field("cidr"))?;
        let mut except = Vec::new();
        for (index, text) in set.except.iter().flatten().enumerate() {
            let path = path.field("except").index(index);
            let prefix = self.prefix(text, &path)?;
            if !cidr.contains(&prefix) {
                let message = format!("{prefix} does not lie inside {cidr}");
                self.errors.add(&path, message);
                return None;
            }
            except.push(prefix);
        }
        Some(CidrPeer { cidr, except })
    }
}
