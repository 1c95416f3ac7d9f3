//! What a run prints, in fortio's words.

use std::fmt::Write as _;

use super::args::{LoadArgs, Until};
use super::run::Outcome;
use super::stats::significant;

/// Before the run.
pub(super) fn opening(load: &LoadArgs) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let qps = load.qps.unwrap_or(0.0);
    let threads = load.connections.get();
    let (what, exactly) = match load.until {
        Until::Calls(n) => (
            format!("{n} calls"),
            format!(
                "exactly {n} calls ({} per thread + {})",
                n / threads,
                n % threads
            ),
        ),
        Until::Elapsed(time) => {
            let time = format!("{}s", time.as_secs_f64());
            (time.clone(), time)
        }
    };
    let starting = match load.qps {
        None => "at max qps".to_owned(),
        Some(qps) => format!("at {qps} qps"),
    };
    format!(
        "Fortio 1.60.3 running at {qps} queries per second, {processors}->{processors} procs, \
         for {what}: {}\nStarting {starting} with {threads} thread(s) [gomax {processors}] for {exactly}\n",
        load.url
    )
}

/// After the run.
pub(super) fn closing(load: &LoadArgs, outcome: &Outcome) -> String {
    let calls = outcome.calls.count();
    let seconds = outcome.elapsed.as_secs_f64();
    let qps = calls as f64 / seconds;
    let mut text = format!(
        "Ended after {} : {calls} calls. qps={}\n",
        elapsed(seconds),
        significant(qps, 5)
    );
    text += &outcome.calls.counter_line("Aggregated Function Time");
    text += &outcome.calls.histogram();
    text += &outcome.errors.counter_line("Error cases");
    text += &outcome.errors.histogram();
    text += "# Socket and IP used for each connection:\n";
    for (thread, sockets) in outcome.sockets.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "[{thread}]   {sockets} socket used");
    }
    text += &outcome
        .connects
        .counter_line("Connection time histogram (s)");
    let sockets: usize = outcome.sockets.iter().sum();
    let _ = writeln!(
        text,
        "Sockets used: {sockets} (for perfect keepalive, would be {})",
        load.connections
    );
    text += "Uniform: false, Jitter: false, Catchup allowed: true\nIP addresses distribution:\n";
    for (peer, count) in &outcome.peers {
        let _ = writeln!(text, "{peer}: {count}");
    }
    for (code, count) in &outcome.codes {
        let percent = 100.0 * *count as f64 / calls as f64;
        let _ = writeln!(text, "Code {code:3} : {count} ({percent:.1} %)");
    }
    text += &outcome.header_sizes.counter_line("Response Header Sizes");
    text += &outcome
        .total_sizes
        .counter_line("Response Body/Total Sizes");
    let _ = writeln!(
        text,
        "All done {calls} calls (plus 0 warmup) {:.3} ms avg, {qps:.1} qps",
        1000.0 * outcome.calls.mean()
    );
    text
}

/// Go's rounding of a duration's unit.
fn elapsed(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{}ms", significant(seconds * 1000.0, 8))
    } else {
        format!("{}s", significant(seconds, 10))
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Command, parse};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_run_ends_with_its_codes() {
        let words = [
            "load",
            "-c",
            "2",
            "-qps",
            "0",
            "-n",
            "20",
            "http://echo:8080",
        ];
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        let Ok(Command::Load(load)) = parse(&words) else {
            panic!("a load");
        };
        let mut outcome = Outcome {
            elapsed: Duration::from_millis(20),
            codes: [(200, 19), (503, 1)].into(),
            sockets: vec![1, 2],
            ..Outcome::default()
        };
        (0..20).for_each(|_| outcome.calls.record(0.001));
        let text = opening(&load) + &closing(&load, &outcome);
        assert!(text.contains("for 20 calls: http://echo:8080"));
        assert!(text.contains("exactly 20 calls (10 per thread + 0)\n"));
        assert!(text.contains("\nCode 200 : 19 (95.0 %)\nCode 503 : 1 (5.0 %)\n"));
        assert!(text.contains("Sockets used: 3 (for perfect keepalive, would be 2)\n"));
        assert!(text.contains("Ended after 20ms : 20 calls. qps=1000\n"));
        assert!(text.ends_with("All done 20 calls (plus 0 warmup) 1.000 ms avg, 1000.0 qps\n"));
    }
}
