//! Peers that never sleep: one thread is the clients and the server behind a
//! proxy, and looks for what has come without ever waiting for it.
//!
//! What a proxy pays for waking peers depends on how busy they are, and so on how
//! fast the proxy is: of two proxies the slower one has peers that wait, and pays
//! more than what makes it slower. A peer on another machine is woken by nobody
//! here.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// As the server behind the other cases answers.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nShip landed\n";
/// The last bytes of an answer, also of one that a proxy sends in chunks.
const ENDS: [&[u8]; 2] = [b"Ship landed\n", b"Ship landed\n\r\n0\r\n\r\n"];
const HEAD_END: &[u8] = b"\r\n\r\n";
/// The listener among the tokens of what is watched.
const LISTENER: u64 = 0;
/// While there is nothing to be measured it sleeps.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// How long a flood may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The clients and the server.
#[derive(Debug)]
pub struct Awake {
    port: u16,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// Requests that are to be sent.
#[derive(Debug)]
struct Order {
    port: u16,
    connections: u32,
    requests: u64,
    done: mpsc::Sender<io::Result<()>>,
}

impl Awake {
    /// Starts them where the calling thread runs.
    ///
    /// # Errors
    /// When there is no port or no thread for them.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let mut peers = Peers::new(listener)?;
        let (orders, taken) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("awake".to_owned())
            .spawn(move || peers.run(&taken))?;
        Ok(Self {
            port,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Where the server listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends so many requests to this port, one after another on each
    /// connection.
    ///
    /// # Errors
    /// When a single one is not answered with 200.
    pub fn flood(&self, port: u16, connections: u32, requests: u64) -> anyhow::Result<()> {
        let (done, result) = mpsc::channel();
        let order = Order {
            port,
            connections,
            requests,
            done,
        };
        let orders = self.orders.as_ref().context("they have ended")?;
        orders.send(order)?;
        Ok(result.recv_timeout(PATIENCE)??)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What went wrong there its last order has said.
            let _ended = thread.join();
        }
    }
}

struct Peers {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: HashMap<u64, Connection>,
    next: u64,
    flood: Option<Flood>,
}

struct Connection {
    stream: TcpStream,
    is_client: bool,
    /// What has come of a request or an answer that is not complete.
    read: Vec<u8>,
}

struct Flood {
    order: Order,
    request: Vec<u8>,
    to_send: u64,
    to_come: u64,
}

impl Peers {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let token = EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, token, EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            connections: HashMap::new(),
            next: LISTENER + 1,
            flood: None,
        })
    }

    fn run(&mut self, orders: &mpsc::Receiver<Order>) {
        let mut events = Vec::with_capacity(256);
        loop {
            if self.flood.is_none() {
                match orders.try_recv() {
                    Ok(order) => self.begin(order),
                    Err(mpsc::TryRecvError::Empty) => {}
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let wait = if self.flood.is_some() { NOW } else { NAP };
            events.clear();
            let waited = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&wait),
            );
            match waited {
                Ok(_count) => {}
                Err(Errno::INTR) => continue,
                Err(error) => self.end(Err(error.into())),
            }
            for event in &events {
                let event: &epoll::Event = event;
                if let Err(error) = self.ready(event.data.u64()) {
                    self.end(Err(error));
                }
            }
        }
    }

    fn begin(&mut self, order: Order) {
        let request = format!(
            "POST /v1/request-landing HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: awake\r\naccept: */*\r\ncontent-length: 0\r\n\r\n",
            order.port
        );
        let (connections, requests) = (order.connections, order.requests);
        self.flood = Some(Flood {
            request: request.into_bytes(),
            to_send: requests,
            to_come: requests,
            order,
        });
        for _client in 0..connections {
            if let Err(error) = self.connect() {
                return self.end(Err(error));
            }
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        let Some(flood) = &mut self.flood else {
            return Ok(());
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, flood.order.port))?;
        if flood.to_send > 0 {
            flood.to_send -= 1;
            (&stream).write_all(&flood.request)?;
        }
        self.watch(stream, true)
    }

    fn watch(&mut self, stream: TcpStream, is_client: bool) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let token = self.next;
        self.next += 1;
        epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(token),
            EventFlags::IN,
        )?;
        let read = Vec::with_capacity(16 * 1024);
        let connection = Connection {
            stream,
            is_client,
            read,
        };
        self.connections.insert(token, connection);
        Ok(())
    }

    fn ready(&mut self, token: u64) -> io::Result<()> {
        if token == LISTENER {
            let (stream, _client) = self.listener.accept()?;
            return self.watch(stream, false);
        }
        let Some(connection) = self.connections.get_mut(&token) else {
            return Ok(());
        };
        if !connection.fill()? {
            let left = connection.is_client && self.flood.is_some();
            self.connections.remove(&token);
            return match left {
                true => Err(io::Error::other("the proxy closed a connection")),
                false => Ok(()),
            };
        }
        match connection.is_client {
            true => self.answered(token),
            false => connection.serve(),
        }
    }

    /// Some of an answer is there.
    fn answered(&mut self, token: u64) -> io::Result<()> {
        let (Some(flood), Some(connection)) = (&mut self.flood, self.connections.get_mut(&token))
        else {
            return Ok(());
        };
        let answer = &connection.read;
        if !ENDS.iter().any(|end| answer.ends_with(end)) {
            return Ok(());
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            let text = String::from_utf8_lossy(answer).into_owned();
            return Err(io::Error::other(text));
        }
        connection.read.clear();
        flood.to_come -= 1;
        if flood.to_come == 0 {
            self.end(Ok(()));
        } else if flood.to_send > 0 {
            flood.to_send -= 1;
            (&connection.stream).write_all(&flood.request)?;
        }
        Ok(())
    }

    /// The flood is over: its clients leave.
    fn end(&mut self, result: io::Result<()>) {
        self.connections.retain(|_, one| !one.is_client);
        if let Some(flood) = self.flood.take() {
            // Who has given up listens no more.
            let _told = flood.order.done.send(result);
        }
    }
}

impl Connection {
    /// Reads what has come. False once nothing more comes.
    fn fill(&mut self) -> io::Result<bool> {
        let mut part = [0; 16 * 1024];
        let size = match (&self.stream).read(&mut part) {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        self.read.extend_from_slice(&part[..size]);
        Ok(size > 0)
    }

    /// Answers all requests that have come, none of which has a body.
    fn serve(&mut self) -> io::Result<()> {
        while let Some(at) = self
            .read
            .windows(HEAD_END.len())
            .position(|at| at == HEAD_END)
        {
            self.read.drain(..at + HEAD_END.len());
            (&self.stream).write_all(ANSWER)?;
        }
        Ok(())
    }
}
