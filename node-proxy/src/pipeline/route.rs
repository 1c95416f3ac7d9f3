//! Where a request goes: the address that was dialled, or an endpoint of the
//! listener's cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;

use crate::accept::addr::OriginalDst;
use crate::accept::connection::{Connection, Route};
use crate::control::config::Config;
use crate::failure::Failure;
use crate::identity::Judged;
use crate::settings;
use crate::upstream::target::{Protocol, Target};

/// The destination of the next request.
///
/// # Errors
/// [`Failure::NoUpstream`] when the cluster has no endpoint.
pub fn destination(config: &Arc<Config>, connection: &Connection) -> Result<OriginalDst, Failure> {
    match &connection.route {
        Route::Original(destination) => Ok(*destination),
        Route::Cluster(name) => {
            let cluster = config
                .snapshot
                .cluster(name)
                .ok_or(Failure::NoUpstream("unknown cluster"))?;
            let endpoints = &cluster.endpoints;
            let turn = connection.worker.next_turn();
            turn.checked_rem(endpoints.len())
                .and_then(|index| endpoints.get(index))
                .map(|address| OriginalDst(*address))
                .ok_or(Failure::NoUpstream("cluster without endpoints"))
        }
    }
}

/// Some destination of the connection, for records of what never became a
/// request.
#[must_use]
pub fn any_destination(config: &Arc<Config>, connection: &Connection) -> Option<OriginalDst> {
    destination(config, connection).ok()
}

/// The upstream for a request of these ends.
#[must_use]
pub fn target(
    config: &Config,
    connection: &Connection,
    judged: &Judged,
    version: Version,
) -> Target {
    let cluster = match &connection.route {
        Route::Original(_) => None,
        Route::Cluster(name) => config.snapshot.cluster(name),
    };
    let speaks_http2 = match connection.route {
        // What was dialled speaks what the client speaks with it.
        Route::Original(_) => true,
        Route::Cluster(_) => cluster.is_some_and(|cluster| cluster.http2),
    };
    let protocol = match version {
        Version::HTTP_2 if speaks_http2 => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let timeout = cluster.map_or(settings::CONNECT_TIMEOUT, |one| one.connect_timeout);
    towards(config, judged, protocol, timeout)
}

/// The way to the destination of these ends, from the address that it is to see.
#[must_use]
pub fn towards(
    config: &Config,
    judged: &Judged,
    protocol: Protocol,
    connect_timeout: Duration,
) -> Target {
    let source = if judged.keeps_source() {
        Some(judged.ends.source.address.ip().to_canonical())
    } else {
        node_address(config)
    };
    Target {
        address: judged.ends.destination.address,
        source,
        identity: judged.ends.source.identity.0,
        protocol,
        connect_timeout,
    }
}

/// The node's own address, where the proxy stands between pods and hosts; on
/// a plain listener the kernel chooses.
fn node_address(config: &Config) -> Option<IpAddr> {
    config.mark.map(|_mark| config.node().address)
}
