//! Reports to the agent: what became of the filters that it wants.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use weft_api::node::node_control_client::NodeControlClient;
use weft_api::node::{FilterReport, FilterReports};
use weft_wasm_host::clock::{Clock, SystemClock};

use super::listing::{FilterState, Listings};
use crate::control::client::{RETRY, dial};

/// How often quarantines are looked at: nobody tells of them.
const LOOK: Duration = Duration::from_secs(1);
/// Between two messages: each has all filters.
const APART: Duration = Duration::from_millis(50);
/// Until an agent is asked again that knows nothing of filters.
const OLD_AGENT: Duration = Duration::from_secs(10);

/// Keeps telling the agent what became of the filters, from the first filter
/// on and for ever.
pub async fn reports(socket: PathBuf, mut listings: Listings) {
    let some = listings.wait_for(|listing| !listing.filters.is_empty());
    if some.await.is_err() {
        return;
    }
    let mut quarantines = Quarantines::default();
    loop {
        let wait = match dial(&socket).await {
            Ok(channel) => stream(channel, &mut listings, &mut quarantines).await,
            Err(error) => {
                tracing::debug!(%error, "agent is not there");
                RETRY
            }
        };
        if listings.has_changed().is_err() {
            return;
        }
        sleep(wait).await;
    }
}

/// Tells one agent until it or the proxy goes away. Returns how long to wait
/// before the next one.
async fn stream(
    channel: Channel,
    listings: &mut Listings,
    quarantines: &mut Quarantines,
) -> Duration {
    let (sender, outgoing) = mpsc::channel(1);
    let mut client = NodeControlClient::new(channel);
    let call = client.filters(ReceiverStream::new(outgoing));
    tokio::select! {
        answer = call => match answer {
            Ok(_received) => RETRY,
            Err(status) => {
                tracing::debug!(%status, "reports on filters ended");
                match status.code() {
                    Code::Unimplemented => OLD_AGENT,
                    _ => RETRY,
                }
            }
        },
        () = feed(sender, listings, quarantines) => RETRY,
    }
}

async fn feed(
    sender: mpsc::Sender<FilterReports>,
    listings: &mut Listings,
    quarantines: &mut Quarantines,
) {
    let mut sent = None;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let listing = listings.borrow_and_update().clone();
        let reports = FilterReports {
            version: listing.version.clone(),
            filters: listing
                .filters
                .iter()
                .map(|state| report(state, quarantines))
                .collect(),
        };
        if sent.as_ref() != Some(&reports) {
            if sender.send(reports.clone()).await.is_err() {
                return;
            }
            sent = Some(reports);
            quarantines.keep(&listing.filters);
            sleep(APART).await;
        }
        tokio::select! {
            changed = listings.changed() => if changed.is_err() {
                return;
            },
            _ = looks.tick(), if !listing.filters.is_empty() => {}
        }
    }
}

/// Ends of quarantines on the clock of the wall. Each is read from it once: two
/// readings of one end differ by a little.
#[derive(Debug, Default)]
struct Quarantines(HashMap<u64, (u64, pbjson_types::Timestamp)>);

impl Quarantines {
    fn end(&mut self, state: &FilterState) -> Option<pbjson_types::Timestamp> {
        let now = SystemClock.monotonic();
        let Some(until) = state.filter.budget.quarantined(now) else {
            self.0.remove(&state.filter.id);
            return None;
        };
        let known = self.0.get(&state.filter.id);
        if let Some((_until, end)) = known.filter(|(known, _end)| *known == until) {
            return Some(*end);
        }
        let end = wall(SystemClock.wall().saturating_add(until - now));
        self.0.insert(state.filter.id, (until, end));
        Some(end)
    }
}

impl Quarantines {
    fn keep(&mut self, filters: &[FilterState]) {
        if !self.0.is_empty() {
            let there: HashSet<_> = filters.iter().map(|state| state.filter.id).collect();
            self.0.retain(|id, _end| there.contains(id));
        }
    }
}

fn wall(nanos: u64) -> pbjson_types::Timestamp {
    const SECOND: u64 = 1_000_000_000;
    pbjson_types::Timestamp {
        seconds: i64::try_from(nanos / SECOND).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos % SECOND).unwrap_or_default(),
    }
}

fn report(state: &FilterState, quarantines: &mut Quarantines) -> FilterReport {
    let key = &state.filter.key;
    let current = state.filter.published.current();
    let mut report = FilterReport {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        loaded: state.loaded,
        configured: state.configured,
        error: state.error.as_deref().unwrap_or_default().to_owned(),
        quarantined_until: quarantines.end(state),
        ..Default::default()
    };
    if let Some(current) = current {
        report.sha256 = current.module().digest().hex();
        report.abi = current.module().abi().to_string();
        report.filter_version = version(current.manifest());
    }
    report
}

/// Name and version that the filter gives itself; those for proxy-wasm give
/// themselves none.
fn version(manifest: &weft_wasm_host::Manifest) -> String {
    format!("{} {}", manifest.name, manifest.version)
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use weft_core::filter::{FilterKey, FilterKind};
    use weft_wasm_host::budget::{Allowance, BudgetLimits, Namespace};
    use weft_wasm_host::clock::{Clock, SystemClock};

    use super::super::NodeFilter;
    use super::{FilterState, Quarantines, report};

    fn state(limits: BudgetLimits) -> FilterState {
        let key = FilterKey {
            kind: FilterKind::WasmPlugin,
            namespace: "a".into(),
            name: "x".into(),
        };
        let budget = Allowance::new(limits, 1, Namespace::new(limits, 1));
        FilterState {
            filter: Arc::new(NodeFilter::new(1, key, budget)),
            wanted: None,
            loaded: false,
            configured: false,
            error: Some("no module".into()),
        }
    }

    #[test]
    fn a_filter_without_a_version_is_reported_with_the_reason() {
        let mut quarantines = Quarantines::default();
        let report = report(&state(BudgetLimits::default()), &mut quarantines);
        assert_eq!(
            (&*report.kind, &*report.namespace, &*report.name),
            ("WasmPlugin", "a", "x")
        );
        assert_eq!((&*report.sha256, &*report.error), ("", "no module"));
        assert_eq!(report.quarantined_until, None);
    }

    #[test]
    fn the_end_of_a_quarantine_does_not_move() {
        let state = state(BudgetLimits {
            reserve: Duration::ZERO,
            patience: Duration::ZERO,
            ..BudgetLimits::default()
        });
        let budget = &state.filter.budget;
        let spend = || {
            let now = SystemClock.monotonic();
            let (_admission, ticket) = budget.admit(0, now);
            budget.settle(ticket, Duration::from_secs(1), now);
        };
        spend();
        spend();
        spend();
        let mut quarantines = Quarantines::default();
        let first = report(&state, &mut quarantines).quarantined_until;
        let first = first.expect("in quarantine");
        let second = report(&state, &mut quarantines).quarantined_until;
        assert_eq!(second, Some(first));
        let now = SystemClock.wall() / 1_000_000_000;
        let left = u64::try_from(first.seconds).expect("a time") - now;
        assert!((1..=10).contains(&left), "{left} s are left of 10");
    }
}
