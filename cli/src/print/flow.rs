//! The words of a flow's line.

use weft_api::hubble::flow::layer4::Protocol as L4;
use weft_api::hubble::flow::layer7::Record;
use weft_api::hubble::flow::{
    AuthType, DebugCapturePoint, Endpoint, Flow, L7FlowType, Policy, Service,
    SocketTranslationPoint, TrafficDirection, Verdict,
};
use weft_api::hubble::names::{self, event};
use weft_core::model::NumericIdentity;

use super::Options;
use super::color::{Color, Painter};

/// What the text formats show of a flow.
#[derive(Debug)]
pub(super) struct Words {
    pub source: String,
    pub destination: String,
    pub kind: String,
    pub verdict: String,
    pub summary: String,
    source_identity: String,
    destination_identity: String,
    is_reply: Option<bool>,
}

impl Words {
    pub(super) fn of(flow: &Flow, options: &Options) -> Self {
        let painter = options.painter;
        let (source, destination) = hosts(flow, options);
        let identity =
            |end: Option<&Endpoint>| identity(end.map_or(0, |end| end.identity), painter);
        Self {
            source,
            destination,
            kind: kind(flow),
            verdict: verdict(flow, options),
            summary: summary(flow, painter),
            source_identity: identity(flow.source.as_ref()),
            destination_identity: identity(flow.destination.as_ref()),
            is_reply: flow.is_reply,
        }
    }

    /// Who talks to whom, what it was, and what became of it. Replies are
    /// turned round, so that the client always stands on the left.
    pub(super) fn compact(&self) -> String {
        let source = format!("{} {}", self.source, self.source_identity);
        let destination = format!("{} {}", self.destination, self.destination_identity);
        let ends = match self.is_reply {
            None => format!("{source} <> {destination}"),
            Some(false) => format!("{source} -> {destination}"),
            Some(true) => format!("{destination} <- {source}"),
        };
        format!("{ends} {} {} ({})", self.kind, self.verdict, self.summary)
    }
}

fn identity(number: u32, painter: Painter) -> String {
    let text = match NumericIdentity(number).reserved_name() {
        Some(name) => format!("({name})"),
        None => format!("(ID:{number})"),
    };
    painter.paint(Color::Magenta, &text)
}

fn hosts(flow: &Flow, options: &Options) -> (String, String) {
    let painted = |host: &str| options.painter.paint(Color::Cyan, host);
    let Some(ip) = &flow.ip else {
        return flow
            .ethernet
            .as_ref()
            .map_or_else(Default::default, |ethernet| {
                (painted(&ethernet.source), painted(&ethernet.destination))
            });
    };
    let (source_port, destination_port) = ports(flow);
    let source = Host {
        ip: &ip.source,
        port: source_port,
        end: flow.source.as_ref(),
        service: flow.source_service.as_ref(),
        names: &flow.source_names,
    };
    let destination = Host {
        ip: &ip.destination,
        port: destination_port,
        end: flow.destination.as_ref(),
        service: flow.destination_service.as_ref(),
        names: &flow.destination_names,
    };
    (
        painted(&source.text(options)),
        painted(&destination.text(options)),
    )
}

struct Host<'a> {
    ip: &'a str,
    port: u32,
    end: Option<&'a Endpoint>,
    service: Option<&'a Service>,
    names: &'a [String],
}

impl Host<'_> {
    fn text(&self, options: &Options) -> String {
        let name = self.name().filter(|_| options.names);
        let name = name.unwrap_or_else(|| self.ip.to_owned());
        if self.port == 0 {
            return name;
        }
        let port = options.painter.paint(Color::Yellow, &self.port.to_string());
        if name.contains(':') {
            format!("[{name}]:{port}")
        } else {
            format!("{name}:{port}")
        }
    }

    fn name(&self) -> Option<String> {
        let pod = self.end.map_or("", |end| end.pod_name.as_str());
        let own = self.end.map_or("", |end| end.namespace.as_str());
        // A service's namespace counts even where the pod's name is shown.
        let namespace = self
            .service
            .map_or(own, |service| service.namespace.as_str());
        let service = self.service.map_or("", |service| service.name.as_str());
        let name = if pod.is_empty() { service } else { pod };
        match (namespace, name) {
            (_, "") if self.names.is_empty() => None,
            (_, "") => Some(self.names.join(",")),
            ("", name) => Some(name.to_owned()),
            (namespace, name) => Some(format!("{namespace}/{name}")),
        }
    }
}

fn ports(flow: &Flow) -> (u32, u32) {
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(L4::Tcp(l4)) => (l4.source_port, l4.destination_port),
        Some(L4::Udp(l4)) => (l4.source_port, l4.destination_port),
        Some(L4::Sctp(l4)) => (l4.source_port, l4.destination_port),
        _ => (0, 0),
    }
}

/// An enum's name in the protocol, or its number.
macro_rules! name_of {
    ($enum:ty, $number:expr) => {
        <$enum>::try_from($number)
            .map_or_else(|_| $number.to_string(), |v| v.as_str_name().to_owned())
    };
}

fn kind(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        let what = name_of!(L7FlowType, l7.r#type).to_ascii_lowercase();
        return match &l7.record {
            Some(Record::Http(_)) => format!("http-{what}"),
            Some(Record::Dns(dns)) => format!("dns-{what} {}", dns.observation_source),
            Some(Record::Kafka(_)) => format!("kafka-{what}"),
            None => format!("l7-{what}"),
        };
    }
    let event = flow.event_type.unwrap_or_default();
    // The protocol's events carry one byte here.
    let low_byte = event.sub_type & 0xff;
    match event.r#type {
        event::TRACE => {
            names::trace_point(low_byte).map_or_else(|| low_byte.to_string(), str::to_owned)
        }
        event::DROP => {
            let text = u8::try_from(low_byte).ok().and_then(names::drop_reason);
            text.map_or_else(|| format!("{low_byte}, 0"), str::to_owned)
        }
        event::POLICY_VERDICT => {
            let matched = names::policy_match(flow.policy_match_type);
            let direction = name_of!(TrafficDirection, flow.traffic_direction);
            format!("policy-verdict:{matched} {direction}")
        }
        event::CAPTURE => name_of!(DebugCapturePoint, flow.debug_capture_point),
        event::TRACE_SOCK => translation(flow.sock_xlate_point),
        _ => "UNKNOWN".to_owned(),
    }
}

fn translation(point: i32) -> String {
    use SocketTranslationPoint as Point;
    let name = match Point::try_from(point) {
        Ok(Point::SockXlatePointPreDirectionFwd) => "pre-xlate-fwd",
        Ok(Point::SockXlatePointPostDirectionFwd) => "post-xlate-fwd",
        Ok(Point::SockXlatePointPreDirectionRev) => "pre-xlate-rev",
        Ok(Point::SockXlatePointPostDirectionRev) => "post-xlate-rev",
        _ => return name_of!(Point, point),
    };
    name.to_owned()
}

fn verdict(flow: &Flow, options: &Options) -> String {
    let asked = flow.event_type.unwrap_or_default().r#type == event::POLICY_VERDICT;
    let verdict = Verdict::try_from(flow.verdict);
    let name = name_of!(Verdict, flow.verdict);
    let with_policies = |word: &str, ingress: &[Policy], egress: &[Policy]| {
        let policies = match TrafficDirection::try_from(flow.traffic_direction) {
            Ok(TrafficDirection::Ingress) if options.policy_names => ingress,
            Ok(TrafficDirection::Egress) if options.policy_names => egress,
            _ => &[],
        };
        format!("{word}{}", deciders(policies))
    };
    let (word, color) = match verdict {
        Ok(Verdict::Forwarded | Verdict::Redirected) if asked => (
            with_policies("ALLOWED", &flow.ingress_allowed_by, &flow.egress_allowed_by),
            Color::Green,
        ),
        Ok(Verdict::Forwarded | Verdict::Redirected) => (name, Color::Green),
        Ok(Verdict::Dropped | Verdict::Error) if asked => (
            with_policies("DENIED", &flow.ingress_denied_by, &flow.egress_denied_by),
            Color::Red,
        ),
        Ok(Verdict::Dropped | Verdict::Error) => (name, Color::Red),
        Ok(Verdict::Audit) if asked => ("AUDITED".to_owned(), Color::Yellow),
        Ok(Verdict::Audit | Verdict::Traced | Verdict::Translated) => (name, Color::Yellow),
        _ => return name,
    };
    options.painter.paint(color, &word)
}

/// ` BY name (Kind), name (Kind)`.
fn deciders(policies: &[Policy]) -> String {
    let named = policies
        .iter()
        .filter(|policy| !policy.kind.is_empty() && !policy.name.is_empty());
    let list: Vec<String> = named
        .map(|policy| format!("{} ({})", policy.name, policy.kind))
        .collect();
    if list.is_empty() {
        String::new()
    } else {
        format!(" BY {}", list.join(", "))
    }
}

fn summary(flow: &Flow, painter: Painter) -> String {
    let trace = flow.ip_trace_id.as_ref().map_or(0, |id| id.trace_id);
    let trace = if trace > 0 {
        format!("IP Trace ID: {trace}; ")
    } else {
        String::new()
    };
    let auth = match AuthType::try_from(flow.auth_type) {
        Ok(AuthType::Disabled) => String::new(),
        Ok(AuthType::TestAlwaysFail) => painter.paint(Color::Red, "TEST_ALWAYS_FAIL"),
        _ => painter.paint(Color::Green, &name_of!(AuthType, flow.auth_type)),
    };
    let auth = if auth.is_empty() {
        auth
    } else {
        format!("; Auth: {auth}")
    };
    format!("{trace}{}{auth}", flow.summary)
}
