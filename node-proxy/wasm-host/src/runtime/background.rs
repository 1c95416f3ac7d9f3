//! Work that can wait.

use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use uapi::c;

/// From here on this thread, and those that it makes, run only when nobody else of the proxy's
/// container wants the processor, and give it up at once. The lowest priority alone does not do that:
/// now and then such a thread ends its slice first, which is milliseconds. What others of the node
/// want does not matter to them: containers are given their shares as they are. Where it is not
/// allowed they go on with the lowest priority, and where that is not either, as they are.
pub(crate) fn step_back() {
    if !idle() {
        let _refused = rustix::process::setpriority_process(None, 19);
    }
}

fn idle() -> bool {
    schedule(uapi::gettid(), c::SCHED_IDLE)
}

/// The C library of static programs (musl) only refuses.
fn schedule(thread: c::pid_t, policy: c::c_int) -> bool {
    let none: c::sched_param = uapi::pod_zeroed();
    uapi::sched_setscheduler(thread, policy, &none).is_ok()
}

/// Whether a thread that has stepped back may come forward again. That is a privilege of its own
/// (`CAP_SYS_NICE`, or the limit `RLIMIT_NICE`), so it is tried, with a thread that nobody waits for.
fn may_return() -> bool {
    let (tell, told) = channel();
    let (end, ended) = channel::<()>();
    let there = move || {
        let _told = tell.send(uapi::gettid());
        let _ended = ended.recv();
    };
    let made = thread::Builder::new().spawn(there);
    let returns = |thread| schedule(thread, c::SCHED_IDLE) && schedule(thread, c::SCHED_OTHER);
    let may = made.is_ok() && told.recv().is_ok_and(returns);
    drop(end);
    may
}

/// Does something that others need not wait for, on this thread: it steps back meanwhile, but for no
/// longer than this, so that it is done at last where the processor is never free. Where that is not
/// allowed it is done like anything else. It must not panic.
pub fn giving_way<T>(patience: Duration, work: impl FnOnce() -> T) -> T {
    static MAY_RETURN: OnceLock<bool> = OnceLock::new();
    if !MAY_RETURN.get_or_init(may_return) {
        return work();
    }
    let thread = uapi::gettid();
    let (begun, watched) = channel::<()>();
    thread::scope(|scope| {
        // It is made before this one steps back, or it would be as patient.
        let watches = move || {
            let begins = watched.recv().is_ok();
            if begins && watched.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                schedule(thread, c::SCHED_OTHER);
            }
        };
        let watcher = thread::Builder::new().spawn_scoped(scope, watches);
        let steps_back = watcher.is_ok() && idle();
        if steps_back {
            let _watches = begun.send(());
        }
        let result = work();
        drop(begun);
        if steps_back {
            schedule(thread, c::SCHED_OTHER);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};
    use std::{fs, thread};

    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use uapi::c;

    /// Field 41 of proc(5).
    fn policy() -> Option<c::c_int> {
        let stat = fs::read_to_string("/proc/thread-self/stat").ok()?;
        // The name may have anything in it, and is the second.
        let (_name, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(38)?.parse().ok()
    }

    #[test]
    fn a_thread_that_steps_back_runs_when_nobody_else_does_and_the_others_as_before() {
        let mine = policy();
        let theirs = thread::spawn(|| {
            super::step_back();
            policy()
        });
        assert_eq!(theirs.join().ok().flatten(), Some(c::SCHED_IDLE));
        assert_eq!(mine, Some(c::SCHED_OTHER));
        assert_eq!(policy(), mine);
    }

    #[test]
    fn who_may_not_come_forward_again_does_not_step_back() {
        assert!(super::may_return(), "tests run as root");
        let unprivileged = || {
            let mut sets = capabilities(None).expect("this thread's");
            sets.effective -= CapabilitySet::SYS_NICE;
            set_capabilities(None, sets).expect("one less");
            super::may_return()
        };
        let may = thread::spawn(unprivileged).join().expect("it ends");
        let limit = getrlimit(Resource::Nice).current;
        assert_eq!(may, limit.is_none_or(|limit| limit >= 20));
        assert_eq!(policy(), Some(c::SCHED_OTHER));
    }

    #[test]
    fn what_gives_way_does_so_for_a_while() {
        let long = Duration::from_secs(3600);
        let meanwhile = super::giving_way(long, policy);
        assert_eq!(meanwhile, Some(c::SCHED_IDLE));
        assert_eq!(policy(), Some(c::SCHED_OTHER));
        let deadline = Instant::now() + Duration::from_secs(20);
        let at_last = super::giving_way(Duration::ZERO, || {
            while policy() == Some(c::SCHED_IDLE) && Instant::now() < deadline {
                thread::yield_now();
            }
            policy()
        });
        assert_eq!(at_last, Some(c::SCHED_OTHER));
    }
}
