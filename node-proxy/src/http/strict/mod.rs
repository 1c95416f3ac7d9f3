//! A strict reading of HTTP/1 requests, in front of the HTTP server.
//!
//! The server's own parser is lenient where attackers look first: it takes
//! lines that end in a bare LF, drops one of two contradicting lengths, and
//! does not miss a `Host`. [`Strict`] sits between the socket and the server,
//! follows the framing of every message, and lets pass only bytes that every
//! reader reads the same way.
//!
//! A head is held back until it is complete and checked. In place of one that
//! must be refused the server is given a short request whose target no client
//! can send; the pipeline recognises it with [`refusal`] and answers in order,
//! behind the answers to earlier pipelined requests. Nothing that follows a
//! refused head is read.

mod head;
mod io;
mod refusal;
#[cfg(test)]
mod tests;

pub use head::Limits;
pub use io::{Strict, StrictHandle};
pub use refusal::{Refusal, refusal};
