//! A node in plain code: its kernel, what its agent writes and publishes, its
//! proxy, and the stream between the two.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use ipnet::IpNet;
use weft_core::model::{self, Direction, EndpointId, NumericIdentity, PodAddr, PrefixMap};
use weft_core::policy::http::Request;
use weft_core::policy::testing::cases::{Case, PeerOf, Tuple};
use weft_core::policy::{
    Compiler, EndpointPolicy, IdentityTable, PortPolicy, RuleTable, Subject, cidrs_of,
};
use weft_core::snapshot::{Node, Parts, Settings, Snapshot};
use weft_datapath::Verdict;

use super::TCP;
use super::maps::{Maps, State};
use super::sets::{self, intercepts, peer_ip, picked, pod_ip};
use crate::control::answers::Answers;
use crate::endpoint::{Interface, LocalEndpoint};
use crate::plan::filters::Chains;
use crate::plan::{Coverage, Gate};
use crate::program::{Programmer, Wanted};
use crate::state::ObjectKey;

/// The first so many pods are of this node.
pub(super) const LOCAL: usize = 2;
const PROXY: u16 = 15001;
/// Number of the first pod's endpoint.
const FIRST: u32 = 7;

/// What becomes of a snapshot in the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is put in force and stored.
    Accept,
    /// It is refused.
    Refuse,
    /// It is put in force and cannot be stored.
    Unstored,
}

/// A snapshot that was made once.
struct Made {
    version: String,
    snapshot: Snapshot,
}

/// The agent's end of the stream and its status of the proxy.
#[derive(Default)]
struct Stream {
    number: u64,
    connected: bool,
    /// Said in the first message, until the newest was compared with it.
    running: String,
    unsent: bool,
    answers: Answers,
    /// What the proxy answered and the agent has not heard yet.
    said: VecDeque<(String, bool)>,
    acked: String,
    answered: u64,
}

/// The proxy: places of snapshots.
#[derive(Default)]
struct Proxy {
    running: Option<usize>,
    stored: Option<usize>,
    /// In force and not stored; and the stream that is to hear when it is.
    unstored: Option<(usize, u64)>,
    /// Sent and not looked at, with the stream that it came by.
    inbox: VecDeque<(usize, u64)>,
}

pub(super) struct World<'c> {
    case: &'c Case,
    identities: IdentityTable,
    addresses: PrefixMap<NumericIdentity>,
    start: Instant,
    pub(super) now: Duration,
    maps: Maps,
    programmer: Programmer,
    gate: Gate,
    again: Option<Instant>,
    policies: u32,
    made: Vec<Made>,
    /// What each set of policies comes to in the proxy.
    versions: BTreeMap<u32, String>,
    /// Number and place of the newest publication.
    newest: (u64, usize),
    stream: Stream,
    proxy: Proxy,
}

impl<'c> World<'c> {
    pub(super) fn new(case: &'c Case) -> Self {
        let (identities, addresses) = case.identities();
        let mut world = Self {
            case,
            identities,
            addresses,
            start: Instant::now(),
            now: Duration::ZERO,
            maps: Maps::default(),
            programmer: Programmer::default(),
            gate: Gate::default(),
            again: None,
            policies: 0,
            made: Vec::new(),
            versions: BTreeMap::new(),
            newest: (0, 0),
            stream: Stream::default(),
            proxy: Proxy::default(),
        };
        world.pass();
        world
    }

    /// What the kernel held since the last time, one after the other, and until
    /// when.
    pub(super) fn states(&mut self) -> Vec<(Duration, State)> {
        self.maps.now = self.now;
        self.maps.take()
    }

    pub(super) fn policies(&mut self, policies: u32) {
        self.policies = policies;
        self.pass();
    }

    pub(super) fn wait(&mut self, by: Duration) {
        let then = self.now + by;
        while let Some(again) = self.again.filter(|again| *again <= self.start + then) {
            self.now = again - self.start;
            self.pass();
        }
        self.now = then;
    }

    /// One pass of the agent.
    fn pass(&mut self) {
        let endpoints = self.endpoints();
        let policies = self.compile();
        let chains = self.chains();
        let wanted = Wanted {
            chains: &chains,
            detach: &[],
            endpoints: &endpoints,
            policies: &policies,
            addresses: &BTreeMap::new(),
            services: &BTreeMap::new(),
        };
        let now = self.start + self.now;
        self.maps.now = self.now;
        let (maps, gate) = (&mut self.maps, &mut self.gate);
        let outcome = self.programmer.run(maps, &wanted, gate, PROXY, now);
        self.again = outcome.again;
        self.publish(&policies, chains);
    }

    fn locals(&self) -> impl Iterator<Item = (u32, usize)> + use<> {
        (FIRST..).zip(0..LOCAL.min(self.case.pods.len()))
    }

    fn endpoints(&self) -> BTreeMap<Ipv4Addr, LocalEndpoint> {
        let endpoint = |(id, index): (u32, usize)| LocalEndpoint {
            id,
            key: ObjectKey::new("default", format!("p{index}")),
            uid: format!("u{index}"),
            ip: pod_ip(index),
            interface: Interface {
                ifindex: id,
                mac: [2; 6],
                host_mac: [3; 6],
            },
            identity: self.case.pods[index].identity,
            labels: self.case.pods[index].labels.clone(),
            ports: self.case.pods[index].ports.clone(),
        };
        let endpoints = self.locals().map(endpoint);
        endpoints.map(|one| (one.ip, one)).collect()
    }

    fn compile(&self) -> BTreeMap<u32, EndpointPolicy> {
        let rules = picked(self.case, self.policies);
        let mut compiler = Compiler::new(&self.identities);
        let mut table = RuleTable::default();
        let mut compile = |(id, index): (u32, usize)| {
            let subject = Subject {
                id: EndpointId(id),
                labels: &self.case.pods[index].labels,
                named_ports: &self.case.pods[index].ports,
                intercepts: intercepts(self.case, self.policies),
            };
            (id, compiler.compile(&subject, &rules, &mut table))
        };
        self.locals().map(&mut compile).collect()
    }

    fn chains(&self) -> Chains {
        let chains = sets::chains(self.case, self.policies);
        self.locals().map(|(id, _)| (id, chains.clone())).collect()
    }

    fn publish(&mut self, policies: &BTreeMap<u32, EndpointPolicy>, chains: Chains) {
        let ports: Vec<&PortPolicy> = policies.values().flat_map(|one| &one.ports).collect();
        let version = format!("{ports:?} {:?}", intercepts(self.case, self.policies));
        self.versions.insert(self.policies, version.clone());
        let (number, at) = self.newest;
        if number == 0 || self.made[at].version != version {
            let known = self.made.iter().position(|made| made.version == version);
            let at = known.unwrap_or_else(|| {
                let snapshot = self.snapshot(&ports, &chains);
                let version = version.clone();
                self.made.push(Made { version, snapshot });
                self.made.len() - 1
            });
            self.newest = (number + 1, at);
            self.stream.unsent = true;
        }
        let endpoints = self.locals().map(|(id, _)| id);
        let coverage = Coverage::of(endpoints, ports).with_chains(chains);
        self.gate.published(self.newest.0, &version, coverage);
        self.tell_gate();
    }

    fn tell_gate(&mut self) {
        let Stream {
            connected,
            acked,
            answered,
            ..
        } = &self.stream;
        self.gate.proxy(*connected, acked, *answered);
    }

    /// The agent has heard something about the proxy.
    fn heard(&mut self) {
        self.tell_gate();
        self.pass();
    }

    pub(super) fn send(&mut self) {
        let (number, at) = self.newest;
        if !self.stream.connected || !std::mem::take(&mut self.stream.unsent) {
            return;
        }
        let version = &self.made[at].version;
        let stream = &mut self.stream;
        if std::mem::take(&mut stream.running) != *version {
            stream.answers.sent(number, version);
            self.proxy.inbox.push_back((at, stream.number));
        } else if stream.acked == *version {
            stream.answered = number;
            self.heard();
        }
    }

    pub(super) fn take(&mut self, fate: Fate) {
        let Some((at, stream)) = self.proxy.inbox.pop_front() else {
            return;
        };
        let version = self.made[at].version.clone();
        let running = self.proxy.running == Some(at);
        if fate == Fate::Refuse && !running {
            return self.answer(stream, version, false);
        }
        self.proxy.running = Some(at);
        self.proxy.unstored = None;
        if fate == Fate::Unstored && self.proxy.stored != Some(at) {
            self.proxy.unstored = Some((at, stream));
            return self.answer(stream, version, false);
        }
        self.proxy.stored = Some(at);
        self.answer(stream, version, true);
    }

    pub(super) fn store(&mut self) {
        if let Some((at, stream)) = self.proxy.unstored.take() {
            self.proxy.stored = Some(at);
            self.answer(stream, self.made[at].version.clone(), true);
        }
    }

    fn answer(&mut self, stream: u64, version: String, accepted: bool) {
        if self.stream.connected && self.stream.number == stream {
            self.stream.said.push_back((version, accepted));
        }
    }

    pub(super) fn hear(&mut self) {
        let Some((version, accepted)) = self.stream.said.pop_front() else {
            return;
        };
        if accepted {
            let number = self.stream.answers.accepted(&version);
            self.stream.answered = number.unwrap_or(self.stream.answered);
            self.stream.acked = version;
        } else {
            self.stream.answers.refused(&version);
        }
        self.heard();
    }

    pub(super) fn disconnect(&mut self) {
        self.break_off();
        self.heard();
    }

    fn break_off(&mut self) {
        self.stream = Stream {
            number: self.stream.number,
            answered: self.stream.answered,
            ..Stream::default()
        };
    }

    /// The proxy opens a new stream: after it has looked at all that came by an
    /// older one.
    pub(super) fn connect(&mut self) {
        assert!(self.proxy.inbox.is_empty(), "offers come first");
        let known = |at: Option<usize>| at.map(|at| self.made[at].version.clone());
        let reliable = self.proxy.running == self.proxy.stored;
        let hello = known(self.proxy.running).filter(|_| reliable);
        let hello = hello.unwrap_or_default();
        self.stream = Stream {
            number: self.stream.number + 1,
            connected: true,
            running: hello.clone(),
            unsent: true,
            acked: hello,
            answered: self.newest.0 - 1,
            ..Stream::default()
        };
        self.heard();
    }

    pub(super) fn restart_proxy(&mut self) {
        self.proxy = Proxy {
            running: self.proxy.stored,
            stored: self.proxy.stored,
            ..Proxy::default()
        };
        self.disconnect();
    }

    pub(super) fn restart_agent(&mut self) {
        let State { entries, endpoints } = self.maps.state();
        self.programmer = Programmer::restore(endpoints.into_values(), entries);
        self.gate = Gate::default();
        self.newest.0 = 0;
        self.break_off();
        self.stream.answered = 0;
        self.pass();
    }

    /// Whether something is on its way that the proxy or the agent has to deal
    /// with.
    pub(super) fn is_offered(&self) -> bool {
        !self.proxy.inbox.is_empty()
    }

    pub(super) fn is_answered(&self) -> bool {
        !self.stream.said.is_empty()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.connected
    }

    /// Whether the proxy has acknowledged the newest snapshot.
    pub(super) fn is_current(&self) -> bool {
        let (number, at) = self.newest;
        let stream = &self.stream;
        stream.acked == self.made[at].version && stream.answered == number
    }

    /// Whether the proxy runs what these policies come to.
    pub(super) fn proxy_has(&self, policies: u32) -> bool {
        let running = self.proxy.running.map(|at| &self.made[at].version);
        running.is_some() && running == self.versions.get(&policies)
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{:#?}\nat {:?}, newest {:?}, proxy runs {:?}, stored {:?}, answered {}\n{:#?}",
            self.case.rules,
            self.now,
            self.newest,
            self.proxy.running,
            self.proxy.stored,
            self.stream.answered,
            self.maps.state(),
        )
    }

    /// Whether a request passes on a new connection.
    pub(super) fn passes(&self, state: &State, tuple: &Tuple, request: (&str, &str, &str)) -> bool {
        let subject = (pod_ip(0), self.case.pods[0].identity);
        let peer = (
            peer_ip(tuple.peer),
            self.case.identity(tuple, &self.addresses),
        );
        let (source, destination) = match tuple.direction {
            Direction::Egress => (subject, peer),
            Direction::Ingress => (peer, subject),
        };
        let verdict = state.judge(source, destination, tuple.protocol, tuple.port);
        match verdict {
            Verdict::Deny => false,
            Verdict::Allow => true,
            Verdict::Redirect(_) => {
                let ends = (source.0, destination.0);
                tuple.protocol == TCP && self.proxy_passes(ends, tuple.port, request)
            }
        }
    }

    fn proxy_passes(
        &self,
        ends: (Ipv4Addr, Ipv4Addr),
        port: u16,
        (method, path, authority): (&str, &str, &str),
    ) -> bool {
        let Some(running) = self.proxy.running else {
            return false;
        };
        let snapshot = &self.made[running].snapshot;
        let connection = snapshot.connection(ends.0.into(), ends.1.into(), port);
        let headers = HeaderMap::new();
        let request = Request {
            method,
            path,
            authority,
            headers: &headers,
        };
        let verdicts = Direction::ALL.map(|direction| {
            let verdict = connection.judge(direction, &request);
            verdict.map(|verdict| verdict.allow)
        });
        let filters = connection.chain().map_or(&[][..], |chain| chain.steps());
        // Redirected, and nobody's rules: refused.
        verdicts.iter().any(Option::is_some)
            && !verdicts.contains(&Some(false))
            && (filters.is_empty() || sets::guard(method))
    }

    fn snapshot(&self, ports: &[&PortPolicy], chains: &Chains) -> Snapshot {
        let numbers = NumericIdentity::LOCAL_FIRST.0..;
        let ranges = numbers.map(NumericIdentity).zip(cidrs_of(&self.case.rules));
        let ranges = ranges.map(|(identity, range)| (range, identity));
        let pods = self.case.pods.iter().enumerate();
        let pods = pods.map(|(index, pod)| (pod_ip(index).into(), pod.identity));
        let reserved = (1..=8).map(NumericIdentity);
        let reserved = reserved.map(|one| (peer_ip(PeerOf::Reserved(one)).into(), one));
        let single = |(ip, identity): (IpAddr, NumericIdentity)| (IpNet::from(ip), identity);
        let parts = Parts {
            version: "".into(),
            node: Node {
                name: "node".into(),
                address: peer_ip(PeerOf::Reserved(NumericIdentity::HOST)).into(),
                cluster: "default".into(),
                private_ports: [].into(),
            },
            listeners: vec![],
            endpoints: self
                .locals()
                .map(|(id, index)| model::Endpoint {
                    id: EndpointId(id),
                    namespace: "default".into(),
                    pod: format!("p{index}").into(),
                    address: PodAddr(pod_ip(index).into()),
                    identity: self.case.pods[index].identity,
                })
                .collect(),
            identities: vec![],
            addresses: ranges.chain(pods.chain(reserved).map(single)).collect(),
            policies: ports.iter().copied().cloned().collect(),
            clusters: vec![],
            filters: vec![sets::filter()],
            chains: sets::specs(chains),
            callouts: vec![],
            settings: Settings::default(),
        };
        Snapshot::build(parts, None).expect("a snapshot")
    }
}
