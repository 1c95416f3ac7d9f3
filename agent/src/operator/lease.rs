//! Who of several operators works: the holder of a Lease object.
//!
//! The holder renews the lease; the others watch it and take it once it was not
//! renewed for as long as it says. Clocks are never compared: what counts is how
//! long this process has seen the same lease.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Name of the Lease.
const NAME: &str = "weft-operator";

/// How long a lease holds, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// A lease that was not renewed for this long is anybody's; whole seconds.
    pub(super) duration: Duration,
    /// A holder that could not renew for this long gives up: before anybody
    /// else may believe to be the holder.
    pub(super) give_up: Duration,
    /// Between attempts to take or renew.
    pub(super) interval: Duration,
}

impl Terms {
    /// Of a lease that holds for so long.
    pub(super) fn lasting(duration: Duration) -> Self {
        Self {
            duration,
            give_up: duration * 2 / 3,
            interval: duration * 2 / 15,
        }
    }
}

/// One candidate.
pub(super) struct Candidate {
    leases: Api<Lease>,
    identity: String,
    terms: Terms,
    seen: Option<Seen>,
}

/// A lease as it was seen last, and since when it has been the same.
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

impl Candidate {
    /// A candidate of this name, which no other may have.
    pub(super) fn new(client: Client, namespace: &str, identity: String, terms: Terms) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity,
            terms,
            seen: None,
        }
    }

    /// Waits until the lease is ours.
    pub(super) async fn take(&mut self) {
        let mut told = String::new();
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {
                    let holder = self.seen.as_ref().and_then(|seen| holder(&seen.spec));
                    let holder = holder.unwrap_or_default();
                    if told != holder {
                        info!(holder, "another operator works, standing by");
                        told = holder.into();
                    }
                }
                // It may last: without the right to leases no operator works.
                Err(error) => {
                    let error = error.to_string();
                    if told != error {
                        warn!(error, "no lease, trying again");
                        told = error;
                    }
                }
            }
            tokio::time::sleep(self.terms.interval).await;
        }
    }

    /// Renews until the lease is lost, or until `stop` is cancelled, which
    /// leaves it to the next.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            let pause = tokio::time::sleep(self.terms.interval);
            if stop.run_until_cancelled(pause).await.is_none() {
                return self.release().await;
            }
            let rest = self.terms.give_up.saturating_sub(renewed.elapsed());
            let started = Instant::now();
            match tokio::time::timeout(rest, self.attempt()).await {
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => return warn!("the lease is another operator's"),
                Ok(Err(error)) => debug!(%error, "lease not renewed, trying again"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.terms.give_up {
                return warn!("the lease could not be renewed in time");
            }
        }
    }

    /// Takes or renews the lease; false when it is another's, for now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(NAME).await?;
        let old = found.as_ref().and_then(|lease| lease.spec.clone());
        if !self.may_take(old.as_ref()) {
            return Ok(false);
        }
        let mut lease = found.unwrap_or_default();
        lease.metadata.name = Some(NAME.to_owned());
        let spec = self.renewed(old);
        lease.spec = Some(spec.clone());
        let params = PostParams::default();
        let written = match lease.metadata.resource_version {
            None => self.leases.create(&params, &lease).await,
            Some(_) => self.leases.replace(NAME, &params, &lease).await,
        };
        match written {
            Ok(_) => {
                self.see(spec);
                Ok(true)
            }
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the lease is free, ours, or was not renewed in time.
    fn may_take(&mut self, lease: Option<&LeaseSpec>) -> bool {
        let Some(lease) = lease else { return true };
        let Some(holder) = holder(lease) else {
            return true;
        };
        if holder == self.identity {
            return true;
        }
        let known = self.seen.as_ref().filter(|seen| seen.spec == *lease);
        let Some(known) = known else {
            self.see(lease.clone());
            return false;
        };
        let duration = lease.lease_duration_seconds.unwrap_or_default();
        let duration = Duration::from_secs(duration.try_into().unwrap_or_default());
        known.since.elapsed() >= duration
    }

    fn see(&mut self, spec: LeaseSpec) {
        let since = Instant::now();
        self.seen = Some(Seen { spec, since });
    }

    fn renewed(&self, old: Option<LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let mut spec = old.unwrap_or_default();
        if holder(&spec) != Some(&self.identity) {
            let transitions = spec.lease_transitions.map_or(0, |count| count + 1);
            spec.lease_transitions = Some(transitions);
            spec.acquire_time.clone_from(&now);
            spec.holder_identity = Some(self.identity.clone());
        }
        spec.lease_duration_seconds = self.terms.duration.as_secs().try_into().ok();
        spec.renew_time = now;
        spec
    }

    /// Gives the lease back, so that the next need not wait for its end.
    async fn release(self) {
        let released = async {
            let found = self.leases.get_opt(NAME).await?;
            let ours = |lease: &Lease| {
                let spec = lease.spec.as_ref();
                spec.and_then(holder) == Some(self.identity.as_str())
            };
            let Some(mut lease) = found.filter(ours) else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = None;
            }
            let params = PostParams::default();
            self.leases.replace(NAME, &params, &lease).await.map(drop)
        };
        match tokio::time::timeout(self.terms.interval, released).await {
            Ok(Err(error)) => debug!(%error, "the lease was not given back"),
            Err(_) => debug!("the lease was not given back in time"),
            Ok(Ok(())) => {}
        }
    }
}

fn holder(lease: &LeaseSpec) -> Option<&str> {
    let holder = lease.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests;
