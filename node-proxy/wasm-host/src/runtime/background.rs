//! Threads whose work can wait.

use uapi::c;

/// From here on this thread runs only when nobody else of the proxy's container wants the processor,
/// and gives it up at once. The lowest priority alone does not do that: now and then such a thread
/// ends its slice first, which is milliseconds. What others of the node want does not matter to it:
/// containers are given their shares as they are. Where it is not allowed the thread goes on with the
/// lowest priority, and where that is not either, as it is.
pub(super) fn step_back() {
    if !idle() {
        let _refused = rustix::process::setpriority_process(None, 19);
    }
}

fn idle() -> bool {
    // 0 stands for this thread. The C library of static programs (musl) only refuses.
    let none: c::sched_param = uapi::pod_zeroed();
    uapi::sched_setscheduler(0, c::SCHED_IDLE, &none).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

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
}
