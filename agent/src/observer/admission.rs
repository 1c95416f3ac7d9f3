//! Who may ask the observer over TCP, and how many may stay.
//!
//! Flows tell who talks to whom and what is asked for: pods are to see neither.
//! A pod is recognised by its address, or, once its node has given it the
//! node's own, by the port that only masqueraded traffic has.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, future};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tracing::warn;

use super::server::Answers;
use crate::metrics::Metrics;
use crate::view::{View, ViewHandle};

/// Refused connections are counted; a line is written this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Why a peer may not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its address is a pod's, or of a range that pods have.
    Pod,
    /// A node's address with a port that a node gives to its pods.
    Masqueraded,
    /// Nothing is known of the cluster yet, so neither is who it is.
    TooEarly,
    /// Pods are known by their IPv4 addresses only.
    Ipv6,
}

impl Refused {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Masqueraded => "masqueraded",
            Self::TooEarly => "too-early",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "it is a pod",
            Self::Masqueraded => "it is a pod behind its node's address",
            Self::TooEarly => "who it is is not known yet",
            Self::Ipv6 => "over IPv6 a pod would not be recognised",
        })
    }
}

/// Whether a peer may ask, going by what the agent knows of the cluster.
pub(super) fn admit(
    peer: SocketAddr,
    view: &View,
    masquerading: &RangeInclusive<u16>,
) -> Result<(), Refused> {
    let ip = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) if ip.is_loopback() => return Ok(()),
        IpAddr::V6(_) => return Err(Refused::Ipv6),
    };
    if view.revision == 0 && !ip.is_loopback() {
        return Err(Refused::TooEarly);
    }
    let known = view.address(ip);
    if known.is_some_and(|known| !known.pod.is_empty()) || view.is_for_pods(ip) {
        return Err(Refused::Pod);
    }
    if known.is_some() && masquerading.contains(&peer.port()) {
        return Err(Refused::Masqueraded);
    }
    Ok(())
}

/// The connections of a listener whose peers may ask; the others are closed.
pub(super) fn admitted(
    listener: TcpListener,
    view: ViewHandle,
    masquerading: RangeInclusive<u16>,
    metrics: Metrics,
) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    let mut told: Option<Instant> = None;
    TcpListenerStream::new(listener).filter(move |connection| {
        let Ok(peer) = connection.as_ref().map_or_else(|_| Err(()), peer) else {
            // Errors of the listener are the server's to judge.
            return future::ready(connection.is_err());
        };
        let verdict = admit(peer, &view.load(), &masquerading);
        if let Err(reason) = verdict {
            metrics.refused_peer(reason.as_str());
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                warn!(%peer, %reason, "the observer refused a connection");
            }
        }
        future::ready(verdict.is_ok())
    })
}

/// A connection without a peer is one that ended already.
fn peer(connection: &TcpStream) -> Result<SocketAddr, ()> {
    connection.peer_addr().map_err(drop)
}

/// Bounds the streams that followers hold open.
#[derive(Clone, Debug)]
pub(crate) struct Followers {
    places: Arc<Semaphore>,
    most: usize,
    metrics: Metrics,
}

impl Followers {
    /// Up to `most` at once.
    pub(crate) fn new(most: usize, metrics: Metrics) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            metrics,
        }
    }

    /// A place, held until it is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when all are taken.
    pub(crate) fn take(&self) -> Result<Place, Status> {
        let Ok(permit) = self.places.clone().try_acquire_owned() else {
            self.metrics.refused_stream();
            return Err(Status::resource_exhausted(format!(
                "{} clients follow already",
                self.most
            )));
        };
        self.metrics.open_streams.inc();
        Ok(Place {
            metrics: self.metrics.clone(),
            _permit: permit,
        })
    }

    /// A place for questions that stay open, none for the others.
    ///
    /// # Errors
    /// As [`Followers::take`].
    pub(crate) fn take_if(&self, follow: bool) -> Result<Option<Place>, Status> {
        follow.then(|| self.take()).transpose()
    }
}

/// The right to hold a stream open.
#[derive(Debug)]
pub(crate) struct Place {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.open_streams.dec();
    }
}

/// Answers that take up a place as long as they last.
pub(crate) fn holding<T: 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    place: Option<Place>,
) -> Answers<T> {
    Box::pin(answers.inspect(move |_| {
        let _held = &place;
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::testing::{DEATHSTAR, NODE, WORLD, view};

    const MASQUERADING: RangeInclusive<u16> = 61_000..=65_535;

    fn verdict(peer: &str) -> Result<(), Refused> {
        let mut view = view("kind-worker");
        view.pod_ranges = vec!["10.244.1.0/24".parse().unwrap()];
        admit(peer.parse().unwrap(), &view, &MASQUERADING)
    }

    #[test]
    fn pods_are_refused_wherever_they_are() {
        assert_eq!(verdict(&format!("{DEATHSTAR}:40000")), Err(Refused::Pod));
        assert_eq!(verdict("10.244.1.99:40000"), Err(Refused::Pod));
        assert_eq!(verdict("[::ffff:10.244.1.99]:40000"), Err(Refused::Pod));
        let behind_node = verdict(&format!("{NODE}:61000"));
        assert_eq!(behind_node, Err(Refused::Masqueraded));
    }

    #[test]
    fn nodes_and_the_world_may_ask() {
        assert_eq!(verdict(&format!("{NODE}:40000")), Ok(()));
        // Only a node masquerades: elsewhere the port says nothing.
        assert_eq!(verdict(&format!("{WORLD}:61000")), Ok(()));
        assert_eq!(verdict("127.0.0.1:61000"), Ok(()));
        assert_eq!(verdict("[::1]:40000"), Ok(()));
    }

    #[test]
    fn who_cannot_be_told_is_refused() {
        assert_eq!(verdict("[2001:db8::1]:40000"), Err(Refused::Ipv6));
        let nothing = View::default();
        let early = admit("172.18.0.3:40000".parse().unwrap(), &nothing, &MASQUERADING);
        assert_eq!(early, Err(Refused::TooEarly));
    }

    #[test]
    fn a_place_is_free_again_once_it_was_left() {
        let metrics = Metrics::new();
        let followers = Followers::new(1, metrics.clone());
        let first = followers.take().unwrap();
        assert_eq!(metrics.open_streams.get(), 1);
        let refused = followers.take().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(followers.take_if(false).unwrap().is_none());
        drop(first);
        assert_eq!(metrics.open_streams.get(), 0);
        followers.take().unwrap();
    }
}
