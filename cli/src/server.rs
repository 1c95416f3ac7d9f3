//! Where the flows come from: flags that name the server, and the connection.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use weft_api::hubble::observer::observer_client::ObserverClient;

use crate::print::time::parse_duration;

/// Where the relay listens.
const DEFAULT_SERVER: &str = "localhost:4245";
/// Read in this order when the flag is absent.
const SERVER_ENVIRONMENT: [&str; 2] = ["WEFT_SERVER", "HUBBLE_SERVER"];
/// Many flows with many labels and headers fit; a runaway message does not.
const MAX_MESSAGE: usize = 64 << 20;

/// The server cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither `host:port` nor `unix:///path`.
    #[error("failed to create gRPC client to '{address}': {error}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// The mesh's observers speak plain text on loopback and Unix sockets.
    #[error("TLS is not supported; use host:port or unix:///path")]
    Tls,
    /// Nobody answers.
    #[error("failed to connect to '{address}': {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Flags of every command that talks to a server.
pub(crate) fn args() -> Vec<Arg> {
    let flag = |name: &'static str| Arg::new(name).long(name).global(true).num_args(1);
    vec![
        flag("server")
            .value_name("ADDRESS")
            .help("Address of the observer or relay: host:port or unix:///path [default: localhost:4245, env WEFT_SERVER, HUBBLE_SERVER]"),
        flag("timeout")
            .value_name("DURATION")
            .value_parser(parse_duration)
            .default_value("5s")
            .help("How long to wait for the connection"),
        flag("request-timeout")
            .value_name("DURATION")
            .value_parser(parse_duration)
            .default_value("12s")
            .help("How long to wait for an answer that is not a stream"),
        Arg::new("debug")
            .long("debug")
            .short('D')
            .global(true)
            .action(ArgAction::SetTrue)
            .help("Show debug messages"),
    ]
}

/// A connection to the server that the flags name.
pub(crate) struct Server {
    /// As the user wrote it.
    pub address: String,
    /// Dialled.
    pub channel: Channel,
    /// For answers that are not streams.
    pub request_timeout: Duration,
}

impl Server {
    pub(crate) async fn connect(matches: &ArgMatches) -> Result<Self, ConnectError> {
        let from_environment = || {
            SERVER_ENVIRONMENT
                .iter()
                .find_map(|name| std::env::var(name).ok())
        };
        let address = matches
            .get_one::<String>("server")
            .cloned()
            .or_else(from_environment)
            .unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let duration = |name| {
            matches
                .get_one::<Duration>(name)
                .copied()
                .unwrap_or_default()
        };
        let channel = dial(&address, duration("timeout")).await?;
        Ok(Self {
            address,
            channel,
            request_timeout: duration("request-timeout"),
        })
    }

    pub(crate) fn observer(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// A request that must be answered in time.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.request_timeout);
        request
    }
}

async fn dial(address: &str, timeout: Duration) -> Result<Channel, ConnectError> {
    if address.starts_with("tls://") {
        return Err(ConnectError::Tls);
    }
    let uri = if address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| ConnectError::Address {
        address: address.to_owned(),
        error,
    })?;
    let unreachable = |reason: String| ConnectError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let connected = tokio::time::timeout(timeout, endpoint.connect()).await;
    connected
        .map_err(|_| unreachable(format!("no answer within {timeout:?}")))?
        .map_err(|error| unreachable(innermost(&error)))
}

/// The cause that a user can act on: "connection refused", not "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// An answer's error as the stock client prints it.
pub(crate) fn describe(status: &Status) -> String {
    if status.code() == Code::Unknown {
        return status.message().to_owned();
    }
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}
