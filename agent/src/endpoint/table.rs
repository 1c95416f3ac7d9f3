//! Which pods of this node are endpoints: pods, interfaces and identities in,
//! what to attach and what to detach out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_core::model::{Labels, NamedPorts, NumericIdentity};

use super::interfaces::{Interface, Interfaces};
use super::numbers::number;
use crate::state::{ObjectKey, Pod};
use crate::status::EndpointPhase;

/// A pod of this node that is, or is about to be, attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its number on this node.
    pub id: u32,
    /// Namespace and name of the pod.
    pub key: ObjectKey,
    /// Uid of the pod.
    pub uid: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The interface behind which it is.
    pub interface: Interface,
    /// Its identity.
    pub identity: NumericIdentity,
    /// The labels of that identity.
    pub labels: Labels,
    /// Its named container ports.
    pub ports: NamedPorts,
}

/// An endpoint that a former run of the agent left in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub id: u32,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Index of its interface.
    pub ifindex: u32,
    /// Its identity.
    pub identity: NumericIdentity,
}

/// A pod that cannot be an endpoint yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The pod.
    pub key: ObjectKey,
    /// Its address.
    pub ip: Ipv4Addr,
    /// What is missing.
    pub phase: EndpointPhase,
    /// The same in words.
    pub reason: &'static str,
}

/// What came of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Addresses whose endpoint is gone: everything that the kernel holds of
    /// them must go before anything else has the address.
    pub detach: Vec<Ipv4Addr>,
    /// Pods that are not endpoints yet.
    pub waiting: Vec<Waiting>,
    /// Pods that moved to another interface under their old uid. The watch may
    /// merely be late and the address be another pod's by now, so the API has
    /// to be asked before they are attached.
    pub confirm: Vec<(ObjectKey, String, u32)>,
}

/// The endpoints of this node.
#[derive(Debug, Default)]
pub struct Table {
    endpoints: BTreeMap<Ipv4Addr, LocalEndpoint>,
    found: BTreeMap<Ipv4Addr, Found>,
    /// Interfaces that a pod (by uid) was seen behind; a pod that is gone from
    /// the state is forgotten.
    homes: BTreeMap<String, u32>,
}

impl Table {
    /// Takes over what a former run left.
    pub fn restore(found: impl IntoIterator<Item = Found>) -> Self {
        Self {
            found: found.into_iter().map(|one| (one.ip, one)).collect(),
            ..Self::default()
        }
    }

    /// The endpoints by address.
    pub fn endpoints(&self) -> &BTreeMap<Ipv4Addr, LocalEndpoint> {
        &self.endpoints
    }

    /// The API still has this pod (by uid): it may be attached behind this
    /// interface.
    pub fn confirm(&mut self, uid: String, ifindex: u32) {
        self.homes.insert(uid, ifindex);
    }

    /// Brings the endpoints in line. `pods` are those of this node that have an
    /// address of their own; `identity` gives a pod's labels and number once
    /// they are known.
    pub fn update<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a Pod>,
        interfaces: &Interfaces,
        identity: impl Fn(&Pod) -> Option<(NumericIdentity, Labels)>,
    ) -> Update {
        let mut update = Update::default();
        let claims = claims(pods);
        let present: BTreeSet<&str> = claims.values().map(|pod| pod.uid.as_str()).collect();
        self.homes.retain(|uid, _| present.contains(uid.as_str()));
        let mut old = std::mem::take(&mut self.endpoints);
        for (ip, pod) in claims {
            let Some(interface) = self.home(pod, ip, interfaces, &mut update) else {
                continue;
            };
            let stays = old.get(&ip).is_some_and(|known| {
                known.uid == pod.uid && known.interface.ifindex == interface.ifindex
            });
            let known = if stays { old.remove(&ip) } else { None };
            // A number that is still missing after a change of labels must not
            // cut the pod off: it keeps its old identity for that moment.
            let (number, labels) = match (identity(pod), &known) {
                (Some(found), _) => found,
                (None, Some(known)) => (known.identity, known.labels.clone()),
                (None, None) => {
                    update.wait(
                        pod,
                        ip,
                        EndpointPhase::WaitingForIdentity,
                        "no identity yet",
                    );
                    continue;
                }
            };
            let id = known
                .map(|known| known.id)
                .or_else(|| self.adopt(ip, interface.ifindex, number))
                .or_else(|| self.fresh(pod, &old));
            let Some(id) = id else {
                update.wait(pod, ip, EndpointPhase::Failed, "no endpoint number is free");
                continue;
            };
            let endpoint = LocalEndpoint {
                id,
                key: pod.key.clone(),
                uid: pod.uid.clone(),
                ip,
                interface,
                identity: number,
                labels,
                ports: named_ports(pod),
            };
            self.endpoints.insert(ip, endpoint);
        }
        // What nobody claims any more, or what somebody else claims now.
        update.detach.extend(old.into_keys());
        self.forget_found(&mut update);
        update
    }

    /// The interface behind which a pod is, if it may be attached there.
    fn home(
        &mut self,
        pod: &Pod,
        ip: Ipv4Addr,
        interfaces: &Interfaces,
        update: &mut Update,
    ) -> Option<Interface> {
        let phase = EndpointPhase::WaitingForInterface;
        let Some(interface) = interfaces.of(ip) else {
            update.wait(pod, ip, phase, "no interface yet");
            return None;
        };
        let home = self.homes.entry(pod.uid.clone());
        if *home.or_insert(interface.ifindex) == interface.ifindex {
            return Some(interface);
        }
        let question = (pod.key.clone(), pod.uid.clone(), interface.ifindex);
        update.confirm.push(question);
        update.wait(pod, ip, phase, "its interface changed, asking the API");
        None
    }

    /// Detaches what a former run left and nobody took over. Found ones that
    /// wait for their identity stay as they are: denied or allowed as before
    /// the restart.
    fn forget_found(&mut self, update: &mut Update) {
        let waiting: BTreeSet<Ipv4Addr> = update
            .waiting
            .iter()
            .filter(|one| one.phase == EndpointPhase::WaitingForIdentity)
            .map(|one| one.ip)
            .collect();
        let gone = |ip: &Ipv4Addr| !waiting.contains(ip);
        let found = self.found.keys().copied();
        update.detach.extend(found.filter(|ip| gone(ip)));
        self.found.retain(|ip, _| !gone(ip));
    }

    /// The number that a former run gave to the same pod: same address behind
    /// the same interface with the same identity. Anything else is another.
    fn adopt(&mut self, ip: Ipv4Addr, ifindex: u32, identity: NumericIdentity) -> Option<u32> {
        let found = *self.found.get(&ip)?;
        if found.ifindex != ifindex || found.identity != identity {
            return None;
        }
        self.found.remove(&ip);
        Some(found.id)
    }

    fn fresh(&self, pod: &Pod, old: &BTreeMap<Ipv4Addr, LocalEndpoint>) -> Option<u32> {
        let used: BTreeSet<u32> = self
            .endpoints
            .values()
            .chain(old.values())
            .map(|endpoint| endpoint.id)
            .chain(self.found.values().map(|found| found.id))
            .collect();
        number(&pod.key, &pod.uid, &used)
    }
}

impl Update {
    fn wait(&mut self, pod: &Pod, ip: Ipv4Addr, phase: EndpointPhase, reason: &'static str) {
        self.waiting.push(Waiting {
            key: pod.key.clone(),
            ip,
            phase,
            reason,
        });
    }
}

/// Who has each address. While an old pod lingers in the API beside the one
/// that got its address, the address is the living and newer one's.
fn claims<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<Ipv4Addr, &'a Pod> {
    let rank = |pod: &Pod| (!pod.deleting, pod.created.clone());
    let mut claims: BTreeMap<Ipv4Addr, &Pod> = BTreeMap::new();
    for pod in pods {
        let Some(ip) = pod.own_ip() else { continue };
        let claim = claims.entry(ip).or_insert(pod);
        if rank(pod) > rank(claim) {
            *claim = pod;
        }
    }
    claims
}

fn named_ports(pod: &Pod) -> NamedPorts {
    let mut ports = NamedPorts::default();
    for port in &pod.ports {
        ports.insert(&port.name, port.protocol, port.port);
    }
    ports
}

#[cfg(test)]
mod tests;
