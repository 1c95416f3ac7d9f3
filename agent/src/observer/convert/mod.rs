//! Flows from what the datapath and the proxy report.

mod ends;
mod interfaces;
mod packet;
mod record;
mod summary;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use weft_api::hubble::flow::{
    DropReason, Emitter, Flow, LostEvent, LostEventSource, NetworkInterface, Policy,
};
use weft_api::hubble::wkt::Timestamp;
use weft_api::node::{Record, RuleRef};
use weft_datapath::Event;

use crate::view::{View, ViewHandle};
use interfaces::Interfaces;

/// Name under which flows say who made them.
const EMITTER: &str = "weft";

/// Turns reports into flows, with the names that hold at that moment.
#[derive(Debug)]
pub(super) struct Converter {
    view: ViewHandle,
    interfaces: Interfaces,
    /// When losses were last reported, so that each report covers a span.
    losses: [Option<Timestamp>; 2],
}

impl Converter {
    pub(super) fn new(view: ViewHandle) -> Self {
        Self {
            view,
            interfaces: Interfaces::default(),
            losses: [None; 2],
        }
    }

    /// A packet that passed, was translated, judged or dropped.
    pub(super) fn event(&mut self, event: &Event) -> Flow {
        let view = self.view.load();
        let mut flow = packet::flow(event, &view);
        flow.interface = (event.ifindex != 0).then(|| NetworkInterface {
            index: event.ifindex,
            name: self.interfaces.name(event.ifindex),
        });
        flow
    }

    /// A request or a response.
    pub(super) fn record(&self, record: &Record) -> Flow {
        let view = self.view.load();
        record::flow(record, &view)
    }

    /// Events that the kernel's ring had no room for.
    pub(super) fn events_lost(&mut self, number: u64) -> Option<LostEvent> {
        lost(
            &mut self.losses[0],
            LostEventSource::PerfEventRingBuffer,
            number,
        )
    }

    /// Records that the proxy dropped because the agent was behind.
    pub(super) fn records_lost(&mut self, number: u64) -> Option<LostEvent> {
        lost(
            &mut self.losses[1],
            LostEventSource::ObserverEventsQueue,
            number,
        )
    }
}

fn lost(since: &mut Option<Timestamp>, source: LostEventSource, number: u64) -> Option<LostEvent> {
    let now = Timestamp::from(SystemTime::now());
    let first = since.replace(now).unwrap_or(now);
    (number > 0).then(|| LostEvent {
        source: source.into(),
        num_events_lost: number,
        cpu: None,
        first: Some(first),
        last: Some(now),
    })
}

/// What every flow of this node has in common.
fn base(view: &View, time: Timestamp) -> Flow {
    Flow {
        time: Some(time),
        uuid: uuid::Uuid::new_v4().to_string(),
        emitter: Some(Emitter {
            name: EMITTER.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        node_name: view.node.name.clone(),
        node_labels: view.node.labels.clone(),
        ..Flow::default()
    }
}

/// Says why the flow was dropped: the number for older clients, and the name.
fn set_drop_reason(flow: &mut Flow, reason: u8) {
    flow.drop_reason = u32::from(reason);
    let name = DropReason::try_from(i32::from(reason));
    flow.drop_reason_desc = name.unwrap_or(DropReason::Unknown).into();
}

/// A rule as the policy object that it is part of. The place inside the object
/// is a label, since the protocol has no field for it.
fn policy(rule: &RuleRef, revision: u64) -> Policy {
    const PREFIX: &str = "k8s:io.cilium.k8s.policy.";
    let mut labels = vec![
        format!("{PREFIX}derived-from={}", rule.kind),
        format!("{PREFIX}name={}", rule.name),
    ];
    if !rule.namespace.is_empty() {
        labels.push(format!("{PREFIX}namespace={}", rule.namespace));
    }
    if !rule.rule.is_empty() {
        labels.push(format!("weft:rule={}", rule.rule));
    }
    Policy {
        name: rule.name.clone(),
        namespace: rule.namespace.clone(),
        labels,
        revision,
        kind: rule.kind.clone(),
    }
}
