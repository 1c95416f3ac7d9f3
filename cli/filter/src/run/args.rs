//! What `run` is told: the request, the response, and what else the filter meets.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use weft_wasm_host::exchange::{Attributes, Direction, Peer};

use super::answers::Answers;
use crate::config::text_or_file;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The module
    pub(super) file: PathBuf,
    /// Configuration: JSON, or @FILE with JSON, YAML, or a manifest that has it
    #[arg(long, value_name = "JSON|@FILE")]
    pub(super) config: Option<String>,
    /// Method and path of the request
    #[arg(long, value_name = "METHOD PATH", default_value = "GET /")]
    request: String,
    /// A header of the request; `host` is where it goes. Can be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Body of the request
    #[arg(long, value_name = "TEXT|@FILE")]
    body: Option<String>,
    /// Status of the response to it
    #[arg(long, value_name = "STATUS", default_value = "200")]
    response: String,
    /// A header of the response. Can be given several times
    #[arg(long = "response-header", value_name = "NAME: VALUE")]
    response_headers: Vec<String>,
    /// Body of the response
    #[arg(long, value_name = "TEXT|@FILE")]
    response_body: Option<String>,
    /// The answer of another service to the filter: SERVICE=STATUS [BODY|@FILE], or SERVICE= and one
    /// of denied, no-endpoint, timeout, too-large, overloaded, failed. Several for one service
    /// come one after another; the last one stays
    #[arg(long = "fetch", value_name = "SERVICE=STATUS BODY")]
    fetches: Vec<String>,
    /// A header of the last answer of a service
    #[arg(long = "fetch-header", value_name = "SERVICE=NAME: VALUE")]
    fetch_headers: Vec<String>,
    /// The pod that sends the request
    #[arg(long, value_name = "NAMESPACE/POD", default_value = "default/client")]
    source: String,
    /// Its labels
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    source_labels: Vec<String>,
    /// Number of its identity
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    source_identity: u32,
    /// Whose enforcement the request passes
    #[arg(long, value_enum, default_value_t = Way::Ingress)]
    direction: Way,
    /// Which filter of a proxy-wasm module that holds several
    #[arg(long, value_name = "ID", default_value = "")]
    pub(super) root_id: String,
    /// Print what happened as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// Into the destination
    Ingress,
    /// Out of the source
    Egress,
}

/// A message as it comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// All that the filter will meet.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) authority: String,
    pub(super) request: Message,
    pub(super) status: StatusCode,
    pub(super) response: Message,
    pub(super) attributes: Attributes,
    pub(super) answers: Answers,
}

impl RunArgs {
    pub(super) fn script(&self) -> Result<Script> {
        let (method, path) = request_line(&self.request)?;
        let mut request = message("--body", &self.headers, self.body.as_deref())?;
        let host = request.headers.entry(HOST);
        let host = host.or_insert(HeaderValue::from_static("example.test"));
        let authority = host.to_str().context("-H host")?.to_owned();
        let body = self.response_body.as_deref();
        let response = message("--response-body", &self.response_headers, body)?;
        Ok(Script {
            method,
            path,
            authority,
            request,
            status: status(&self.response).context("--response")?,
            response,
            attributes: self.attributes()?,
            answers: Answers::parse(&self.fetches, &self.fetch_headers)?,
        })
    }

    fn attributes(&self) -> Result<Attributes> {
        let (namespace, pod) = self
            .source
            .split_once('/')
            .with_context(|| format!("--source {}: write NAMESPACE/POD", self.source))?;
        let labels = self
            .source_labels
            .iter()
            .map(|label| {
                let (key, value) = label
                    .split_once('=')
                    .with_context(|| format!("--source-labels {label}: write KEY=VALUE"))?;
                Ok((key.to_owned(), value.to_owned()))
            })
            .collect::<Result<_>>()?;
        let peer = |address: &str, port, identity| Peer {
            address: address.to_owned(),
            port,
            identity,
            ..Peer::default()
        };
        Ok(Attributes {
            request_id: "11111111-2222-4333-8444-555555555555".to_owned(),
            direction: match self.direction {
                Way::Ingress => Direction::Ingress,
                Way::Egress => Direction::Egress,
            },
            source: Peer {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                labels,
                ..peer("10.0.0.1", 40_000, self.source_identity)
            },
            destination: peer("10.0.0.2", 80, 1001),
            verdict: "forwarded".to_owned(),
            http_version: "HTTP/1.1".to_owned(),
            ..Attributes::default()
        })
    }
}

fn request_line(line: &str) -> Result<(Method, String)> {
    let mut words = line.split_ascii_whitespace();
    let (method, path) = match (words.next(), words.next(), words.next()) {
        (Some(path), None, _) if path.starts_with('/') => ("GET", path),
        (Some(method), Some(path), None) if path.starts_with('/') => (method, path),
        _ => bail!("--request {line:?}: write a method and a path, as 'GET /x'"),
    };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_error| anyhow!("--request {line:?}: {method:?} is no method"))?;
    if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        bail!("--request {line:?}: a path has printable ASCII alone; write %C3%A9 for é");
    }
    Ok((method, path.to_owned()))
}

fn message(flag: &str, headers: &[String], body: Option<&str>) -> Result<Message> {
    let mut map = HeaderMap::new();
    for line in headers {
        let (name, value) = header(line)?;
        map.append(name, value);
    }
    let body = body.map(text_or_file).transpose();
    let body = body.with_context(|| flag.to_owned())?.unwrap_or_default();
    // As clients do.
    if !body.is_empty() {
        map.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Ok(Message {
        headers: map,
        body: body.into(),
    })
}

/// A header as it is written on the wire.
pub(super) fn header(line: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = line
        .split_once(':')
        .with_context(|| format!("the header {line:?}: write 'name: value'"))?;
    let value = value.trim();
    let good_name = HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_error| anyhow!("the header {line:?}: {name:?} is no name of a header"))?;
    let value = HeaderValue::from_str(value)
        .map_err(|_error| anyhow!("the header {line:?}: a value has no control characters"))?;
    Ok((good_name, value))
}

/// A status that ends an exchange.
pub(super) fn status(text: &str) -> Result<StatusCode> {
    text.parse()
        .ok()
        .filter(|status: &StatusCode| (200..600).contains(&status.as_u16()))
        .with_context(|| format!("{text:?} is no status: write a number between 200 and 599"))
}
