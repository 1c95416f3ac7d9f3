//! What happened to the nodes behind a relay.

use std::io::Write;

use weft_api::hubble::json;
use weft_api::hubble::observer::GetFlowsResponse;
use weft_api::hubble::relay::{NodeState, NodeStatusEvent};

use super::{Format, Printer, SEPARATOR};
use crate::Error;

/// Names are listed up to this length, then counted.
const NAMES_LENGTH: usize = 50;

impl Printer {
    pub(super) fn node_status(
        &mut self,
        response: &GetFlowsResponse,
        status: &NodeStatusEvent,
        err: &mut dyn Write,
    ) -> Result<(), Error> {
        let state = NodeState::try_from(status.state_change).unwrap_or(NodeState::UnknownNodeState);
        let trouble = matches!(state, NodeState::NodeError | NodeState::NodeUnavailable);
        if !trouble && !self.options.debug {
            return Ok(());
        }
        let names = names(&status.node_names);
        let time = self.time(response.time.as_ref());
        match self.options.format {
            Format::Json => Ok(writeln!(err, "{}", json::line(response)?)?),
            Format::Dict => {
                if self.entries > 0 {
                    self.text(err, &format!("{SEPARATOR}\n"))?;
                }
                self.entries = self.entries.max(1);
                let message = if status.message.is_empty() {
                    "N/A".to_owned()
                } else {
                    format!("{:?}", status.message)
                };
                let state = state.as_str_name();
                let block = format!(
                    "  TIMESTAMP: {time}\n      STATE: {state}\n      NODES: {names}\n    MESSAGE: {message}\n"
                );
                self.text(err, &block)
            }
            Format::Compact | Format::Table => {
                let number = status.node_names.len();
                let event = match state {
                    NodeState::NodeConnected => {
                        format!("Receiving flows from {number} nodes: {names}")
                    }
                    NodeState::NodeUnavailable => {
                        format!("{number} nodes are unavailable: {names}")
                    }
                    NodeState::NodeGone => format!("{number} nodes removed from cluster: {names}"),
                    NodeState::NodeError => {
                        format!("Error {:?} on {number} nodes: {names}", status.message)
                    }
                    NodeState::UnknownNodeState => format!("unknown node status event: {names}"),
                };
                self.text(err, &format!("{time} [{}]: {event}\n", response.node_name))
            }
        }
    }
}

/// At least one name, as many as fit, and the number of the others.
fn names(names: &[String]) -> String {
    let separator = ", ";
    let mut length = 0;
    let mut shown = names.len();
    for (index, name) in names.iter().enumerate() {
        length += name.len() + separator.len();
        if length > NAMES_LENGTH && index > 0 {
            shown = index;
            break;
        }
    }
    let listed = names[..shown].join(separator);
    match names.len() - shown {
        0 => listed,
        more => format!("{listed} (and {more} more)"),
    }
}
