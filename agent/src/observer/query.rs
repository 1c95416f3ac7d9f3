//! One client's question: which of the past, and whether to go on.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tonic::Status;
use weft_api::hubble::filter::FlowFilters;
use weft_api::hubble::flow::{LostEvent, LostEventSource};
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};
use weft_api::hubble::wkt::Timestamp;

use super::mask::{self, Mask};
use super::ring::{Entry, Ring, Seen};

/// Refuses a question that contradicts itself or has a filter that cannot be
/// honoured; else its compiled filters.
///
/// # Errors
/// `InvalidArgument`, or `Unknown` for filters: clients print the bare message
/// of that code.
pub(crate) fn check(request: &GetFlowsRequest) -> Result<FlowFilters, Status> {
    if request.first && request.follow {
        return Err(Status::invalid_argument(
            "first cannot be specified with follow",
        ));
    }
    for time in [&request.since, &request.until].into_iter().flatten() {
        if !time.is_valid() {
            return Err(Status::invalid_argument("time out of range"));
        }
    }
    Mask::new(request.field_mask.as_ref()).map_err(Status::invalid_argument)?;
    FlowFilters::new(&request.whitelist, &request.blacklist)
        .map_err(|error| Status::unknown(error.to_string()))
}

/// A question that is being answered.
pub(super) struct Query {
    ring: Arc<Ring>,
    filters: FlowFilters,
    mask: Option<Mask>,
    node_name: String,
    until: Option<Timestamp>,
    /// What of the past is still to be sent, newest first.
    past: Vec<Arc<Entry>>,
    /// Where following goes on.
    follow: Option<Follow>,
}

struct Follow {
    next: u64,
    news: watch::Receiver<u64>,
}

impl Query {
    pub(super) fn new(
        ring: Arc<Ring>,
        request: &GetFlowsRequest,
        node_name: String,
    ) -> Result<Self, Status> {
        let filters = check(request)?;
        let mask = Mask::new(request.field_mask.as_ref()).map_err(Status::invalid_argument)?;
        // Subscribed before the past is read, so that nothing falls between.
        let news = ring.news();
        let end = ring.end();
        let selection = Selection {
            ring: &ring,
            filters: &filters,
            request,
            end,
        };
        let mut past = selection.past();
        // Packets and requests come by different ways; people read by time.
        past.sort_by(|a, b| b.time.cmp(&a.time).then(b.number.cmp(&a.number)));
        Ok(Self {
            until: request.until,
            follow: request.follow.then_some(Follow { next: end, news }),
            ring,
            filters,
            mask,
            node_name,
            past,
        })
    }

    /// The next response, or the end.
    pub(super) async fn next(&mut self) -> Option<GetFlowsResponse> {
        if let Some(entry) = self.past.pop() {
            return Some(self.response(&entry));
        }
        loop {
            let follow = self.follow.as_mut()?;
            let end = *follow.news.borrow_and_update();
            if follow.next >= end {
                follow.news.changed().await.ok()?;
                continue;
            }
            let oldest = self.ring.oldest();
            if follow.next < oldest {
                let missed = oldest - follow.next;
                follow.next = oldest;
                return Some(self.overtaken(missed));
            }
            let number = follow.next;
            let Some(entry) = self.ring.get(number) else {
                // Overwritten since: the next round counts it.
                if self.ring.oldest() <= number {
                    follow.next += 1;
                }
                continue;
            };
            follow.next += 1;
            let Seen::Flow(flow) = &entry.seen else {
                return Some(self.response(&entry));
            };
            if self.until.is_some_and(|until| entry.time > until) {
                return None;
            }
            if self.filters.matches(flow) {
                return Some(self.response(&entry));
            }
        }
    }

    fn response(&self, entry: &Entry) -> GetFlowsResponse {
        let response = match &entry.seen {
            Seen::Flow(flow) => ResponseTypes::Flow(mask::apply(flow, self.mask.as_ref())),
            Seen::Lost(lost) => ResponseTypes::LostEvents(*lost),
        };
        GetFlowsResponse {
            response_types: Some(response),
            node_name: self.node_name.clone(),
            time: Some(entry.time),
        }
    }

    /// The client reads slower than flows come.
    fn overtaken(&self, missed: u64) -> GetFlowsResponse {
        let lost = LostEvent {
            source: LostEventSource::HubbleRingBuffer.into(),
            num_events_lost: missed,
            ..LostEvent::default()
        };
        GetFlowsResponse {
            response_types: Some(ResponseTypes::LostEvents(lost)),
            node_name: self.node_name.clone(),
            time: Some(SystemTime::now().into()),
        }
    }
}

struct Selection<'a> {
    ring: &'a Ring,
    filters: &'a FlowFilters,
    request: &'a GetFlowsRequest,
    end: u64,
}

impl Selection<'_> {
    /// The part of the past that is asked for. `since` beats `number` in
    /// saying where to start; `number` counts flows after filtering; losses
    /// come along uncounted.
    fn past(&self) -> Vec<Arc<Entry>> {
        let request = self.request;
        let entries = self.ring.oldest()..self.end;
        if request.since.is_some() || request.first {
            let limit = if request.follow { 0 } else { request.number };
            return self.take(entries, limit);
        }
        if request.follow && request.number == 0 {
            return Vec::new();
        }
        self.take(entries.rev(), request.number)
    }

    /// Up to `limit` flows (0: all), and the losses among them.
    fn take(&self, numbers: impl Iterator<Item = u64>, limit: u64) -> Vec<Arc<Entry>> {
        let mut taken = Vec::new();
        let mut flows = 0;
        for entry in numbers.filter_map(|number| self.ring.get(number)) {
            if let Seen::Flow(flow) = &entry.seen {
                let early = self.request.since.is_some_and(|since| entry.time < since);
                let late = self.request.until.is_some_and(|until| entry.time > until);
                if early || late || !self.filters.matches(flow) {
                    continue;
                }
                flows += 1;
            }
            taken.push(entry);
            if limit > 0 && flows == limit {
                break;
            }
        }
        taken
    }
}
