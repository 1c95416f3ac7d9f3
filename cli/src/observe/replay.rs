//! Flows that were recorded as JSON lines, filtered here as a server would.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use weft_api::hubble::filter::FlowFilters;
use weft_api::hubble::flow::Flow;
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};

use super::Screen;
use crate::Error;

/// The most that `--last` keeps in memory.
const MAX_LAST: usize = 1_000_000;

/// Prints what the file at `path` (`-`: standard input) holds and the request
/// selects, in the file's order.
pub(super) fn replay(
    path: &str,
    request: &GetFlowsRequest,
    screen: &mut Screen<'_>,
) -> Result<(), Error> {
    let file_error = |error| Error::File {
        path: path.to_owned(),
        error,
    };
    let reader: Box<dyn BufRead> = if path == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(file_error)?))
    };
    let filters = FlowFilters::new(&request.whitelist, &request.blacklist)?;
    let mut window = Window::new(request)?;
    for line in reader.lines() {
        if window.full() {
            break;
        }
        let line = line.map_err(file_error)?;
        match serde_json::from_str::<GetFlowsResponse>(&line) {
            Err(error) => screen.warn(&format!(
                "Failed to unmarshal json to flow: {error}: {line}"
            ))?,
            Ok(response) if selects(request, &filters, &response) => {
                if let Some(response) = window.take(response) {
                    screen.show(&response)?;
                }
            }
            Ok(_) => {}
        }
    }
    window
        .rest
        .iter()
        .try_for_each(|response| screen.show(response))
}

fn selects(request: &GetFlowsRequest, filters: &FlowFilters, response: &GetFlowsResponse) -> bool {
    let time = response.time.unwrap_or_default();
    if request.since.is_some_and(|since| since > time)
        || request.until.is_some_and(|until| until < time)
    {
        return false;
    }
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => filters.matches(flow),
        _ => filters.matches(&Flow::default()),
    }
}

/// The first or last N of what is selected, or all of it.
struct Window {
    first: Option<u64>,
    last: Option<usize>,
    taken: u64,
    rest: VecDeque<GetFlowsResponse>,
}

impl Window {
    fn new(request: &GetFlowsRequest) -> Result<Self, Error> {
        let bound = Some(request.number).filter(|number| *number != 0 && *number != u64::MAX);
        let (first, last) = if request.first {
            (bound, None)
        } else {
            (None, bound)
        };
        let last = last.map(|last| {
            let fits = usize::try_from(last).ok().filter(|last| *last <= MAX_LAST);
            fits.ok_or_else(|| Error::usage(format!("--last must be <= {MAX_LAST}, got {last}")))
        });
        Ok(Self {
            first,
            last: last.transpose()?,
            taken: 0,
            rest: VecDeque::new(),
        })
    }

    fn full(&self) -> bool {
        self.first.is_some_and(|first| self.taken >= first)
    }

    /// The response back when it can be shown at once.
    fn take(&mut self, response: GetFlowsResponse) -> Option<GetFlowsResponse> {
        self.taken += 1;
        let Some(last) = self.last else {
            return Some(response);
        };
        if self.rest.len() == last {
            self.rest.pop_front();
        }
        self.rest.push_back(response);
        None
    }
}
