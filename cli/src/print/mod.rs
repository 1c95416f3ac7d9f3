//! Responses as text: the stock client's formats, byte for byte.

pub mod color;
mod flow;
mod node_status;
pub mod table;
pub mod time;

use std::io::Write;

use weft_api::hubble::flow::{Flow, LostEvent, LostEventSource};
use weft_api::hubble::json;
use weft_api::hubble::observer::GetFlowsResponse;
use weft_api::hubble::observer::get_flows_response::ResponseTypes;
use weft_api::hubble::wkt::Timestamp;

use crate::Error;
use color::Painter;
use flow::Words;
use table::Table;
use time::TimeFormat;

/// Between two entries of the dict format.
const SEPARATOR: &str = "------------";

/// The output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line per flow.
    Compact,
    /// A block of `KEY: value` lines per flow.
    Dict,
    /// A JSON document per line.
    Json,
    /// Columns; printed when the last flow is known.
    Table,
}

impl Format {
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "compact" => Ok(Self::Compact),
            "dict" => Ok(Self::Dict),
            "json" | "JSON" | "jsonpb" => Ok(Self::Json),
            "tab" | "table" => Ok(Self::Table),
            other => Err(Error::usage(format!(
                "invalid output format: {other}, expected one of [compact dict jsonpb json table tab]"
            ))),
        }
    }
}

/// How flows are shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// The format.
    pub format: Format,
    /// How times look.
    pub time: TimeFormat,
    /// Names instead of addresses.
    pub names: bool,
    /// Show the node that saw the flow.
    pub node_name: bool,
    /// Show which policies decided.
    pub policy_names: bool,
    /// Also show what is only informative.
    pub debug: bool,
    /// Colours, or none.
    pub painter: Painter,
}

/// Writes responses one after the other.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    entries: u64,
    table: Table,
}

impl Printer {
    /// A printer that has printed nothing yet.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        if options.format == Format::Table {
            options.painter = Painter::none();
        }
        Self {
            options,
            entries: 0,
            table: Table::default(),
        }
    }

    /// Writes one response: flows and lost events to `out`, states of nodes to
    /// `err`.
    ///
    /// # Errors
    /// When writing fails, or a value has no JSON.
    pub fn write(
        &mut self,
        response: &GetFlowsResponse,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<(), Error> {
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => self.flow(response, flow, out),
            Some(ResponseTypes::LostEvents(lost)) => self.lost(response, lost, out),
            Some(ResponseTypes::NodeStatus(status)) => self.node_status(response, status, err),
            None => Ok(()),
        }
    }

    /// Writes what had to wait for the end.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        Ok(out.write_all(self.table.render().as_bytes())?)
    }

    fn time(&self, time: Option<&Timestamp>) -> String {
        self.options.time.format(time)
    }

    fn flow(
        &mut self,
        response: &GetFlowsResponse,
        flow: &Flow,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        if self.options.format == Format::Json {
            return Ok(writeln!(out, "{}", json::line(response)?)?);
        }
        let words = Words::of(flow, &self.options);
        let time = self.time(flow.time.as_ref());
        match self.options.format {
            Format::Compact => {
                let node = self.in_brackets(&flow.node_name);
                let line = words.compact();
                self.text(out, &format!("{time}{node}: {line}\n"))?;
            }
            Format::Dict => {
                let node = self.node_line(&flow.node_name);
                let block = format!(
                    "  TIMESTAMP: {time}\n{node}     SOURCE: {}\nDESTINATION: {}\n       TYPE: {}\n    VERDICT: {}\n    SUMMARY: {}\n",
                    words.source, words.destination, words.kind, words.verdict, words.summary
                );
                self.block(out, &block)?;
            }
            _ => {
                let cells = [
                    words.source,
                    words.destination,
                    words.kind,
                    words.verdict,
                    words.summary,
                ];
                self.row(time, &flow.node_name, cells);
            }
        }
        self.entries += 1;
        Ok(())
    }

    fn lost(
        &mut self,
        response: &GetFlowsResponse,
        lost: &LostEvent,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        if self.options.format == Format::Json {
            return Ok(writeln!(out, "{}", json::line(response)?)?);
        }
        let source = LostEventSource::try_from(lost.source).map_or_else(
            |_| lost.source.to_string(),
            |source| source.as_str_name().to_owned(),
        );
        let time = self.time(response.time.as_ref());
        let cpu = lost.cpu.unwrap_or(0);
        let number = lost.num_events_lost;
        let span = match (&lost.first, &lost.last) {
            (Some(first), Some(last)) => {
                let (first, last) = (self.time(Some(first)), self.time(Some(last)));
                format!(" (first: {first}, last: {last})")
            }
            _ => String::new(),
        };
        let node = if response.node_name.is_empty() {
            "-"
        } else {
            &response.node_name
        };
        match self.options.format {
            Format::Compact => {
                self.text(
                    out,
                    &format!("{time} EVENTS LOST: {source} CPU({cpu}) {number}{span}\n"),
                )?;
            }
            Format::Dict => {
                let node = self.node_line(node);
                let block = format!(
                    "  TIMESTAMP: {time}\n{node}     SOURCE: {source}\n       TYPE: EVENTS LOST\n    VERDICT: -\n    SUMMARY: CPU({cpu}) - {number}{span}\n"
                );
                self.block(out, &block)?;
            }
            _ => {
                let summary = format!("CPU({cpu}) - {number}{span}");
                let cells = [
                    source,
                    "-".into(),
                    "EVENTS LOST".into(),
                    "-".into(),
                    summary,
                ];
                self.row(time, node, cells);
            }
        }
        self.entries += 1;
        Ok(())
    }

    fn in_brackets(&self, node: &str) -> String {
        if self.options.node_name {
            format!(" [{node}]")
        } else {
            String::new()
        }
    }

    fn node_line(&self, node: &str) -> String {
        if self.options.node_name {
            format!("       NODE: {node}\n")
        } else {
            String::new()
        }
    }

    fn block(&self, out: &mut dyn Write, block: &str) -> Result<(), Error> {
        if self.entries > 0 {
            self.text(out, &format!("{SEPARATOR}\n"))?;
        }
        self.text(out, block)
    }

    fn row(&mut self, time: String, node: &str, cells: [String; 5]) {
        let with_node = |time: String, node: String, rest: [String; 5]| {
            let node = self.options.node_name.then_some(node);
            [time]
                .into_iter()
                .chain(node)
                .chain(rest)
                .collect::<Vec<_>>()
        };
        if self.entries == 0 {
            let titles = ["SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"].map(str::to_owned);
            self.table
                .row(with_node("TIMESTAMP".into(), "NODE".into(), titles));
        }
        let cells = cells.map(|cell| self.options.painter.escape(&cell));
        self.table.row(with_node(time, node.to_owned(), cells));
    }

    /// What comes from the network must not steer the terminal.
    fn text(&self, out: &mut dyn Write, text: &str) -> Result<(), Error> {
        Ok(out.write_all(self.options.painter.escape(text).as_bytes())?)
    }
}
