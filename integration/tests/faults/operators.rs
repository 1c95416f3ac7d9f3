//! Of several operators one works; when it is gone another does.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::pods::policy;
use weft_integration::watch::until;

/// Of the leases here: the shortest that there is.
const LEASE: Duration = Duration::from_secs(3);
/// Between two renewals, and between two looks of one that stands by.
const INTERVAL: Duration = Duration::from_millis(400);
/// What a machine that is busy with other tests may take on top.
const SLACK: Duration = Duration::from_secs(5);

const WORKS: &str = "this operator works";
const STANDS_BY: &str = "another operator works, standing by";

/// An operator's process; killed when dropped.
struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    fn start(lab: &Lab, name: &str) -> Self {
        let log = lab.directory().join(format!("{name}.log"));
        let mut command = lab.command("weft-agent");
        command
            .arg("operator")
            .args(["--lease-duration", &LEASE.as_secs().to_string()])
            .arg("--kubeconfig")
            .arg(lab.state().join("kubeconfig"))
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn until_says(&self, what: &str) {
        until(|| match self.log() {
            log if log.contains(what) => Ok(()),
            log => Err(format!("no {what:?}: {log}")),
        })
        .unwrap();
    }

    /// How often it wrote the status of a policy.
    fn wrote(&self, policy: &str) -> usize {
        let name = format!("name=\"{policy}\"");
        let log = self.log();
        let wrote = |line: &&str| line.contains("status changed") && line.contains(&name);
        log.lines().filter(wrote).count()
    }

    /// Waits until it has ended by itself.
    fn ended(&mut self) -> ExitStatus {
        until(|| match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}: {}", self.log())),
        })
        .unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spec(lab: &Lab) -> Value {
    let words = [
        "get",
        "lease",
        "weft-operator",
        "-n",
        "kube-system",
        "-o",
        "json",
    ];
    let lease: Value = serde_json::from_str(&lab.lab(&words).well().unwrap()).unwrap();
    lease["spec"].clone()
}

/// The lease: its holder, how often it changed hands, when it was renewed.
fn lease(lab: &Lab) -> Option<(String, u64, String)> {
    let spec = spec(lab);
    Some((
        spec["holderIdentity"].as_str()?.to_owned(),
        spec["leaseTransitions"].as_u64()?,
        spec["renewTime"].as_str()?.to_owned(),
    ))
}

fn until_held_by_another(lab: &Lab, than: &str) -> (String, u64) {
    until(|| match lease(lab) {
        Some((holder, transitions, _)) if holder != than => Ok((holder, transitions)),
        other => Err(format!("{other:?}")),
    })
    .unwrap()
}

/// Applies a policy; returns once somebody has written its status.
fn judged(lab: &Lab, name: &str) {
    apply(lab, name);
    lab.until_valid(name, true).unwrap();
}

fn apply(lab: &Lab, name: &str) {
    let policy = policy(
        name,
        ("app", name),
        ("side", "friend"),
        &[(80, Some("GET"))],
    );
    lab.apply(&[policy]).unwrap();
}

/// The one that works, another that stands by, and the name of the holder.
fn two(lab: &Lab) -> (Operator, Operator, String) {
    let first = Operator::start(lab, "first");
    first.until_says(WORKS);
    first.until_says("resource definitions are in place");
    let second = Operator::start(lab, "second");
    second.until_says(STANDS_BY);
    let (holder, transitions, _) = lease(lab).unwrap();
    assert_eq!(transitions, 0);
    (first, second, holder)
}

#[test]
fn another_takes_over_when_the_one_that_works_is_killed() {
    let lab = Lab::up(&["--no-mesh", "--nodes", "1"]).unwrap();
    let (first, second, holder) = two(&lab);
    judged(&lab, "before");
    assert_eq!((first.wrote("before"), second.wrote("before")), (1, 0));

    first.signal(Signal::KILL);
    let killed = Instant::now();
    // Nobody writes until the lease is over.
    apply(&lab, "between");
    let (heir, transitions) = until_held_by_another(&lab, &holder);
    let took = killed.elapsed();
    eprintln!("taken over {} ms after the kill", took.as_millis());
    assert_eq!(transitions, 1);
    assert!(took > LEASE - 2 * INTERVAL, "too early: {took:?}");
    assert!(took < LEASE + 2 * INTERVAL + SLACK, "too late: {took:?}");
    lab.until_valid("between", true).unwrap();
    second.until_says(WORKS);
    assert_eq!((first.wrote("between"), second.wrote("between")), (0, 1));

    // It comes back and leaves the other alone, however often that renews.
    let back = Operator::start(&lab, "back");
    back.until_says(STANDS_BY);
    let mut renewed = lease(&lab).unwrap().2;
    for _renewal in 0..5 {
        renewed = until(|| match lease(&lab) {
            Some((now, 1, at)) if now == heir && at != renewed => Ok(at),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    }
    judged(&lab, "after");
    assert_eq!((back.wrote("after"), second.wrote("after")), (0, 1));
    assert!(!back.log().contains(WORKS), "{}", back.log());

    // One that is told to end does not make the next wait.
    drop(back);
    let mut second = second;
    second.signal(Signal::TERM);
    assert!(second.ended().success(), "{}", second.log());
    assert_eq!(spec(&lab)["holderIdentity"], Value::Null);
}

#[test]
fn one_that_was_held_up_ends_and_does_not_take_its_lease_back() {
    let lab = Lab::up(&["--no-mesh", "--nodes", "1"]).unwrap();
    let (mut first, second, holder) = two(&lab);
    first.signal(Signal::STOP);
    let (heir, _) = until_held_by_another(&lab, &holder);
    second.until_says(WORKS);
    first.signal(Signal::CONT);
    // Whoever supervises it starts it afresh.
    assert!(!first.ended().success(), "{}", first.log());
    let (now, transitions, _) = lease(&lab).unwrap();
    assert_eq!((now, transitions), (heir, 1));
    judged(&lab, "after");
    assert_eq!(second.wrote("after"), 1);
}
