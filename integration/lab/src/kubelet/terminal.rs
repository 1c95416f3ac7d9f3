//! exec on a terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::mpsc;

use super::runtime::{Enter, exit};
use crate::api::{ExecRequest, ExecSession, RuntimeError, TerminalSize};

/// Starts a command on a terminal of its own.
pub(super) fn exec(
    Enter(mut command): Enter,
    request: &ExecRequest,
) -> Result<ExecSession, RuntimeError> {
    let (ours, theirs) = open()?;
    command
        .args(["--tty", "--"])
        .args(&request.command)
        .env("TERM", "xterm-256color")
        .stdin(Stdio::from(theirs.try_clone()?))
        .stdout(Stdio::from(theirs.try_clone()?))
        .stderr(Stdio::from(theirs));
    let child = command.spawn()?;
    // It holds copies; only with the last of them gone does our side end.
    drop(command);
    let sizes = follow_sizes(ours.try_clone()?);
    let (output, input) = bridge(ours)?.into_split();
    Ok(ExecSession {
        stdin: request.stdin.then(|| Box::new(input) as _),
        stdout: Some(Box::new(output)),
        stderr: None,
        resize: Some(sizes),
        exit: exit(child),
    })
}

/// A terminal: our side and the command's.
fn open() -> io::Result<(File, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    // Opened through our side, not by name: /dev/pts may be another's.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    Ok((File::from(ours), theirs))
}

/// Gives the terminal the sizes that the client's window takes.
fn follow_sizes(terminal: File) -> mpsc::Sender<TerminalSize> {
    let (sizes, mut incoming) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        while let Some(size) = incoming.recv().await {
            let size = Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            if tcsetwinsize(&terminal, size).is_err() {
                return;
            }
        }
    });
    sizes
}

/// A terminal as a stream. Two threads copy: terminals are read by blocking.
fn bridge(terminal: File) -> io::Result<tokio::net::UnixStream> {
    let (near, far) = UnixStream::pair()?;
    let (mut from_terminal, mut to_terminal) = (terminal.try_clone()?, terminal);
    let (mut from_client, mut to_client) = (far.try_clone()?, far);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("tty-out").spawn(move || {
        copy(&mut from_terminal, &mut to_client);
        // The command is gone: ends the other thread, too.
        let _ = to_client.shutdown(Shutdown::Both);
    })?;
    thread("tty-in").spawn(move || copy(&mut from_client, &mut to_terminal))?;
    near.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(near)
}

/// Copies until either side ends. A terminal's end is an error (EIO).
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
