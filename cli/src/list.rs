//! `weft list nodes` and `weft list namespaces`.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use weft_api::hubble::json;
use weft_api::hubble::observer::{GetNamespacesRequest, GetNodesRequest, Namespace, Node};
use weft_api::hubble::relay::NodeState;

use crate::Error;
use crate::print::table::Table;
use crate::print::time::show_duration;
use crate::server::Server;

const NOT_AVAILABLE: &str = "N/A";
const SECOND: u64 = 1_000_000_000;

/// `weft list`.
pub(crate) fn command() -> Command {
    let output = || {
        Arg::new("output")
            .long("output")
            .short('o')
            .value_name("FORMAT")
            .default_value("table")
            .help("json, table or wide")
    };
    Command::new("list")
        .about("List nodes or namespaces")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("nodes")
                .alias("node")
                .about("The nodes whose flows are seen")
                .arg(output()),
        )
        .subcommand(
            Command::new("namespaces")
                .about("The namespaces that flows were seen in")
                .arg(output()),
        )
}

pub(crate) async fn run(matches: &ArgMatches, out: &mut dyn Write) -> Result<(), Error> {
    let Some((what, matches)) = matches.subcommand() else {
        return Err(Error::usage("list what?"));
    };
    let output = matches
        .get_one::<String>("output")
        .map_or("", String::as_str);
    let wide = match output {
        "json" | "table" => false,
        "wide" => true,
        other => return Err(Error::usage(format!("unknown output format: {other}"))),
    };
    let server = Server::connect(matches).await?;
    let text = if what == "nodes" {
        let request = server.request(GetNodesRequest {});
        let mut nodes = server
            .observer()
            .get_nodes(request)
            .await?
            .into_inner()
            .nodes;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        if output == "json" {
            pretty(&nodes)?
        } else {
            node_table(&nodes, wide)
        }
    } else {
        let request = server.request(GetNamespacesRequest {});
        let answer = server
            .observer()
            .get_namespaces(request)
            .await?
            .into_inner();
        let namespaces = answer.namespaces;
        if output == "json" {
            pretty(&namespaces)?
        } else {
            namespace_table(&namespaces, wide)
        }
    };
    Ok(out.write_all(text.as_bytes())?)
}

fn pretty(list: &impl serde::Serialize) -> Result<String, Error> {
    // Through the compact form, so that escapes are the protocol's.
    let compact: serde_json::Value = serde_json::from_str(&json::message(list)?)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&compact)?))
}

fn node_table(nodes: &[Node], wide: bool) -> String {
    let mut table = Table::default();
    let cells = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut titles = cells(&["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"]);
    if wide {
        titles.extend(cells(&["VERSION", "ADDRESS", "TLS"]));
    }
    table.row(titles);
    for node in nodes {
        let mut row = node_row(node);
        if wide {
            let tls = node.tls.as_ref().map_or(NOT_AVAILABLE, |tls| {
                if tls.enabled { "Enabled" } else { "Disabled" }
            });
            let version = Some(node.version.as_str()).filter(|version| !version.is_empty());
            row.extend(cells(&[
                version.unwrap_or(NOT_AVAILABLE),
                &node.address,
                tls,
            ]));
        }
        table.row(row);
    }
    table.render()
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn node_row(node: &Node) -> Vec<String> {
    let uptime = (node.uptime_ns + SECOND / 2) / SECOND;
    let (age, rate) = if uptime > 0 {
        let rate = node.seen_flows as f64 / uptime as f64;
        (show_duration(uptime * SECOND), format!("{rate:.2}"))
    } else {
        (NOT_AVAILABLE.to_owned(), NOT_AVAILABLE.to_owned())
    };
    let fill = if node.max_flows > 0 {
        let percent = node.num_flows as f64 / node.max_flows as f64 * 100.0;
        format!("{}/{} ({percent:6.2}%)", node.num_flows, node.max_flows)
    } else {
        NOT_AVAILABLE.to_owned()
    };
    let state = match NodeState::try_from(node.state) {
        Ok(NodeState::NodeConnected) => "Connected",
        Ok(NodeState::NodeUnavailable) => "Unavailable",
        Ok(NodeState::NodeGone) => "Gone",
        Ok(NodeState::NodeError) => "Error",
        _ => "Unknown",
    };
    vec![node.name.clone(), state.to_owned(), age, rate, fill]
}

fn namespace_table(namespaces: &[Namespace], wide: bool) -> String {
    let mut table = Table::default();
    let row = |namespace: &str, cluster: &str| {
        let cluster = (wide && !cluster.is_empty()).then(|| cluster.to_owned());
        [namespace.to_owned()].into_iter().chain(cluster).collect()
    };
    table.row(row("NAMESPACE", "CLUSTER"));
    for namespace in namespaces {
        table.row(row(&namespace.namespace, &namespace.cluster));
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_and_without_answers() {
        let up = Node {
            name: "kind-worker".into(),
            version: "weft 0.1.0".into(),
            address: "172.18.0.2:4244".into(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: 3_661_200_000_000,
            num_flows: 10,
            max_flows: 4_095,
            seen_flows: 3_661,
            ..Node::default()
        };
        let down = Node {
            name: "kind-worker2".into(),
            state: NodeState::NodeUnavailable.into(),
            ..Node::default()
        };
        assert_eq!(
            node_table(&[up, down], false),
            "NAME           STATUS        AGE      FLOWS/S   CURRENT/MAX-FLOWS\n\
             kind-worker    Connected     1h1m1s   1.00      10/4095 (  0.24%)\n\
             kind-worker2   Unavailable   N/A      N/A       N/A\n"
        );
    }
}
