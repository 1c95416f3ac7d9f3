//! The load itself: one task and one connection at a time per "thread".

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::args::{LoadArgs, Until};
use super::stats::Stats;

/// Code under which calls count that got no answer, as fortio has it.
pub(super) const NO_ANSWER: i32 = -1;

/// What came of a run, or of one thread of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Seconds per call.
    pub calls: Stats,
    /// Seconds per call that failed or was not answered with 200.
    pub errors: Stats,
    /// Calls by status; [`NO_ANSWER`] for those without.
    pub codes: BTreeMap<i32, usize>,
    /// Bytes of response headers and of whole responses.
    pub header_sizes: Stats,
    pub total_sizes: Stats,
    /// Sockets opened, by thread, and where they went.
    pub sockets: Vec<usize>,
    pub peers: BTreeMap<SocketAddr, usize>,
    /// Seconds per connect.
    pub connects: Stats,
}

pub(super) async fn run(load: &LoadArgs) -> anyhow::Result<Outcome> {
    let host = load.url.host().context("the URL has no host")?;
    let port = load.url.port_u16().unwrap_or(80);
    let peer = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| format!("cannot resolve {host}"))?
        .find(SocketAddr::is_ipv4)
        .with_context(|| format!("{host} has no IPv4 address"))?;
    let threads = load.connections.get();
    let begin = Instant::now();
    let runs = (0..threads).map(|thread| {
        let calls = match load.until {
            // The remainder goes to the first threads.
            Until::Calls(n) => Some(n / threads + usize::from(thread < n % threads)),
            Until::Elapsed(_) => None,
        };
        Thread::new(load, peer).run(calls, begin)
    });
    let mut total = Outcome::default();
    for outcome in futures_util::future::join_all(runs).await {
        total.merge(outcome);
    }
    total.elapsed = begin.elapsed();
    Ok(total)
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.calls.merge(&other.calls);
        self.errors.merge(&other.errors);
        self.header_sizes.merge(&other.header_sizes);
        self.total_sizes.merge(&other.total_sizes);
        self.connects.merge(&other.connects);
        self.sockets.extend(other.sockets);
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        for (peer, count) in other.peers {
            *self.peers.entry(peer).or_default() += count;
        }
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// One of fortio's threads.
struct Thread<'a> {
    load: &'a LoadArgs,
    peer: SocketAddr,
    connection: Option<Connection>,
    opened: usize,
    outcome: Outcome,
}

impl<'a> Thread<'a> {
    fn new(load: &'a LoadArgs, peer: SocketAddr) -> Self {
        Self {
            load,
            peer,
            connection: None,
            opened: 0,
            outcome: Outcome::default(),
        }
    }

    async fn run(mut self, calls: Option<usize>, begin: Instant) -> Outcome {
        let pace = self
            .load
            .qps
            .map(|qps| Duration::from_secs_f64(self.load.connections.get() as f64 / qps));
        let mut done = 0;
        loop {
            let finished = match (calls, self.load.until) {
                (Some(calls), _) => done >= calls,
                (None, Until::Elapsed(most)) => begin.elapsed() >= most,
                (None, Until::Calls(_)) => true,
            };
            if finished {
                break;
            }
            self.call().await;
            done += 1;
            if let Some(pace) = pace {
                let next = begin + pace * u32::try_from(done).unwrap_or(u32::MAX);
                tokio::time::sleep_until(next.into()).await;
            }
        }
        self.outcome.sockets.push(self.opened);
        self.outcome
    }

    async fn call(&mut self) {
        let begin = Instant::now();
        let answer = tokio::time::timeout(self.load.timeout, self.exchange()).await;
        let seconds = begin.elapsed().as_secs_f64();
        let code = match answer {
            Ok(Ok(answer)) => {
                self.outcome.header_sizes.record(answer.header_bytes as f64);
                let bytes = answer.header_bytes + answer.body_bytes;
                self.outcome.total_sizes.record(bytes as f64);
                i32::from(answer.status.as_u16())
            }
            Ok(Err(_)) | Err(_) => NO_ANSWER,
        };
        *self.outcome.codes.entry(code).or_default() += 1;
        self.outcome.calls.record(seconds);
        if code != i32::from(StatusCode::OK.as_u16()) {
            self.outcome.errors.record(seconds);
            // As fortio's own client: an unexpected answer ends the connection.
            self.connection = None;
        }
    }

    async fn exchange(&mut self) -> anyhow::Result<Answer> {
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let response = connection.send_request(self.request()?).await?;
        let (status, header_bytes) = (response.status(), header_bytes(&response));
        let closes = response
            .headers()
            .get(header::CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        let body = response.into_body().collect().await?.to_bytes();
        if !closes {
            self.connection = Some(connection);
        }
        Ok(Answer {
            status,
            header_bytes,
            body_bytes: body.len(),
        })
    }

    fn request(&self) -> anyhow::Result<Request<Empty<Bytes>>> {
        let path = self.load.url.path_and_query().map_or("/", |pq| pq.as_str());
        let host = self.load.url.authority().map_or("", |host| host.as_str());
        let mut request = Request::get(path).header(header::HOST, host);
        let named = |name| self.load.headers.iter().any(|(given, _)| given == name);
        if !named(header::USER_AGENT) {
            request = request.header(header::USER_AGENT, "fortio.org/fortio-1.60.3");
        }
        for (name, value) in &self.load.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Empty::new())?)
    }

    async fn connect(&mut self) -> anyhow::Result<Connection> {
        let begin = Instant::now();
        let stream = TcpStream::connect(self.peer).await?;
        self.outcome.connects.record(begin.elapsed().as_secs_f64());
        stream.set_nodelay(true)?;
        self.opened += 1;
        *self.outcome.peers.entry(self.peer).or_default() += 1;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(sender)
    }
}

struct Answer {
    status: StatusCode,
    header_bytes: usize,
    body_bytes: usize,
}

/// Bytes of the response's head as HTTP/1.1 writes it.
fn header_bytes<B>(response: &Response<B>) -> usize {
    let reason = response.status().canonical_reason().unwrap_or("");
    let line = "HTTP/1.1 200 \r\n".len() + reason.len();
    let fields: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    line + fields + "\r\n".len()
}
