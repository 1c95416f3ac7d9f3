//! Runs hyper's helper tasks on the worker that asked for them.

use std::future::Future;

/// Spawns on the current worker. Futures need not be `Send`: they never leave
/// the worker's thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
