//! Collects what is to be recorded of a request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use http::request::Parts;
use weft_core::model::NumericIdentity;

use super::request_id::RequestId;
use super::trace::Trace;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::filter::run::Runs;
use crate::identity::{End, Ends};
use crate::memory::Lent;
use crate::telemetry::exchange::{Decisions, Exchange};

/// What is known of a request when it is decided on.
#[derive(Debug)]
pub struct Made {
    /// Both ends.
    pub ends: Arc<Ends>,
    /// Its identifier.
    pub request_id: RequestId,
    /// Its trace.
    pub trace: Option<Trace>,
    /// What each observation point decided.
    pub decisions: Decisions,
    /// A filter answered it in place of the upstream.
    pub answered: bool,
}

impl Made {
    /// A request for which there is no destination.
    #[must_use]
    pub fn nowhere(connection: &Connection) -> Self {
        let source = End {
            address: connection.source.0,
            identity: NumericIdentity::UNKNOWN,
            endpoint: None,
        };
        let destination = End {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            ..source.clone()
        };
        Self {
            ends: Arc::new(Ends {
                source,
                destination,
                proxy_port: connection.local.0.port(),
            }),
            request_id: RequestId::made(),
            trace: None,
            decisions: Decisions::default(),
            answered: false,
        }
    }

    /// The record of the request with this head; with what filters did to it,
    /// where that is known already.
    #[must_use]
    pub fn exchange(
        self,
        head: Parts,
        started: Instant,
        refused: Option<Failure>,
        memory: Option<Lent>,
        runs: Option<Runs>,
    ) -> Arc<Exchange> {
        Arc::new(Exchange {
            ends: self.ends,
            head,
            request_id: self.request_id,
            trace: self.trace,
            started,
            time: SystemTime::now(),
            decisions: self.decisions,
            answered: self.answered,
            refused,
            memory,
            filter: OnceLock::new(),
            runs: runs.map_or_else(OnceLock::new, |runs| OnceLock::from(Box::new(runs))),
            response: OnceLock::new(),
            end: OnceLock::new(),
        })
    }
}
