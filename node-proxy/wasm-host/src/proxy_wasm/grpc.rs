//! gRPC calls of proxy-wasm filters, as one HTTP/2 request and its answer.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::types::{FetchError, FetchResult};

/// Codes that the host itself says.
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNKNOWN: u32 = 2;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// What a call brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The message; none when the call failed.
    pub(super) message: Option<Bytes>,
    pub(super) code: u32,
    pub(super) text: String,
}

/// A message as it is sent: not compressed, its length, its bytes.
pub(super) fn frame(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.put_slice(message);
    Some(bytes.freeze())
}

/// What an answer says.
pub(super) fn outcome(result: &FetchResult) -> Outcome {
    let failed = |code, text: String| Outcome {
        message: None,
        code,
        text,
    };
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            let code = match error {
                FetchError::Denied => PERMISSION_DENIED,
                FetchError::Timeout => DEADLINE_EXCEEDED,
                FetchError::TooLarge | FetchError::Overloaded => RESOURCE_EXHAUSTED,
                FetchError::NoEndpoint | FetchError::Failed(_) => UNAVAILABLE,
                FetchError::Invalid(_) => INTERNAL,
            };
            return failed(code, error.to_string());
        }
    };
    let status = status(&response.trailers).or_else(|| status(&response.headers));
    match status {
        Some((0, text)) => match unframe(&response.body) {
            Some(message) => Outcome {
                message: Some(message),
                code: 0,
                text,
            },
            None => failed(INTERNAL, "the answer is no single message".to_owned()),
        },
        Some((code, text)) => failed(code, text),
        None => failed(
            code_of(response.status),
            format!(
                "the answer has status {} and no grpc-status",
                response.status
            ),
        ),
    }
}

fn status(fields: &HeaderMap) -> Option<(u32, String)> {
    let code = fields.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let text = fields
        .get("grpc-message")
        .map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
    Some((code, text.unwrap_or_default()))
}

fn unframe(body: &Bytes) -> Option<Bytes> {
    let (head, message) = (body.get(..5)?, body.slice(5..));
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    let whole = head[0] == 0 && usize::try_from(length) == Ok(message.len());
    whole.then_some(message)
}

/// What an HTTP status means in gRPC.
pub(super) const fn code_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::{frame, outcome};
    use crate::types::{FetchError, FetchResponse, FetchResult};

    fn answer(status: Option<&'static str>, body: Bytes) -> FetchResult {
        let mut trailers = HeaderMap::new();
        if let Some(status) = status {
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            trailers.insert("grpc-message", HeaderValue::from_static("why"));
        }
        Ok(Box::new(FetchResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body,
            trailers,
        }))
    }

    #[test]
    fn a_message_comes_back_as_it_was_sent() {
        let framed = frame(b"hello").expect("short");
        assert_eq!(framed[..5], [0, 0, 0, 0, 5]);
        let outcome = outcome(&answer(Some("0"), framed));
        assert_eq!(outcome.message.as_deref(), Some(&b"hello"[..]));
        assert_eq!(outcome.code, 0);
    }

    #[test]
    fn failures_have_a_code() {
        let cases = [
            (answer(Some("5"), Bytes::new()), 5),
            (answer(None, Bytes::new()), 2),
            (
                answer(Some("0"), Bytes::from_static(&[0, 0, 0, 0, 9, 1])),
                13,
            ),
            (answer(Some("0"), Bytes::new()), 13),
            (Err(FetchError::Denied), 7),
            (Err(FetchError::Timeout), 4),
            (Err(FetchError::NoEndpoint), 14),
        ];
        for (result, code) in cases {
            let outcome = outcome(&result);
            assert_eq!((outcome.code, outcome.message), (code, None), "{result:?}");
        }
    }
}
