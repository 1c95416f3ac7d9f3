//! Why a request's head is refused, and how the pipeline learns of it.

use http::request::Parts;

use crate::failure::Failure;

/// Scheme of the request that stands in for a refused one. The check lets
/// clients use `http` and `https` alone.
const SCHEME: &str = "weft-refused";

/// What is wrong with a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// A line that does not end in CRLF, or a CR inside of one.
    LineEnd,
    /// The request line is not `method target version`.
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// The target is in no form that its method allows.
    Target,
    /// The target is too long.
    TargetTooLong,
    /// The head is too large.
    HeadTooLarge,
    /// Too many header fields.
    TooManyFields,
    /// A field without a valid name, folded, or with a space before its colon.
    FieldName,
    /// A control character in a field's value.
    FieldValue,
    /// No `Host`, two of them, or one that contradicts the target.
    Host,
    /// A length that is no plain number, or more than one.
    ContentLength,
    /// A transfer coding other than `chunked` alone.
    TransferEncoding,
    /// A coding that is valid but not supported in front of `chunked`.
    Coding,
    /// Both a length and a transfer coding.
    TwoLengths,
}

const ALL: [Refusal; 14] = [
    Refusal::LineEnd,
    Refusal::RequestLine,
    Refusal::Version,
    Refusal::Target,
    Refusal::TargetTooLong,
    Refusal::HeadTooLarge,
    Refusal::TooManyFields,
    Refusal::FieldName,
    Refusal::FieldValue,
    Refusal::Host,
    Refusal::ContentLength,
    Refusal::TransferEncoding,
    Refusal::Coding,
    Refusal::TwoLengths,
];

impl Refusal {
    /// The error that is answered and recorded.
    #[must_use]
    pub fn failure(self) -> Failure {
        match self {
            Self::LineEnd => Failure::Malformed("bare CR or LF in the head"),
            Self::RequestLine => Failure::Malformed("request line"),
            Self::Version => Failure::Malformed("HTTP version"),
            Self::Target => Failure::Malformed("request target"),
            Self::TargetTooLong => Failure::UriTooLong,
            Self::HeadTooLarge | Self::TooManyFields => Failure::HeadTooLarge,
            Self::FieldName => Failure::Malformed("header name"),
            Self::FieldValue => Failure::Malformed("header value"),
            Self::Host => Failure::Malformed("host"),
            Self::ContentLength => Failure::Malformed("content-length"),
            Self::TransferEncoding => Failure::Malformed("transfer-encoding"),
            Self::Coding => Failure::Unsupported("transfer coding"),
            Self::TwoLengths => Failure::Malformed("both content-length and transfer-encoding"),
        }
    }

    /// The request that the server sees in place of the refused one.
    pub(super) fn stand_in(self) -> Vec<u8> {
        let code = self as u8;
        format!("GET {SCHEME}://{code}/ HTTP/1.1\r\nhost: {code}\r\nconnection: close\r\n\r\n")
            .into_bytes()
    }
}

/// Why the request that this head stands in for was refused; `None` for a
/// request of a client's.
#[must_use]
pub fn refusal(head: &Parts) -> Option<Refusal> {
    if head.uri.scheme_str() != Some(SCHEME) {
        return None;
    }
    let code = head.uri.host().and_then(|code| code.parse::<usize>().ok());
    // Only this module makes such requests; an unknown code is refused too.
    Some(
        code.and_then(|code| ALL.get(code))
            .copied()
            .unwrap_or(Refusal::RequestLine),
    )
}

#[cfg(test)]
mod tests {
    use super::{ALL, Refusal, refusal};

    #[test]
    fn every_refusal_is_recognised_behind_the_server() {
        for (index, one) in ALL.into_iter().enumerate() {
            assert_eq!(one as usize, index);
            let text = one.stand_in();
            let mut fields = [httparse::EMPTY_HEADER; 4];
            let mut parsed = httparse::Request::new(&mut fields);
            assert!(parsed.parse(&text).expect("valid").is_complete());
            let request = http::Request::builder()
                .uri(parsed.path.expect("target"))
                .body(())
                .expect("valid");
            assert_eq!(refusal(&request.into_parts().0), Some(one));
        }
    }

    #[test]
    fn requests_of_clients_are_none() {
        let request = http::Request::get("http://weft-refused/0")
            .body(())
            .expect("valid");
        assert_eq!(refusal(&request.into_parts().0), None);
        assert_eq!(
            Refusal::Host.failure().to_string(),
            "malformed request: host"
        );
    }
}
