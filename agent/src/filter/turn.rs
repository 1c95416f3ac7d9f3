//! Whose work goes on. What blocks cannot be broken off: where nobody waits for it any
//! more it takes its memory and its thread all the same.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;

/// A turn at what only so many do at a time. It is over when the last of its work is, and
/// not when nobody waits for that any more. Without a permit nobody counts.
#[derive(Clone, Default)]
pub struct Turn {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Does what takes a while where nobody else waits.
    ///
    /// # Errors
    /// When the work ends without a result, or the runtime does.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.clone();
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await
    }
}

impl From<OwnedSemaphorePermit> for Turn {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Some(Arc::new(permit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_over_when_its_work_is() {
        let turns = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&turns).acquire_owned().await.expect("a turn");
        let turn = Turn::from(permit);
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let work = turn.blocking(move || {
            begin.send(()).expect("it is waited for");
            ended.recv().expect_err("nothing is sent");
        });
        tokio::select! {
            _ = work => panic!("it has not ended"),
            begun = begun => begun.expect("begun"),
        }
        // Nobody waits for it any more.
        drop(turn);
        assert_eq!(turns.available_permits(), 0);
        drop(end);
        let free = timeout(Duration::from_secs(20), turns.acquire()).await;
        assert!(free.expect("in time").is_ok());
    }
}
