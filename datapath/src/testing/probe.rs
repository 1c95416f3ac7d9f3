//! Asking the programs what they do under given policies.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use weft_datapath_common::{identity, protocol};

use super::{Bench, LOOPBACK, Outcome, Packet, endpoint};
use crate::{
    Action, Address, Config, Conntrack, Difference, Direction, Endpoint, Error, Event, EventKind,
    Ipcache, PolicyEntry, PolicyMap,
};

/// What the policies are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The endpoint whose policy is asked.
    pub endpoint: u32,
    /// Direction, as it sees it.
    pub direction: Direction,
    /// Identity of the other end.
    pub peer: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Destination port; with ICMP the type. Nothing for other protocols than
    /// TCP, UDP, SCTP and ICMP.
    pub port: u16,
}

/// The programs' answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What becomes of the packet.
    pub action: Action,
    /// The rule that decided; 0 if none.
    pub rule: u32,
    /// The proxy's port, with [`Action::Redirect`].
    pub proxy_port: u16,
}

/// Asks the programs themselves, one packet a question, what they do under
/// given policies.
///
/// A question costs a few system calls; some ten thousand fit into a second.
pub struct PolicyProbe {
    bench: Bench,
    policy: PolicyMap,
    ipcache: Ipcache,
    conntrack: Conntrack,
    endpoints: HashMap<u32, Endpoint>,
    peers: HashMap<u32, Ipv4Addr>,
    behind_loopback: Option<u32>,
}

/// Where the probe's node, endpoints and peers live.
const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PODS: u32 = u32::from_be_bytes([10, 244, 0, 0]);
const PEERS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
const POD_BITS: u8 = 16;

impl PolicyProbe {
    /// Loads the programs.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses the programs.
    pub fn new() -> Result<Self, Error> {
        let pods = Ipv4Net::new_assert(Ipv4Addr::from(PODS), POD_BITS);
        let mut config = Config::new(NODE, pods);
        config.redirect_peer = false;
        config.tables = super::SMALL_TABLES;
        let bench = Bench::new(&config)?;
        Ok(Self {
            policy: bench.datapath.policy()?,
            ipcache: bench.datapath.ipcache()?,
            conntrack: bench.datapath.conntrack()?,
            bench,
            endpoints: HashMap::new(),
            peers: HashMap::from([(identity::HOST, NODE), (identity::WORLD, WORLD)]),
            behind_loopback: None,
        })
    }

    /// Gives an endpoint (1 to 65534) this policy in place of any other.
    /// Without default deny, what no entry speaks of is allowed.
    ///
    /// # Errors
    /// When an entry is impossible or the kernel refuses.
    pub fn set_policy(
        &mut self,
        id: u32,
        entries: &[PolicyEntry],
        default_deny: (bool, bool),
    ) -> Result<Difference, Error> {
        let addr = Ipv4Addr::from(PODS + id);
        let endpoint = Endpoint {
            default_deny_ingress: default_deny.0,
            default_deny_egress: default_deny.1,
            policed: true,
            // The identity is nobody's peer: the probe asks for one side only.
            ..endpoint(id, u32::MAX, addr)
        };
        if !(1..65535).contains(&id) {
            return Err(Error::Invalid(format!(
                "endpoint {id} is out of the probe's range"
            )));
        }
        self.endpoints.insert(id, endpoint);
        self.behind_loopback = None;
        self.policy.apply(id, entries)
    }

    /// Asks.
    ///
    /// # Errors
    /// When the endpoint has no policy, or the kernel refuses.
    pub fn probe(&mut self, tuple: &Tuple) -> Result<Probed, Error> {
        let endpoint = *self
            .endpoints
            .get(&tuple.endpoint)
            .ok_or_else(|| Error::Invalid(format!("no policy for endpoint {}", tuple.endpoint)))?;
        let peer = self.peer(tuple.peer)?;
        self.put_behind_loopback(&endpoint)?;
        let (program, src, dst) = match tuple.direction {
            Direction::Egress => ("from_pod", endpoint.addr, peer),
            // Nobody on the network may claim to be the node.
            Direction::Ingress if tuple.peer == identity::HOST => ("to_pod", peer, endpoint.addr),
            Direction::Ingress => ("from_net", peer, endpoint.addr),
        };
        let packet = packet(tuple, src, dst).from_mac(endpoint.mac).build();
        let run = self.bench.run(program, &packet)?;
        // Nothing of this question may answer the next one.
        let (src, dst) = ends(tuple, src, dst);
        self.conntrack.remove_flow(src, dst, tuple.protocol)?;
        let events = self.bench.events();
        let redirected = run.mark == Config::new(NODE, Ipv4Net::default()).marks.to_proxy;
        let action = match run.outcome {
            _ if redirected => Action::Redirect,
            Outcome::Drop => Action::Deny,
            Outcome::Pass | Outcome::Redirect => Action::Allow,
        };
        self.explain(action, &events)
    }

    /// The verdict event has rule and port; it is left out when no policy
    /// decided.
    fn explain(&self, action: Action, events: &[Event]) -> Result<Probed, Error> {
        let verdict = events.iter().find_map(|event| match event.kind {
            EventKind::PolicyVerdict { action, .. } => Some((action, event)),
            _ => None,
        });
        let Some((reported, event)) = verdict else {
            return Ok(Probed {
                action,
                rule: 0,
                proxy_port: 0,
            });
        };
        if reported != action {
            return Err(Error::Invalid(format!(
                "the packet's fate is {action:?}, the event says {reported:?}"
            )));
        }
        Ok(Probed {
            action,
            rule: event.rule,
            proxy_port: event.proxy_port,
        })
    }

    fn peer(&mut self, identity: u32) -> Result<Ipv4Addr, Error> {
        if let Some(addr) = self.peers.get(&identity) {
            return Ok(*addr);
        }
        let addr = Ipv4Addr::from(PEERS + 1 + self.peers.len() as u32);
        let address = Address {
            identity,
            node: None,
        };
        self.ipcache.upsert(Ipv4Net::from(addr), address)?;
        self.peers.insert(identity, addr);
        Ok(addr)
    }

    fn put_behind_loopback(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        debug_assert_eq!(endpoint.ifindex, LOOPBACK);
        if self.behind_loopback != Some(endpoint.id) {
            self.bench.announce(endpoint)?;
            self.behind_loopback = Some(endpoint.id);
        }
        Ok(())
    }
}

const SRC_PORT: u16 = 40000;

fn packet(tuple: &Tuple, src: Ipv4Addr, dst: Ipv4Addr) -> Packet {
    const SYN: u8 = 2;
    let (src_end, dst_end) = ((src, SRC_PORT), (dst, tuple.port));
    match tuple.protocol {
        protocol::TCP => Packet::tcp(src_end, dst_end, SYN),
        protocol::UDP => Packet::udp(src_end, dst_end),
        protocol::ICMP => Packet::icmp(src, dst, tuple.port as u8, [0; 4]),
        protocol => {
            let mut header = vec![0; 12];
            header[0..2].copy_from_slice(&SRC_PORT.to_be_bytes());
            header[2..4].copy_from_slice(&tuple.port.to_be_bytes());
            Packet::raw(src, dst, protocol, header)
        }
    }
}

/// The ends of the flow, as conntrack names them.
fn ends(tuple: &Tuple, src: Ipv4Addr, dst: Ipv4Addr) -> (SocketAddrV4, SocketAddrV4) {
    const ECHO_REPLY: u8 = 0;
    const ECHO: u8 = 8;
    let (src_port, dst_port) = match (tuple.protocol, tuple.port as u8) {
        (protocol::TCP | protocol::UDP | protocol::SCTP, _) => (SRC_PORT, tuple.port),
        (protocol::ICMP, kind) if kind != ECHO && kind != ECHO_REPLY => {
            let port = u16::from_be_bytes([kind, 0xff]);
            (port, port)
        }
        _ => (0, 0),
    };
    (
        SocketAddrV4::new(src, src_port),
        SocketAddrV4::new(dst, dst_port),
    )
}
