//! A request and its response, as whoever drives a filter shows them to it.

use std::any::Any;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::types::{Fields, Labels};

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Its method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// Its host, with the port where there is one.
    Authority,
    /// Path and query.
    Path,
}

/// One end of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// IP address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Number of the security identity.
    pub identity: u32,
    /// Of the pod.
    pub namespace: String,
    /// Empty where it is no pod that is known here.
    pub pod: String,
    /// Of the identity.
    pub labels: Labels,
}

/// Whose enforcement the exchange passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Out of the source.
    #[default]
    Egress,
    /// Into the destination.
    Ingress,
}

/// What is known of an exchange besides its messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Of the mesh.
    pub request_id: String,
    /// 32 hexadecimal digits, empty without a trace.
    pub trace_id: String,
    /// Whose enforcement it passes.
    pub direction: Direction,
    /// Who asks.
    pub source: Peer,
    /// Who is asked.
    pub destination: Peer,
    /// `forwarded` or `dropped`, empty before policy.
    pub verdict: String,
    /// The policy that decided.
    pub rule: String,
    /// The route that was chosen, empty before routing.
    pub route: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub http_version: String,
}

/// One exchange. It is handed to an instance for the time that a filter works on it
/// ([`crate::Guest::lend`]) and taken back after; nothing of it is shared or locked.
///
/// The host checks every change before it is made: names and values are well-formed, no header
/// that frames a message, and no more of them than the limits allow.
pub trait Exchange: Any + Send {
    /// Fields as they are now; none while they have not come.
    fn fields(&self, of: Fields) -> Option<&HeaderMap>;

    /// Fields to change; none while they have not come, or when they are sent on already.
    fn fields_mut(&mut self, of: Fields) -> Option<&mut HeaderMap>;

    /// Where the request goes.
    fn target(&self, part: Target) -> &str;

    /// Changes where the request goes. False if `value` is not well-formed, or too late.
    fn set_target(&mut self, part: Target, value: &str) -> bool;

    /// The response's status, once its head is there.
    fn status(&self) -> Option<StatusCode>;

    /// Changes the response's status. False without a head, or too late.
    fn set_status(&mut self, status: StatusCode) -> bool;

    /// What else is known.
    fn attributes(&self) -> Attributes;

    /// A header that only the proxy may write, besides those that frame a message.
    fn is_reserved(&self, _of: Fields, _name: &HeaderName) -> bool {
        false
    }

    /// An attribute of the request's span.
    fn span_attribute(&mut self, key: &str, value: &str);

    /// An event of the request's span.
    fn span_event(&mut self, name: &str, attributes: &[(String, String)]);
}
