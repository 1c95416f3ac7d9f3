//! Servers, a thread for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::Pace;

/// Serves on all addresses until it is killed.
pub(super) fn serve(
    addresses: &[SocketAddr],
    handle: fn(TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    let listeners: Vec<_> = addresses
        .iter()
        .map(TcpListener::bind)
        .collect::<io::Result<_>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Clients come and go as they like.
                    thread::spawn(move || handle(stream).ok());
                }
            });
        }
    });
    Ok(())
}

/// Sends back what comes.
pub(super) fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length])?,
        }
    }
}

/// Answers one request after the other.
pub(super) fn http(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = body_length(&mut reader)?;
        let received = match body {
            Body::Sized(length) => io::copy(&mut reader.by_ref().take(length), &mut io::sink())?,
            Body::Chunked => skip_chunks(&mut reader)?,
        };
        if path == "/drip" {
            return drip(reader.into_inner());
        }
        let asked = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok());
        let text = format!("{received}\n");
        let length = asked.unwrap_or(text.len() as u64);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let stream = reader.get_mut();
        stream.write_all(head.as_bytes())?;
        match asked {
            Some(length) => drop(io::copy(&mut io::repeat(b'w').take(length), stream)?),
            None => stream.write_all(text.as_bytes())?,
        }
    }
}

/// An answer without an end, a byte every few milliseconds.
fn drip(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let mut pace = Pace::new(5);
    loop {
        stream.write_all(b"1\r\nw\r\n")?;
        pace.wait();
    }
}

enum Body {
    Sized(u64),
    Chunked,
}

/// Reads the rest of a head.
fn body_length(reader: &mut BufReader<TcpStream>) -> io::Result<Body> {
    let mut body = Body::Sized(0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Ok(body);
        }
        match line.split_once(':') {
            Some(("content-length", length)) => {
                body = Body::Sized(length.trim().parse().unwrap_or(0));
            }
            Some(("transfer-encoding", coding)) if coding.trim() == "chunked" => {
                body = Body::Chunked;
            }
            _ => {}
        }
    }
}

fn skip_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<u64> {
    let mut received = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).unwrap_or(0);
        received += io::copy(&mut reader.by_ref().take(size), &mut io::sink())?;
        let mut end = String::new();
        reader.read_line(&mut end)?;
        if size == 0 {
            return Ok(received);
        }
    }
}
