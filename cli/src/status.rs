//! `weft status`: how the observer or relay is.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use weft_api::hubble::json;
use weft_api::hubble::observer::{ServerStatusRequest, ServerStatusResponse};

use crate::Error;
use crate::print::Format;
use crate::print::table::Table;
use crate::print::time::show_duration;
use crate::server::Server;

/// Name under which observers answer health checks.
const HEALTH_SERVICE: &str = "hubble.server.Observer";

/// `weft status`.
pub(crate) fn command() -> Command {
    Command::new("status")
        .about("Show the state of the observer or relay")
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FORMAT")
                .default_value("compact")
                .help("compact, dict, json, table"),
        )
}

pub(crate) async fn run(matches: &ArgMatches, out: &mut dyn Write) -> Result<(), Error> {
    let output = matches
        .get_one::<String>("output")
        .map_or("", String::as_str);
    let format = Format::parse(output)?;
    let server = Server::connect(matches).await?;
    let question = HealthCheckRequest {
        service: HEALTH_SERVICE.to_owned(),
    };
    let answer = HealthClient::new(server.channel.clone())
        .check(server.request(question))
        .await?
        .into_inner();
    let serving = answer.status() == ServingStatus::Serving;
    if format == Format::Compact {
        let word = if serving {
            "Ok".to_owned()
        } else {
            format!("Unavailable: {}", answer.status().as_str_name())
        };
        writeln!(out, "Healthcheck (via {}): {word}", server.address)?;
    }
    if !serving {
        return Err(Error::Unhealthy);
    }
    let request = server.request(ServerStatusRequest {});
    let status = server.observer().server_status(request).await?.into_inner();
    Ok(out.write_all(render(&status, format)?.as_bytes())?)
}

fn render(status: &ServerStatusResponse, format: Format) -> Result<String, Error> {
    Ok(match format {
        Format::Json => format!("{}\n", json::message(status)?),
        Format::Compact => compact(status),
        Format::Dict => {
            let titles = [
                "          NUM FLOWS",
                "          MAX FLOWS",
                "         SEEN FLOWS",
                "   FLOWS PER SECOND",
                "             UPTIME",
                "NUM CONNECTED NODES",
                " NUM UNAVAIL. NODES",
                "            VERSION",
            ];
            let lines = titles.iter().zip(values(status));
            lines
                .map(|(title, value)| format!("{title}: {value}\n"))
                .collect()
        }
        Format::Table => {
            let mut table = Table::default();
            table.row(
                [
                    "NUM FLOWS",
                    "MAX FLOWS",
                    "SEEN FLOWS",
                    "FLOWS PER SECOND",
                    "UPTIME",
                    "NUM CONNECTED NODES",
                    "NUM UNAVAILABLE NODES",
                    "VERSION",
                ]
                .map(str::to_owned)
                .to_vec(),
            );
            table.row(values(status).to_vec());
            table.render()
        }
    })
}

fn values(status: &ServerStatusResponse) -> [String; 8] {
    let number = |n: Option<u32>| n.map_or_else(|| "N/A".to_owned(), |n| n.to_string());
    [
        grouped(status.num_flows),
        grouped(status.max_flows),
        grouped(status.seen_flows),
        rate(status.flows_rate).unwrap_or_else(|| "N/A".to_owned()),
        show_duration(status.uptime_ns),
        number(status.num_connected_nodes),
        number(status.num_unavailable_nodes),
        status.version.clone(),
    ]
}

fn rate(rate: f64) -> Option<String> {
    (rate > 0.0).then(|| format!("{rate:.2}"))
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn ratio(part: u64, whole: f64) -> f64 {
    part as f64 / whole
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn compact(status: &ServerStatusResponse) -> String {
    let fill = if status.max_flows > 0 {
        format!(
            " ({:.2}%)",
            ratio(status.num_flows, status.max_flows as f64) * 100.0
        )
    } else {
        String::new()
    };
    let (flows, max) = (grouped(status.num_flows), grouped(status.max_flows));
    let mut out = format!("Current/Max Flows: {flows}/{max}{fill}\n");
    let uptime = status.uptime_ns as f64 / 1e9;
    let average = || (uptime > 0.0).then(|| format!("{:.2}", ratio(status.seen_flows, uptime)));
    let per_second = rate(status.flows_rate).or_else(average);
    out.push_str(&format!(
        "Flows/s: {}\n",
        per_second.as_deref().unwrap_or("N/A")
    ));
    let unavailable = status.num_unavailable_nodes;
    if let Some(connected) = status.num_connected_nodes {
        let total = unavailable.map(|other| format!("/{}", other + connected));
        out.push_str(&format!(
            "Connected Nodes: {connected}{}\n",
            total.unwrap_or_default()
        ));
    }
    if let Some(number) = unavailable.filter(|number| *number > 0) {
        out.push_str(&format!("Unavailable Nodes: {number}\n"));
        out.push_str(&unavailable_nodes(status, number));
    }
    out
}

fn unavailable_nodes(status: &ServerStatusResponse, number: u32) -> String {
    let mut names = status.unavailable_nodes.clone();
    names.sort();
    let unnamed = (number as usize).saturating_sub(names.len());
    if unnamed > 0 && !names.is_empty() {
        names.push(format!("and {unnamed} more..."));
    }
    names.iter().map(|name| format!("  - {name}\n")).collect()
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ServerStatusResponse {
        ServerStatusResponse {
            num_flows: 2_047,
            max_flows: 4_095,
            seen_flows: 1_234_567,
            uptime_ns: 61_500_000_000,
            num_connected_nodes: Some(2),
            num_unavailable_nodes: Some(1),
            unavailable_nodes: vec!["kind-worker3".into()],
            version: "weft 0.1.0".into(),
            flows_rate: 0.0,
        }
    }

    #[test]
    fn compact_lines() {
        assert_eq!(
            compact(&status()),
            "Current/Max Flows: 2,047/4,095 (49.99%)\nFlows/s: 20074.26\n\
             Connected Nodes: 2/3\nUnavailable Nodes: 1\n  - kind-worker3\n"
        );
    }

    #[test]
    fn table_and_dict() {
        assert_eq!(
            render(&status(), Format::Table).unwrap(),
            "NUM FLOWS   MAX FLOWS   SEEN FLOWS   FLOWS PER SECOND   UPTIME   NUM CONNECTED NODES   NUM UNAVAILABLE NODES   VERSION\n\
             2,047       4,095       1,234,567    N/A                1m1.5s   2                     1                       weft 0.1.0\n"
        );
        let dict = render(&status(), Format::Dict).unwrap();
        assert!(dict.starts_with("          NUM FLOWS: 2,047\n"), "{dict}");
        assert_eq!(dict.lines().count(), 8);
    }
}
