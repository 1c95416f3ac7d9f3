//! fortio's command line: Go flags, one dash or two, value behind a space or `=`.

use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Generate load.
    Load(LoadArgs),
    /// Serve the echo server.
    Server,
}

/// `fortio load`.
#[derive(Debug)]
pub(super) struct LoadArgs {
    /// Parallel connections.
    pub connections: NonZeroUsize,
    /// Calls per second over all connections; `None`: as many as possible.
    pub qps: Option<f64>,
    /// When to stop.
    pub until: Until,
    /// Per call.
    pub timeout: Duration,
    /// Added to each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What to call, with its host as it was written.
    pub url: Uri,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// After so many calls.
    Calls(usize),
    /// After so much time.
    Elapsed(Duration),
}

/// A command line that fortio would not take, or that is not provided here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ArgsError {
    #[error("need a command: load or server")]
    NoCommand,
    #[error("command {0:?} is not provided here (load and server are)")]
    Command(String),
    #[error("flag -{0} is not provided here (-c, -qps, -n, -t, -timeout, -H, -quiet are)")]
    Flag(String),
    #[error("flag -{0} needs a value")]
    NoValue(String),
    #[error("invalid value {value:?} for flag -{flag}")]
    Value {
        /// Its name without dash.
        flag: String,
        /// What was given.
        value: String,
    },
    #[error("need one URL, got {0}")]
    Urls(usize),
    #[error("{0:?} is not an http:// URL")]
    Url(String),
}

pub(super) fn parse(arguments: &[String]) -> Result<Command, ArgsError> {
    let (command, rest) = arguments.split_first().ok_or(ArgsError::NoCommand)?;
    match command.as_str() {
        "server" => Ok(Command::Server),
        "load" => parse_load(rest).map(Command::Load),
        other => Err(ArgsError::Command(other.to_owned())),
    }
}

fn parse_load(arguments: &[String]) -> Result<LoadArgs, ArgsError> {
    // fortio's defaults: 4 connections, 8 calls per second, 5 seconds.
    let mut connections = NonZeroUsize::MIN.saturating_add(3);
    let mut qps = Some(8.0);
    let mut until = Until::Elapsed(Duration::from_secs(5));
    let mut timeout = Duration::from_secs(3);
    let mut headers = Vec::new();
    let mut urls = Vec::new();

    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            urls.push(word.clone());
            continue;
        };
        if flag == "quiet" {
            continue;
        }
        let (flag, value) = match flag.split_once('=') {
            Some((flag, value)) => (flag, value.to_owned()),
            None => {
                let known = matches!(flag, "c" | "qps" | "n" | "t" | "timeout" | "H");
                if !known {
                    return Err(ArgsError::Flag(flag.to_owned()));
                }
                let value = words.next();
                let value = value.ok_or_else(|| ArgsError::NoValue(flag.to_owned()))?;
                (flag, value.clone())
            }
        };
        let wrong = || ArgsError::Value {
            flag: flag.to_owned(),
            value: value.clone(),
        };
        match flag {
            "c" => connections = value.parse().map_err(|_| wrong())?,
            "qps" => {
                let rate: f64 = value.parse().map_err(|_| wrong())?;
                qps = (rate > 0.0).then_some(rate);
            }
            "n" => until = Until::Calls(value.parse().map_err(|_| wrong())?),
            "t" => until = Until::Elapsed(duration(&value).ok_or_else(wrong)?),
            "timeout" => timeout = duration(&value).ok_or_else(wrong)?,
            "H" => headers.push(header(&value).ok_or_else(wrong)?),
            _ => return Err(ArgsError::Flag(flag.to_owned())),
        }
    }
    let [url] = urls.as_slice() else {
        return Err(ArgsError::Urls(urls.len()));
    };
    Ok(LoadArgs {
        connections,
        qps,
        until,
        timeout,
        headers,
        url: parse_url(url)?,
    })
}

fn parse_url(text: &str) -> Result<Uri, ArgsError> {
    let wrong = || ArgsError::Url(text.to_owned());
    let url: Uri = match text.contains("://") {
        true => text.parse().map_err(|_| wrong())?,
        false => format!("http://{text}").parse().map_err(|_| wrong())?,
    };
    let http = url.scheme_str() == Some("http") && url.host().is_some();
    http.then_some(url).ok_or_else(wrong)
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

/// Go's durations with one unit: `300ms`, `1.5s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(line: &str) -> Result<LoadArgs, ArgsError> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        match parse(&words)? {
            Command::Load(load) => Ok(load),
            Command::Server => panic!("not a load"),
        }
    }

    #[test]
    fn the_documented_line_is_taken() {
        let load = load("load -c 2 -qps 0 -n 20 http://echo-service:8080").unwrap();
        assert_eq!(load.connections.get(), 2);
        assert_eq!(load.qps, None);
        assert_eq!(load.until, Until::Calls(20));
        assert_eq!(load.url.host(), Some("echo-service"));
        assert_eq!(load.url.port_u16(), Some(8080));
    }

    #[test]
    fn both_flag_forms_and_durations() {
        let load = load("load --c=3 -t 1.5s -qps=10 -H a:b localhost:1").unwrap();
        assert_eq!(load.until, Until::Elapsed(Duration::from_millis(1500)));
        assert_eq!(load.qps, Some(10.0));
        assert_eq!(load.headers[0].1, "b");
        assert_eq!(load.url.scheme_str(), Some("http"));
    }

    #[test]
    fn what_is_not_provided_is_refused() {
        assert_eq!(
            load("load -grpc http://x").unwrap_err(),
            ArgsError::Flag("grpc".to_owned())
        );
        assert_eq!(
            load("load -c 0 http://x").unwrap_err().to_string(),
            "invalid value \"0\" for flag -c"
        );
        assert_eq!(load("load -c 1").unwrap_err(), ArgsError::Urls(0));
        assert_eq!(
            load("load https://x").unwrap_err(),
            ArgsError::Url("https://x".to_owned())
        );
    }
}
