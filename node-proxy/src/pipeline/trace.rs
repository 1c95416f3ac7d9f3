//! W3C trace context: continued from the request or started here.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::headers::Trust;

/// The header that carries the context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Vendors' additions to it, passed on untouched.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;

/// The flag that asks for spans to be recorded.
const SAMPLED: u8 = 1;

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Of the whole trace.
    pub trace_id: [u8; 16],
    /// The caller's span; absent when the trace starts here.
    pub parent: Option<[u8; 8]>,
    /// The proxy's server span.
    pub server_span: [u8; 8],
    /// The proxy's client span, parent of whatever the upstream does.
    pub client_span: [u8; 8],
    /// Flags as they came, or sampled.
    pub flags: u8,
    /// The header as the client sent it.
    pub received: Option<HeaderValue>,
}

impl Trace {
    /// Continues the context of the request, or starts a trace when `start`
    /// is set and there is none.
    #[must_use]
    pub fn of(headers: &HeaderMap, trust: Trust, start: bool) -> Option<Self> {
        let received = match trust {
            Trust::Cluster => headers.get(&TRACEPARENT),
            // A stranger's context would file his requests under our traces.
            Trust::World => None,
        };
        if let Some(value) = received
            && let Some(context) = parse(value.as_bytes())
        {
            let (server_span, client_span) = spans();
            return Some(Self {
                trace_id: context.trace_id,
                parent: Some(context.parent),
                server_span,
                client_span,
                flags: context.flags,
                received: Some(value.clone()),
            });
        }
        start.then(|| {
            let (server_span, client_span) = spans();
            Self {
                trace_id: *uuid::Uuid::new_v4().as_bytes(),
                parent: None,
                server_span,
                client_span,
                flags: SAMPLED,
                received: None,
            }
        })
    }

    /// Whether spans are to be recorded.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Sets the context that the upstream sees. Without spans of our own the
    /// caller's stays the parent: an id that nobody exports would cut the
    /// trace in two.
    pub fn forward(&self, headers: &mut HeaderMap, spans: bool) {
        if !spans || !self.sampled() {
            return;
        }
        let mut text = [0; LENGTH];
        self.write(&mut text);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
    }

    fn write(&self, text: &mut [u8; LENGTH]) {
        text[..3].copy_from_slice(b"00-");
        hex(&self.trace_id, &mut text[3..35]);
        text[35] = b'-';
        hex(&self.client_span, &mut text[36..52]);
        text[52] = b'-';
        hex(&[self.flags], &mut text[53..55]);
    }
}

fn spans() -> ([u8; 8], [u8; 8]) {
    let random = uuid::Uuid::new_v4();
    let (high, low) = random.as_u64_pair();
    // The fixed bits of a UUID leave both halves non-zero.
    (high.to_be_bytes(), low.to_be_bytes())
}

/// Removes a context that may not pass, and one that is malformed: the
/// standard says to restart the trace then.
pub fn scrub(headers: &mut HeaderMap, trust: Trust) {
    let Some(value) = headers.get(&TRACEPARENT) else {
        if trust == Trust::World {
            headers.remove(&TRACESTATE);
        }
        return;
    };
    if trust == Trust::World || parse(value.as_bytes()).is_none() {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Context {
    trace_id: [u8; 16],
    parent: [u8; 8],
    flags: u8,
}

fn parse(text: &[u8]) -> Option<Context> {
    let version = unhex::<1>(text.get(..2)?)?;
    // A later version may be longer, but starts alike; 255 is never valid.
    let long_enough = match version {
        [0] => text.len() == LENGTH,
        [255] => false,
        _ => text.len() == LENGTH || text.get(LENGTH) == Some(&b'-'),
    };
    if !long_enough {
        return None;
    }
    if [text[2], text[35], text[52]] != *b"---" {
        return None;
    }
    let context = Context {
        trace_id: unhex(&text[3..35])?,
        parent: unhex(&text[36..52])?,
        flags: unhex::<1>(&text[53..55])?[0],
    };
    let valid = context.trace_id != [0; 16] && context.parent != [0; 8];
    valid.then_some(context)
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

/// The standard allows lower case only.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{TRACEPARENT, TRACESTATE, Trace, parse, scrub};
    use crate::pipeline::headers::Trust;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(value));
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        headers
    }

    #[test]
    fn continues_a_trace_with_a_span_of_its_own() {
        let mut headers = with(VALID);
        let trace = Trace::of(&headers, Trust::Cluster, true).expect("continued");
        assert_eq!(trace.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(trace.parent.expect("parent")[..2], [0x00, 0xf0]);
        trace.forward(&mut headers, true);
        let sent = parse(headers[TRACEPARENT].as_bytes()).expect("valid");
        assert_eq!(sent.trace_id, trace.trace_id);
        assert_eq!(sent.parent, trace.client_span);
        assert_eq!(headers[TRACESTATE], "vendor=1");
    }

    #[test]
    fn without_spans_the_callers_context_passes_untouched() {
        let mut headers = with(VALID);
        let trace = Trace::of(&headers, Trust::Cluster, false).expect("continued");
        trace.forward(&mut headers, false);
        assert_eq!(headers[TRACEPARENT], VALID);
    }

    #[test]
    fn starts_a_trace_only_when_asked_to() {
        let none = HeaderMap::new();
        assert_eq!(Trace::of(&none, Trust::Cluster, false), None);
        let trace = Trace::of(&none, Trust::Cluster, true).expect("started");
        assert!(trace.sampled());
        assert_eq!(trace.parent, None);
        assert_ne!(trace.server_span, trace.client_span);
    }

    #[test]
    fn a_strangers_context_does_not_pass() {
        let mut headers = with(VALID);
        let trace = Trace::of(&headers, Trust::World, true).expect("started");
        assert_eq!(trace.parent, None);
        scrub(&mut headers, Trust::World);
        assert!(headers.is_empty());
    }

    #[test]
    fn malformed_contexts_restart_the_trace() {
        let malformed = [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ];
        for text in malformed {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
            let mut headers = with(text);
            scrub(&mut headers, Trust::Cluster);
            assert!(headers.is_empty(), "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(parse(later.as_bytes()).is_some(), "a later version");
    }
}
