//! Clients.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Pace, end_with_input, tell};

/// Most of a raw answer that is printed.
const SHOWN: usize = 4096;

#[derive(clap::Args)]
pub(super) struct Requests {
    /// Whom to ask.
    to: SocketAddr,
    #[arg(long, default_value = "GET")]
    method: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// The Host header.
    #[arg(long, default_value = "load")]
    host: String,
    /// Milliseconds between two requests.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Milliseconds that each step of a request may take.
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
    /// Send all requests on one connection, a new one when it is closed.
    #[arg(long)]
    keep_alive: bool,
}

impl Requests {
    pub fn run(&self) -> io::Result<()> {
        end_with_input();
        let mut pace = Pace::new(self.every);
        let mut kept = None;
        loop {
            let (outcome, connection) = match self.one(kept.take()) {
                Ok((status, connection)) => (status, connection),
                Err(error) => (word(&error).to_owned(), None),
            };
            kept = connection.filter(|_| self.keep_alive);
            tell(&outcome)?;
            pace.wait();
        }
    }

    /// One request: its status, and the connection when it can be used again.
    fn one(
        &self,
        kept: Option<BufReader<TcpStream>>,
    ) -> io::Result<(String, Option<BufReader<TcpStream>>)> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => BufReader::new(connect(self.to, self.timeout)?),
        };
        let connection_header = if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        let request = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: {connection_header}\r\n\r\n",
            self.method, self.path, self.host
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length, mut stays) = (String::new(), 0, true);
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            match line.split_once(':') {
                None => status = line.split(' ').nth(1).unwrap_or("nonsense").to_owned(),
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap_or(0);
                }
                Some((name, value)) if name.eq_ignore_ascii_case("connection") => {
                    stays = !value.trim().eq_ignore_ascii_case("close");
                }
                Some(_) => {}
            }
        }
        let read = io::copy(&mut connection.by_ref().take(length), &mut io::sink())?;
        if read < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok((status, Some(connection).filter(|_| stays)))
    }
}

#[derive(clap::Args)]
pub(super) struct Stream {
    /// The echo server.
    to: SocketAddr,
    /// Milliseconds between two messages.
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// Milliseconds to wait for an answer.
    #[arg(long, default_value_t = 200)]
    timeout: u64,
}

impl Stream {
    pub fn run(&self) -> io::Result<()> {
        end_with_input();
        let mut pace = Pace::new(self.every);
        let mut stream = match connect(self.to, self.timeout) {
            Ok(stream) => stream,
            Err(error) => return tell(word(&error)),
        };
        tell("connected")?;
        loop {
            let mut answer = [0];
            let exchange = stream
                .write_all(b".")
                .and_then(|()| stream.read(&mut answer));
            match exchange {
                Ok(1..) => tell("echo")?,
                Ok(0) => return tell("closed"),
                Err(error) if is_timeout(&error) => tell("silence")?,
                Err(error) => return tell(word(&error)),
            }
            pace.wait();
        }
    }
}

#[derive(clap::Args)]
pub(super) struct Drip {
    /// The HTTP server.
    to: SocketAddr,
    /// Milliseconds to wait for more.
    #[arg(long, default_value_t = 200)]
    timeout: u64,
}

impl Drip {
    pub fn run(&self) -> io::Result<()> {
        end_with_input();
        let mut stream = match connect(self.to, self.timeout) {
            Ok(stream) => stream,
            Err(error) => return tell(word(&error)),
        };
        stream.write_all(b"GET /drip HTTP/1.1\r\nhost: load\r\n\r\n")?;
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return tell("closed"),
                Ok(_) => tell("data")?,
                Err(error) if is_timeout(&error) => tell("silence")?,
                Err(error) => return tell(word(&error)),
            }
        }
    }
}

#[derive(clap::Args)]
pub(super) struct Raw {
    /// Whom to send to.
    to: SocketAddr,
    /// What to send; `\r`, `\n`, `\0` and `\xNN` stand for bytes.
    text: String,
    /// Milliseconds to wait for more of an answer.
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
    /// Say that nothing more is sent.
    #[arg(long)]
    half_close: bool,
}

impl Raw {
    pub fn run(&self) -> io::Result<()> {
        let mut stream = match connect(self.to, self.timeout) {
            Ok(stream) => stream,
            Err(error) => return tell(word(&error)),
        };
        let sent = stream.write_all(&unescape(&self.text));
        if self.half_close {
            // The other side may be gone already.
            let _gone = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let ended = sent.and_then(|()| {
            Read::by_ref(&mut stream)
                .take(SHOWN as u64)
                .read_to_end(&mut answer)
        });
        println!("{}", String::from_utf8_lossy(&answer).escape_debug());
        match ended {
            Ok(_) => tell("closed"),
            Err(error) => tell(word(&error)),
        }
    }
}

fn connect(to: SocketAddr, timeout: u64) -> io::Result<TcpStream> {
    let timeout = Duration::from_millis(timeout);
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// What went wrong, in one word.
fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_timeout(error) => "timeout",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::UnexpectedEof => "closed",
        ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "broken",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        _ => "error",
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b'0') => bytes.push(0),
            Some(b'x') => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                bytes.extend(value.and_then(|value| u8::try_from(value).ok()));
            }
            Some(other) => bytes.push(other),
            None => bytes.push(b'\\'),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_can_be_written_as_text() {
        assert_eq!(unescape(r"a\r\n\x00\xffb\\"), b"a\r\n\x00\xffb\\");
    }
}
