//! Containers' logs: a file for each run, a time before each line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, watch};

use super::record::PodState;
use crate::api::LogOptions;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The log of one run of a container.
pub(super) struct LogFile {
    file: Mutex<File>,
}

impl LogFile {
    /// Starts the log of the container's run of that number.
    pub async fn create(dir: &Path, run: u32) -> io::Result<Self> {
        tokio::fs::create_dir_all(dir).await?;
        let file = Mutex::new(File::create(path_of(dir, run)).await?);
        Ok(Self { file })
    }

    /// Writes down what a process says, until it says no more.
    pub async fn take_from(self: Arc<Self>, output: impl AsyncRead + Unpin) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = output.read_until(b'\n', &mut line).await {
            let mut entry = format!("{} ", Timestamp::now()).into_bytes();
            entry.append(&mut line);
            if !entry.ends_with(b"\n") {
                entry.push(b'\n');
            }
            let mut file = self.file.lock().await;
            let written = file.write_all(&entry).await;
            if written.and(file.flush().await).is_err() {
                // A full disk must not stop the process: read on, keep nothing.
                continue;
            }
        }
    }
}

/// File of a run.
pub(super) fn path_of(dir: &Path, run: u32) -> PathBuf {
    dir.join(format!("{run}.log"))
}

/// Reads a log as asked for.
pub(super) async fn read(
    path: PathBuf,
    options: LogOptions,
    container: usize,
    run: u32,
    state: watch::Receiver<PodState>,
) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let bytes = match tokio::fs::read(&path).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    // A line that is still being written is left for the next look.
    let whole = whole_lines(&bytes);
    let past = present(&bytes[..whole], &options);
    let limit = options.limit_bytes.unwrap_or(u64::MAX);
    let first = stream::once(async move { Ok(past) });
    if !options.follow {
        return Ok(limited(first, limit));
    }
    let follower = Follower {
        path,
        offset: whole as u64,
        options,
        container,
        run,
        state,
        ended: false,
    };
    let rest = stream::unfold(follower, async |mut follower| {
        let news = follower.next().await?;
        Some((news, follower))
    });
    Ok(limited(first.chain(rest), limit))
}

/// Cuts a stream after so many bytes.
fn limited(
    stream: impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static,
    limit: u64,
) -> BoxStream<'static, io::Result<Bytes>> {
    let cut = stream.scan(limit, |left, chunk| {
        let kept = match chunk {
            _ if *left == 0 => None,
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= bytes.len() as u64;
                Some(Ok(bytes))
            }
            Err(e) => Some(Err(e)),
        };
        std::future::ready(kept)
    });
    cut.boxed()
}

/// Reads what is added to a log until the container's run is over.
struct Follower {
    path: PathBuf,
    offset: u64,
    options: LogOptions,
    container: usize,
    run: u32,
    state: watch::Receiver<PodState>,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.ended {
            tokio::time::sleep(LOOK).await;
            // Looked at before the file: what was said before the end is read.
            self.ended = self.is_over();
            let news = match read_from(&self.path, self.offset).await {
                Ok(bytes) => bytes,
                Err(e) => return (!self.ended).then_some(Err(e)),
            };
            let whole = whole_lines(&news);
            if whole > 0 {
                self.offset += whole as u64;
                let options = LogOptions {
                    tail: None,
                    ..self.options.clone()
                };
                return Some(Ok(present(&news[..whole], &options)));
            }
        }
        None
    }

    fn is_over(&self) -> bool {
        // The pod's task, gone, drops its sender.
        if self.state.has_changed().is_err() {
            return true;
        }
        let state = self.state.borrow();
        state
            .containers
            .get(self.container)
            .is_none_or(|c| c.restarts != self.run || !c.is_running())
    }
}

async fn read_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path).await?;
    file.seek(io::SeekFrom::Start(offset)).await?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Length of the lines that are written to their end.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1)
}

/// Whole stored lines as the client wants them.
fn present(stored: &[u8], options: &LogOptions) -> Bytes {
    let lines = stored.split_inclusive(|b| *b == b'\n').filter(|line| {
        let Some(since) = options.since else {
            return true;
        };
        let time = line.split(|b| *b == b' ').next().unwrap_or_default();
        let time = std::str::from_utf8(time).ok().and_then(|t| t.parse().ok());
        time.is_none_or(|time: Timestamp| time >= since)
    });
    let lines: Vec<_> = lines.collect();
    let tail = options.tail.map_or(lines.len(), |tail| {
        usize::try_from(tail).unwrap_or(usize::MAX).min(lines.len())
    });
    let wanted = &lines[lines.len() - tail..];
    let shown = wanted.iter().flat_map(|line| match options.timestamps {
        true => *line,
        false => {
            let text = line.iter().position(|b| *b == b' ').map_or(0, |at| at + 1);
            &line[text..]
        }
    });
    shown.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] =
        b"2024-08-12T06:00:00Z one\n2024-08-12T06:00:01Z two words\n2024-08-12T06:00:02Z \n";

    fn shown(options: &LogOptions) -> String {
        String::from_utf8(present(LOG, options).to_vec()).unwrap()
    }

    #[test]
    fn times_are_shown_only_when_asked_for() {
        assert_eq!(shown(&LogOptions::default()), "one\ntwo words\n\n");
        let timestamps = LogOptions {
            timestamps: true,
            tail: Some(1),
            ..LogOptions::default()
        };
        assert_eq!(shown(&timestamps), "2024-08-12T06:00:02Z \n");
    }

    #[test]
    fn the_tail_and_what_is_new_are_cut_out() {
        let tail = LogOptions {
            tail: Some(2),
            ..LogOptions::default()
        };
        assert_eq!(shown(&tail), "two words\n\n");
        let since = LogOptions {
            since: "2024-08-12T06:00:01Z".parse().ok(),
            ..LogOptions::default()
        };
        assert_eq!(shown(&since), "two words\n\n");
    }

    #[tokio::test]
    async fn a_log_is_followed_to_its_containers_end() {
        let dir = std::env::temp_dir().join(format!("weft-lab-logs-{}", std::process::id()));
        let log = Arc::new(LogFile::create(&dir, 0).await.unwrap());
        let (_keep, state) = watch::channel(PodState::default());
        Arc::clone(&log).take_from(&b"hello\nworld"[..]).await;
        let options = LogOptions {
            follow: true,
            limit_bytes: Some(8),
            ..LogOptions::default()
        };
        let text = read(path_of(&dir, 0), options, 0, 0, state).await.unwrap();
        let chunks: Vec<_> = text.map(|chunk| chunk.unwrap()).collect().await;
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(chunks.concat(), b"hello\nwo");
    }
}
