//! The flags of `weft observe`: those of the stock client, by the same names.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// A flag that filters flows. Their order on the command line matters: `--not`
/// reverses the next one.
pub(super) struct FilterFlag {
    pub name: &'static str,
    pub short: Option<char>,
    /// What the value is; empty for switches.
    pub value: &'static str,
    help: &'static str,
}

const fn filter(name: &'static str, value: &'static str, help: &'static str) -> FilterFlag {
    FilterFlag {
        name,
        short: None,
        value,
        help,
    }
}

const fn short(flag: FilterFlag, short: char) -> FilterFlag {
    FilterFlag {
        short: Some(short),
        ..flag
    }
}

/// Every filter flag.
#[rustfmt::skip]
pub(super) const FILTERS: &[FilterFlag] = &[
    filter("not", "", "Reverse the next filter: leave out what it matches"),
    filter("uuid", "UUID", "The flow with this identifier"),
    filter("node-name", "PATTERN", "Flows seen on matching nodes (\"k8s*\", \"cluster/*.company.com\")"),
    filter("node-label", "SELECTOR", "Flows seen on nodes with matching labels"),
    filter("from-cluster", "NAME", "From endpoints of this cluster"),
    filter("cluster", "NAME", "From or to endpoints of this cluster"),
    filter("to-cluster", "NAME", "To endpoints of this cluster"),
    filter("protocol", "NAME", "This protocol: tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, http, dns, kafka"),
    filter("tcp-flags", "FLAGS", "All of these TCP flags (\"syn,ack\")"),
    short(filter("type", "TYPE[:SUBTYPE]", "This event type: trace[:to-proxy, ...], drop, policy-verdict, trace-sock, l7, capture"), 't'),
    filter("verdict", "VERDICT", "This verdict: FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED, TRANSLATED"),
    filter("drop-reason-desc", "REASON", "Dropped for this reason (\"POLICY_DENIED\")"),
    filter("http-status", "CODE", "This HTTP status or prefix of it (\"404\", \"5+\")"),
    filter("http-method", "METHOD", "This HTTP method"),
    filter("http-path", "REGEX", "HTTP paths that match"),
    filter("http-url", "REGEX", "HTTP URLs that match"),
    filter("http-header", "NAME:VALUE", "With this HTTP header"),
    filter("trace-id", "ID", "Of this trace"),
    filter("ip-trace-id", "NUMBER", "Of this IP trace"),
    filter("from-fqdn", "PATTERN", "From this domain name (\"*.example.com\")"),
    filter("fqdn", "PATTERN", "From or to this domain name"),
    filter("to-fqdn", "PATTERN", "To this domain name"),
    filter("from-ip", "ADDRESS", "From this address or range"),
    filter("snat-ip", "ADDRESS", "Whose source was translated to this address or range"),
    filter("ip", "ADDRESS", "From or to this address or range"),
    filter("to-ip", "ADDRESS", "To this address or range"),
    short(filter("ipv4", "", "IPv4 only"), '4'),
    short(filter("ipv6", "", "IPv6 only"), '6'),
    filter("ip-version", "VERSION", "v4, v6 or none"),
    filter("from-pod", "[NS/]NAME", "From pods whose name starts so (namespace: default)"),
    filter("pod", "[NS/]NAME", "From or to pods whose name starts so"),
    filter("to-pod", "[NS/]NAME", "To pods whose name starts so"),
    filter("from-namespace", "NS", "From this namespace"),
    short(filter("namespace", "NS", "From or to this namespace"), 'n'),
    filter("to-namespace", "NS", "To this namespace"),
    filter("from-all-namespaces", "", "From any namespace"),
    short(filter("all-namespaces", "", "From or to any namespace"), 'A'),
    filter("to-all-namespaces", "", "To any namespace"),
    filter("from-label", "SELECTOR", "From endpoints with matching labels (\"org=empire\", \"reserved:world\")"),
    short(filter("label", "SELECTOR", "From or to endpoints with matching labels"), 'l'),
    filter("to-label", "SELECTOR", "To endpoints with matching labels"),
    filter("from-service", "[NS/]NAME", "From services whose name starts so"),
    filter("service", "[NS/]NAME", "From or to services whose name starts so"),
    filter("to-service", "[NS/]NAME", "To services whose name starts so"),
    filter("from-port", "PORT", "From this port"),
    filter("port", "PORT", "From or to this port"),
    filter("to-port", "PORT", "To this port"),
    filter("from-workload", "[KIND/]NAME", "From this workload"),
    filter("workload", "[KIND/]NAME", "From or to this workload"),
    filter("to-workload", "[KIND/]NAME", "To this workload"),
    filter("from-identity", "IDENTITY", "From this security identity, by number or reserved name"),
    filter("identity", "IDENTITY", "From or to this security identity"),
    filter("to-identity", "IDENTITY", "To this security identity"),
    filter("traffic-direction", "DIRECTION", "ingress or egress"),
    filter("cel-expression", "EXPRESSION", "Not supported by weft's observer; sent for those that do"),
    filter("interface", "NAME", "Seen on this interface"),
    filter("encrypted", "", "Encrypted only"),
    filter("unencrypted", "", "Unencrypted only"),
];

impl FilterFlag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .help(self.help)
            .help_heading("Filters")
            .action(ArgAction::Append);
        let arg = match self.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        if self.value.is_empty() {
            return arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true");
        }
        arg.num_args(1).value_name(self.value)
    }
}

/// `weft observe`.
pub(crate) fn command() -> Command {
    let flows = Command::new("flows")
        .about("The same as observe")
        .hide(true);
    with_flags(Command::new("observe").about("Print flows of the mesh"))
        .subcommand(with_flags(flows))
}

fn with_flags(command: Command) -> Command {
    command
        .args(selection())
        .args(FILTERS.iter().map(FilterFlag::arg))
        .args(formatting())
        .args(other())
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn value(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .num_args(1)
        .value_name(value)
        .help(help)
}

/// `--name`, `--name=true` or `--name=false`; true unless given.
fn toggle(name: &'static str, help: &'static str) -> Arg {
    value(name, "BOOL", help)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("true")
        .default_missing_value("true")
        .value_parser(value_parser!(bool))
}

fn selection() -> Vec<Arg> {
    let number = |name, help| value(name, "N", help).value_parser(value_parser!(u64));
    let args = vec![
        switch("all", "All flows that the observers still have"),
        number("last", "The last N flows of each node (default 20)"),
        number("first", "The oldest N flows of each node"),
        switch("follow", "Go on with flows as they come").short('f'),
        value(
            "since",
            "TIME",
            "From this time on: 3s, 4m, 1h43m ago, or a date",
        ),
        value("until", "TIME", "Up to this time"),
    ];
    args.into_iter()
        .map(|arg| arg.help_heading("Selection"))
        .collect()
}

fn formatting() -> Vec<Arg> {
    let args = vec![
        value("output", "FORMAT", "compact, dict, jsonpb (or json), table (or tab)")
            .short('o')
            .default_value("compact"),
        switch("print-node-name", "Show the node that saw the flow"),
        switch("print-policy-names", "Show which policies decided"),
        value("time-format", "FORMAT", "StampMilli, YearMonthDay, YearMonthDayHour, YearMonthDayHourMinute, RFC3339, RFC3339Milli, RFC3339Micro, RFC3339Nano, RFC1123Z")
            .default_value("StampMilli"),
        switch("numeric", "Addresses instead of names"),
        toggle("ip-translation", "Names instead of addresses"),
        value("color", "WHEN", "auto, always or never").default_value("auto"),
    ];
    args.into_iter()
        .map(|arg| arg.help_heading("Format"))
        .collect()
}

fn other() -> Vec<Arg> {
    vec![
        value(
            "input-file",
            "FILE",
            "Read flows from this file of JSON lines instead of a server; - is standard input",
        ),
        value("allowlist", "JSON", "Filters as JSON")
            .action(ArgAction::Append)
            .env("HUBBLE_ALLOWLIST"),
        value("denylist", "JSON", "Filters of what to leave out, as JSON")
            .action(ArgAction::Append)
            .env("HUBBLE_DENYLIST"),
        switch("print-raw-filters", "Print the filters as YAML and exit"),
        switch("silent-errors", "No warnings").short('s'),
        value(
            "field-mask",
            "FIELDS",
            "Only these fields, with JSON output",
        )
        .value_delimiter(',')
        .action(ArgAction::Append),
        toggle(
            "use-default-field-masks",
            "Ask only for the fields that the format shows",
        ),
    ]
}

/// A text value, empty when it was not given.
pub(super) fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}
