//! Flows as lines of JSON, byte for byte as the stock client writes them.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::observer::GetFlowsResponse;
use super::observer::get_flows_response::ResponseTypes;

/// What a stream of flows carries, as one line without the line's end.
///
/// # Errors
/// When a value has no name in the protocol (an enum from a newer peer) or a
/// time is out of range.
pub fn line(response: &GetFlowsResponse) -> Result<String, serde_json::Error> {
    serde_json::to_string(&InOrder(response)).map(|text| escape_html(&text))
}

/// Any other message as one line.
///
/// # Errors
/// As for [`line`].
pub fn message(message: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(message).map(|text| escape_html(&text))
}

/// The generated code writes `oneof` fields last; clients write fields in the
/// order of their declaration.
struct InOrder<'a>(&'a GetFlowsResponse);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.0.response_types {
            Some(ResponseTypes::Flow(flow)) => map.serialize_entry("flow", flow)?,
            Some(ResponseTypes::NodeStatus(status)) => {
                map.serialize_entry("node_status", status)?
            }
            Some(ResponseTypes::LostEvents(lost)) => map.serialize_entry("lost_events", lost)?,
            None => {}
        }
        if !self.0.node_name.is_empty() {
            map.serialize_entry("node_name", &self.0.node_name)?;
        }
        if let Some(time) = &self.0.time {
            map.serialize_entry("time", time)?;
        }
        map.end()
    }
}

/// The stock client's encoder makes its output safe to embed in HTML. These
/// characters only occur inside strings, so replacing them in the text is safe.
fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::flow::{Flow, Http, Layer7, Verdict, layer7};
    use super::super::wkt::Timestamp;
    use super::*;

    #[test]
    fn the_flow_comes_first_and_names_are_the_protocols() {
        let time = Some(Timestamp {
            seconds: 1_723_442_939,
            nanos: 855_000_000,
        });
        let http = Http {
            url: "http://a/?b=1&c=<2>".into(),
            ..Http::default()
        };
        let flow = Flow {
            time,
            verdict: Verdict::Forwarded as i32,
            l7: Some(Layer7 {
                latency_ns: 937_874,
                record: Some(layer7::Record::Http(http)),
                ..Layer7::default()
            }),
            is_reply: Some(false),
            summary: "TCP".into(),
            ..Flow::default()
        };
        let response = GetFlowsResponse {
            response_types: Some(ResponseTypes::Flow(flow)),
            node_name: "kind-worker".into(),
            time,
        };
        assert_eq!(
            line(&response).unwrap(),
            concat!(
                r#"{"flow":{"time":"2024-08-12T06:08:59.855Z","verdict":"FORWARDED","#,
                r#""l7":{"latency_ns":"937874","http":{"url":"http://a/?b=1\u0026c=\u003c2\u003e"}},"#,
                r#""is_reply":false,"Summary":"TCP"},"#,
                r#""node_name":"kind-worker","time":"2024-08-12T06:08:59.855Z"}"#
            )
        );
        let back: GetFlowsResponse = serde_json::from_str(&line(&response).unwrap()).unwrap();
        assert_eq!(back, response);
    }
}
