//! Network namespaces, and threads that work inside them.
#![expect(unsafe_code, reason = "a socket's state, without a safe wrapper")]

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Long enough for anything that is going to happen on one machine.
pub const SOON: Duration = Duration::from_secs(5);
/// How long a refused client tries. A drop is silent, so this is waited for in
/// full.
pub const REFUSED: Duration = Duration::from_millis(300);

/// A network namespace, removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one with `lo` up; the name is unique to this process.
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wdp{}-{count}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let this = Self { name };
        this.ip("link set lo up");
        this
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` commands inside, one a line.
    pub fn ip(&self, commands: &str) {
        self.batch("ip", commands);
    }

    /// Runs `bridge` commands inside, one a line.
    pub fn bridge(&self, commands: &str) {
        self.batch("bridge", commands);
    }

    fn batch(&self, tool: &str, commands: &str) {
        let mut child = Command::new(tool)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{tool} (package iproute2): {error}"));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(commands.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{tool} in {}: {commands}\n{errors}",
            self.name
        );
    }

    /// Moves the calling thread into a namespace for good.
    pub fn join(name: &str) {
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("entering a network namespace needs root");
    }

    /// Runs a closure on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                Self::join(&self.name);
                work()
            });
            match handle.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Connects from inside.
    pub fn connect(&self, to: SocketAddrV4, within: Duration) -> std::io::Result<TcpStream> {
        let stream = self.enter(|| TcpStream::connect_timeout(&to.into(), within))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Connects from inside, from this address and port, which may have been in
    /// use a moment ago; returns also how many packets had to be sent again.
    pub fn connect_from(&self, from: SocketAddrV4, to: SocketAddrV4) -> (TcpStream, u32) {
        // The socket before may still wait for its last acknowledgement.
        let socket = eventually("the port is free", || {
            let socket = self
                .enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))
                .unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&from.into()).unwrap();
            match socket.connect_timeout(&to.into(), SOON) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
                connected => Some(connected.map(|()| socket).unwrap()),
            }
        });
        socket.set_read_timeout(Some(SOON)).unwrap();
        let repeated = retransmissions(&socket);
        (socket.into(), repeated)
    }

    /// Asserts that a TCP connection to an [`Echo`] works; returns who the
    /// server saw.
    pub fn talks_to(&self, to: SocketAddrV4) -> SocketAddr {
        let mut stream = self
            .connect(to, SOON)
            .unwrap_or_else(|error| panic!("{} to {to}: {error}", self.name));
        who_am_i(&mut stream)
    }

    /// Asserts that a TCP connection gets no answer.
    pub fn is_refused_by(&self, to: SocketAddrV4) {
        match self.connect(to, REFUSED) {
            Ok(_) => panic!("{} to {to} is open", self.name),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{} to {to}", self.name),
        }
    }

    /// An UDP socket inside, on any port.
    pub fn udp(&self, addr: Ipv4Addr) -> UdpSocket {
        let socket = self.enter(|| UdpSocket::bind((addr, 0))).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    /// Asserts that a ping is answered.
    pub fn pings(&self, to: Ipv4Addr) {
        const HEADER: usize = 20;
        let socket = self
            .enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))
            .unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let identifier = [0x77, 0x66];
        let [high, low] = identifier;
        // Type 8, its checksum, identifier, sequence number 0.
        let sum = !(0x0800 + u16::from_be_bytes(identifier));
        let [sum_high, sum_low] = sum.to_be_bytes();
        let request = [8, 0, sum_high, sum_low, high, low, 0, 0];
        socket
            .send_to(&request, &SocketAddr::from((to, 0)).into())
            .unwrap();
        let mut buffer = [0; 128];
        loop {
            let len = (&socket)
                .read(&mut buffer)
                .unwrap_or_else(|error| panic!("{to}: {error}"));
            let answer = &buffer[..len];
            if answer[12..16] == to.octets() && answer[HEADER..HEADER + 2] == [0, 0] {
                assert_eq!(answer[HEADER + 4..HEADER + 6], identifier);
                return;
            }
        }
    }

    /// Runs a command inside and asserts that it succeeds.
    pub fn command(&self, program: &str, args: &[&str]) -> String {
        let net = format!("--net=/run/netns/{}", self.name);
        let mut all = vec![net.as_str(), program];
        all.extend(args);
        run("nsenter", &all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Also while a failed test unwinds; there is nobody to tell about
        // another failure.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Packets that a TCP socket sent more than once.
fn retransmissions(socket: &Socket) -> u32 {
    // SAFETY: a structure of plain integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the structure lives across the call and
    // has the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server inside a namespace. Of each connection it first tells the client
/// its address, in a line, and then sends back what it gets. UDP datagrams are
/// answered with the sender's address.
pub struct Echo {
    listener: TcpListener,
    addr: SocketAddrV4,
}

impl Echo {
    /// Starts one for TCP and UDP, on the same port.
    pub fn start(namespace: &Namespace, addr: SocketAddrV4) -> Self {
        let (listener, datagrams) = namespace.enter(|| {
            let listener = TcpListener::bind(addr).unwrap();
            let addr = listener.local_addr().unwrap();
            (listener, UdpSocket::bind(addr).unwrap())
        });
        let addr = v4(listener.local_addr().unwrap());
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                thread::spawn(move || serve(stream, peer));
            }
        });
        // Ends with the namespace's last socket, at the latest with the
        // process.
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
                let _ = datagrams.send_to(peer.to_string().as_bytes(), peer);
            }
        });
        Self { listener, addr }
    }

    pub fn addr(&self) -> SocketAddrV4 {
        self.addr
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Wakes the accepting thread.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

fn serve(mut stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    if writeln!(stream, "{peer}").is_err() {
        return;
    }
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Reads the line with which an [`Echo`] greets.
pub fn who_am_i(stream: &mut TcpStream) -> SocketAddr {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream
        .read_exact(&mut byte)
        .map(|()| byte[0] != b'\n')
        .expect("a greeting")
    {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().parse().unwrap()
}

/// Sends a byte and waits for its echo.
pub fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Sends a datagram to an [`Echo`]; returns who it saw, and who answered.
pub fn ask(socket: &UdpSocket, to: SocketAddrV4) -> std::io::Result<(SocketAddr, SocketAddr)> {
    socket.send_to(b"who am I", to)?;
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer)?;
    Ok((
        std::str::from_utf8(&buffer[..len])
            .unwrap()
            .parse()
            .unwrap(),
        from,
    ))
}

pub fn v4(addr: SocketAddr) -> SocketAddrV4 {
    match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(addr) => panic!("{addr} is not IPv4"),
    }
}

/// Waits until a condition holds.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < SOON, "in vain: {what}");
        // Whoever brings it about needs the processor.
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Receives within [`SOON`].
pub fn receive<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(SOON).expect("a message")
}
