//! What runs in the pods: a small server, and the two clients that measure.
//! All speak HTTP/1.1, so that the very same bytes pass with and without the
//! proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weft_integration::bench::cores;
use weft_integration::bench::stats::quantile;

/// Body of a ping, and of its answer.
const BODY: [u8; 64] = [b'x'; 64];

/// Bytes written at once in a transfer.
const CHUNK: usize = 256 * 1024;

/// Only the proxy adds it.
const MARK: &str = "x-envoy-upstream-service-time";

/// How long a server may take to listen, and how long a connection that should
/// be refused is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const REFUSAL: Duration = Duration::from_millis(500);

/// A role in a pod.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// Do nothing.
    #[command(hide = true)]
    Idle,
    /// Answer on these ports.
    #[command(hide = true)]
    Serve {
        /// Ports of every address.
        ports: Vec<u16>,
    },
    /// Measure round trips.
    #[command(hide = true)]
    Ping {
        /// Whom to ask.
        server: SocketAddr,
        /// How often.
        count: usize,
    },
    /// Measure throughput.
    #[command(hide = true)]
    Bulk {
        /// Whom to ask.
        server: SocketAddr,
        /// For how much.
        bytes: u64,
    },
    /// Find that no connection is to be had.
    #[command(hide = true)]
    Refused {
        /// Whom to ask.
        server: SocketAddr,
    },
}

/// Result of round trips.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pinged {
    /// Median, in nanoseconds.
    pub p50: u64,
    /// 99th percentile, in nanoseconds.
    pub p99: u64,
    /// The proxy stood in between.
    pub proxied: bool,
}

/// Result of a transfer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Bytes a second.
    pub rate: f64,
    /// The proxy stood in between.
    pub proxied: bool,
}

impl Role {
    /// Plays it; what was measured goes to standard output.
    ///
    /// # Errors
    /// Whatever goes wrong.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Idle => loop {
                thread::park();
            },
            Self::Serve { ports } => serve(&ports),
            Self::Ping { server, count } => {
                println!("{}", serde_json::to_string(&ping(server, count)?)?);
                Ok(())
            }
            Self::Bulk { server, bytes } => {
                println!("{}", serde_json::to_string(&bulk(server, bytes)?)?);
                Ok(())
            }
            Self::Refused { server } => match TcpStream::connect_timeout(&server, REFUSAL) {
                Ok(_connected) => bail!("{server} lets anyone in"),
                Err(_refused) => Ok(()),
            },
        }
    }
}

/// The two ends of a round trip stay where they are, or the scheduler's moods
/// would be measured: clients on the first processor, servers on the last.
fn settle(server: bool) -> std::io::Result<()> {
    let last = thread::available_parallelism()?.get() - 1;
    cores::pin(&[if server { last } else { 0 }])
}

fn serve(ports: &[u16]) -> anyhow::Result<()> {
    settle(true)?;
    let mut threads = Vec::new();
    for port in ports {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))?;
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that leaves is no matter of the others.
                thread::spawn(move || answer(stream).ok());
            }
        }));
    }
    for thread in threads {
        let _ended = thread.join();
    }
    Ok(())
}

/// Answers the requests of one connection.
fn answer(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    let chunk = vec![b'x'; CHUNK];
    while let Some(head) = Head::read(&mut reader)? {
        body.resize(usize::try_from(head.length)?, 0);
        reader.read_exact(&mut body)?;
        let Some(bytes) = head.first.strip_prefix("GET /bulk/") else {
            writer.write_all(&message("HTTP/1.1 200 OK"))?;
            continue;
        };
        let mut left: usize = bytes.split(' ').next().unwrap_or_default().parse()?;
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n")?;
        while left > 0 {
            let now = left.min(CHUNK);
            writer.write_all(chunk.get(..now).unwrap_or_default())?;
            left -= now;
        }
    }
    Ok(())
}

fn message(first: &str) -> Vec<u8> {
    let head = format!("{first}\r\ncontent-length: {}\r\n\r\n", BODY.len());
    [head.as_bytes(), &BODY].concat()
}

fn ping(server: SocketAddr, count: usize) -> anyhow::Result<Pinged> {
    settle(false)?;
    let mut stream = connect(server)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let request = message("POST /ping HTTP/1.1\r\nhost: bench");
    let mut body = BODY;
    let mut taken = Vec::with_capacity(count);
    let mut proxied = false;
    let warm_up = count / 10;
    for turn in 0..count + warm_up {
        let started = Instant::now();
        stream.write_all(&request)?;
        let head = Head::read(&mut reader)?.context("the server closed")?;
        head.expect_ok()?;
        reader.read_exact(&mut body)?;
        proxied = head.proxied;
        if turn >= warm_up {
            taken.push(u64::try_from(started.elapsed().as_nanos())?);
        }
    }
    taken.sort_unstable();
    Ok(Pinged {
        p50: quantile(&taken, 0.5).context("no round trip")?,
        p99: quantile(&taken, 0.99).context("no round trip")?,
        proxied,
    })
}

fn bulk(server: SocketAddr, bytes: u64) -> anyhow::Result<Moved> {
    settle(false)?;
    let mut stream = connect(server)?;
    let request = format!("GET /bulk/{bytes} HTTP/1.1\r\nhost: bench\r\n\r\n");
    let started = Instant::now();
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?.context("the server closed")?;
    head.expect_ok()?;
    let mut left = bytes.saturating_sub(reader.buffer().len() as u64);
    let mut stream = reader.into_inner();
    let mut space = vec![0; CHUNK];
    while left > 0 {
        match stream.read(&mut space)? {
            0 => bail!("the transfer ended {left} bytes early"),
            read => left = left.saturating_sub(read as u64),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = bytes as f64 / started.elapsed().as_secs_f64();
    Ok(Moved {
        rate,
        proxied: head.proxied,
    })
}

/// Connects as soon as the server listens.
fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&server, PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("connect to {server}"));
            }
            Err(_not_yet) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// As much of a head as is needed here.
struct Head {
    first: String,
    length: u64,
    proxied: bool,
}

impl Head {
    /// Reads one; `None` at the end of the connection.
    fn read(reader: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut head = Self {
            first: line.trim_end().to_owned(),
            length: 0,
            proxied: false,
        };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(head));
            };
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.trim().parse()?;
            }
            head.proxied |= name.eq_ignore_ascii_case(MARK);
        }
    }

    fn expect_ok(&self) -> anyhow::Result<()> {
        if !self.first.starts_with("HTTP/1.1 200") {
            bail!("answered {:?}", self.first);
        }
        Ok(())
    }
}
