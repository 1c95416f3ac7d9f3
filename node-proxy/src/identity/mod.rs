//! Who is at both ends of a connection, and which policies they are under.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_core::model::NumericIdentity;
use weft_core::snapshot;

use crate::accept::addr::{Local, OriginalDst, Source};
use crate::control::config::Config;
use crate::pipeline::headers::Trust;

pub use weft_core::model::Direction;

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its address; the port is the one on the wire.
    pub address: SocketAddr,
    /// Its identity.
    pub identity: NumericIdentity,
    /// Its node-local number when it is a pod of this node.
    pub endpoint: Option<u32>,
}

/// Both ends of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Who opened it.
    pub source: End,
    /// Who it is for.
    pub destination: End,
    /// Port of the proxy's listener.
    pub proxy_port: u16,
}

/// The ends of a connection with the policies that judge its requests.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Both ends, shared by the records of all requests.
    pub ends: Arc<Ends>,
    /// Their policies.
    pub policies: snapshot::Connection,
    /// The destination is a port of a node that is not for pods.
    pub private: bool,
}

impl Judged {
    /// Looks both ends up.
    #[must_use]
    pub fn resolve(
        config: &Config,
        source: Source,
        destination: OriginalDst,
        local: Local,
    ) -> Self {
        let policies =
            config
                .snapshot
                .connection(source.ip(), destination.ip(), destination.0.port());
        let ends = Ends {
            source: end(source.0, &policies.source),
            destination: end(destination.0, &policies.destination),
            proxy_port: local.0.port(),
        };
        let nodes = [NumericIdentity::HOST, NumericIdentity::REMOTE_NODE];
        let ports = &config.node().private_ports;
        let private =
            nodes.contains(&ends.destination.identity) && ports.contains(&destination.0.port());
        Self {
            ends: Arc::new(ends),
            policies,
            private,
        }
    }

    /// Whether no pod of this node is at either end, so that nothing says
    /// what may pass: such a connection cannot have been redirected here by
    /// anyone's policy.
    #[must_use]
    pub fn strangers(&self) -> bool {
        self.ends.source.endpoint.is_none() && self.ends.destination.endpoint.is_none()
    }

    /// Whether anyone's rules judge requests of this connection.
    #[must_use]
    pub fn policed(&self) -> bool {
        DIRECTIONS
            .into_iter()
            .any(|direction| self.policies.has_policy(direction))
    }

    /// Whether rules that judged the same connection are gone from a newer
    /// snapshot. That is all it says: the port may be open to everyone now, or
    /// closed. Which it is, is for the kernel to say to a new connection.
    #[must_use]
    pub fn lost_rules_of(&self, before: &Self) -> bool {
        DIRECTIONS.into_iter().any(|direction| {
            before.policies.has_policy(direction) && !self.policies.has_policy(direction)
        })
    }

    /// The first point where a request of this connection is observed.
    #[must_use]
    pub fn first_direction(&self) -> Direction {
        if self.policies.has_policy(Direction::Egress) || self.ends.destination.endpoint.is_none() {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }

    /// How far the source is trusted with headers about its requests.
    #[must_use]
    pub fn trust(&self) -> Trust {
        let identity = self.ends.source.identity;
        let cluster = identity.is_cluster()
            || [
                NumericIdentity::HOST,
                NumericIdentity::REMOTE_NODE,
                NumericIdentity::HEALTH,
                NumericIdentity::INGRESS,
                NumericIdentity::KUBE_APISERVER,
            ]
            .contains(&identity);
        if cluster {
            Trust::Cluster
        } else {
            Trust::World
        }
    }

    /// Whether the source's own address is kept towards the destination: only
    /// between two different pods. A pod that talks to itself would receive
    /// packets from its own address, and the way back from hosts and from the
    /// world does not lead through this node's datapath.
    #[must_use]
    pub fn keeps_source(&self) -> bool {
        let Ends {
            source,
            destination,
            ..
        } = &*self.ends;
        source.identity.is_cluster()
            && destination.identity.is_cluster()
            && source.address.ip() != destination.address.ip()
    }
}

fn end(address: SocketAddr, resolved: &snapshot::End) -> End {
    End {
        address,
        identity: resolved.identity,
        endpoint: resolved.endpoint.map(|id| id.0),
    }
}
