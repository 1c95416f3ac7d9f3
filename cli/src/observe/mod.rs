//! `weft observe`: print flows, from a server or from a file.

mod fields;
mod filters;
mod flags;
mod replay;
mod select;

#[cfg(test)]
mod tests;

use std::io::{BufWriter, IsTerminal as _, Write};
use std::pin::pin;

use clap::ArgMatches;
use futures_util::FutureExt as _;
use tonic::Code;
use weft_api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};
use weft_api::hubble::wkt::FieldMask;

use crate::Error;
use crate::print::color::Painter;
use crate::print::{Format, Options, Printer};
use crate::server::Server;

pub(crate) use flags::command;

/// What the text formats show: nothing else needs to travel. Longer than the
/// stock client's list, which leaves out what its own lines are made of.
const SHOWN_FIELDS: [&str; 31] = [
    "time",
    "verdict",
    "auth_type",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "source_names",
    "destination_names",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "traffic_direction",
    "policy_match_type",
    "is_reply",
    "debug_capture_point",
    "sock_xlate_point",
    "ip_trace_id",
    "Summary",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
];

/// Everything that the arguments ask for.
struct Plan {
    request: GetFlowsRequest,
    options: Options,
}

impl Plan {
    fn new(matches: &ArgMatches) -> Result<Self, Error> {
        let follow = matches.get_flag("follow");
        let format = Format::parse(flags::text(matches, "output"))?;
        if format == Format::Table && follow {
            return Err(Error::usage(
                "table output format is not compatible with follow mode",
            ));
        }
        let (whitelist, blacklist) = filters::lists(matches)?;
        let selection = select::selection(matches)?;
        let request = GetFlowsRequest {
            number: selection.number,
            first: selection.first,
            follow,
            blacklist,
            whitelist,
            since: selection.since,
            until: selection.until,
            field_mask: field_mask(matches, format)?,
            extensions: None,
        };
        let numeric = matches.get_flag("numeric");
        let options = Options {
            format,
            time: flags::text(matches, "time-format")
                .parse()
                .unwrap_or_default(),
            names: !numeric && matches.get_one("ip-translation").copied().unwrap_or(true),
            node_name: matches.get_flag("print-node-name"),
            policy_names: matches.get_flag("print-policy-names"),
            debug: matches.get_flag("debug"),
            painter: Painter::choose(
                flags::text(matches, "color"),
                std::io::stdout().is_terminal(),
            ),
        };
        Ok(Self { request, options })
    }
}

fn field_mask(matches: &ArgMatches, format: Format) -> Result<Option<FieldMask>, Error> {
    let given = matches.get_many::<String>("field-mask");
    let paths: Vec<String> = given.into_iter().flatten().cloned().collect();
    if format == Format::Json {
        return Ok((!paths.is_empty()).then_some(FieldMask { paths }));
    }
    if !paths.is_empty() {
        return Err(Error::usage(format!(
            "{} output format is not compatible with custom field mask",
            flags::text(matches, "output")
        )));
    }
    let default = matches.get_one("use-default-field-masks").copied();
    Ok(default.unwrap_or(true).then(|| FieldMask {
        paths: SHOWN_FIELDS.map(str::to_owned).to_vec(),
    }))
}

pub(crate) async fn run(
    matches: &ArgMatches,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Error> {
    // `observe flows` is `observe`.
    let matches = matches.subcommand_matches("flows").unwrap_or(matches);
    let plan = Plan::new(matches)?;
    if matches.get_flag("print-raw-filters") {
        return Ok(out.write_all(filters::raw(&plan.request)?.as_bytes())?);
    }
    let mut silent = std::io::sink();
    let err = if matches.get_flag("silent-errors") {
        &mut silent
    } else {
        err
    };
    let mut screen = Screen {
        printer: Printer::new(plan.options),
        out: BufWriter::new(out),
        err,
    };
    match matches.get_one::<String>("input-file") {
        Some(path) => replay::replay(path, &plan.request, &mut screen)?,
        None => stream(matches, plan.request, &mut screen).await?,
    }
    screen.finish()
}

/// Where responses go.
struct Screen<'a> {
    printer: Printer,
    out: BufWriter<&'a mut dyn Write>,
    err: &'a mut dyn Write,
}

impl Screen<'_> {
    fn show(&mut self, response: &GetFlowsResponse) -> Result<(), Error> {
        self.printer.write(response, &mut self.out, self.err)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(self.out.flush()?)
    }

    fn warn(&mut self, message: &str) -> Result<(), Error> {
        Ok(writeln!(self.err, "{message}")?)
    }

    fn finish(mut self) -> Result<(), Error> {
        self.printer.finish(&mut self.out)?;
        Ok(self.out.flush()?)
    }
}

async fn stream(
    matches: &ArgMatches,
    request: GetFlowsRequest,
    screen: &mut Screen<'_>,
) -> Result<(), Error> {
    let server = Server::connect(matches).await?;
    let mut flows = server.observer().get_flows(request).await?.into_inner();
    loop {
        let mut message = pin!(flows.message());
        let next = match (&mut message).now_or_never() {
            Some(next) => next,
            None => {
                // Nothing more for now: what there is must be seen.
                screen.flush()?;
                tokio::select! {
                    // Ending the command by hand is how following ends.
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                    next = message => next,
                }
            }
        };
        match next {
            Ok(Some(response)) => screen.show(&response)?,
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::Cancelled => return Ok(()),
            Err(status) => return Err(status.into()),
        }
    }
}
