//! The bodies of reviews, and how many bytes of them there may be at a time.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a review: an object has 1.5 MiB at most, and there are two.
const MAX_REVIEW: u32 = 4 << 20;
/// Bytes of all that have not been read yet: one that finds no room waits.
const MAX_BODIES: usize = 16 << 20;

/// Room for bodies. Clones share it.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES)))
    }
}

impl Bodies {
    /// What comes, once there is room for it. It has its room until it is dropped.
    ///
    /// # Errors
    /// When it does not come, or is too long.
    pub(super) async fn collect<B>(&self, body: B) -> Result<Bytes, Box<dyn Error + Send + Sync>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let said = body.size_hint().upper();
        let most = said.and_then(|length| u32::try_from(length).ok());
        let most = most.unwrap_or(MAX_REVIEW).min(MAX_REVIEW);
        let room = Arc::clone(&self.0).acquire_many_owned(most).await?;
        let most = most as usize;
        let mut body = pin!(Limited::new(body, most));
        let mut bytes = Vec::with_capacity(most);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(Bytes::from_owner(Held { bytes, _room: room }))
    }
}

struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use futures_util::{FutureExt as _, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    /// A body that does not say how long it is.
    fn silent(length: usize) -> impl Body<Data = Bytes, Error = Infallible> {
        let frame = Frame::data(Bytes::from(vec![b'x'; length]));
        StreamBody::new(stream::iter([Ok(frame)]))
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..MAX_BODIES / MAX_REVIEW as usize {
            held.push(bodies.collect(silent(1)).await.expect("there is room"));
        }
        let mut waiting = pin!(bodies.collect(Full::from("review")));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held.pop());
        let collected = waiting.await.expect("there is room");
        assert_eq!(collected, "review");
        drop((held, collected));
        assert_eq!(bodies.0.available_permits(), MAX_BODIES);
    }

    #[tokio::test]
    async fn one_that_says_its_length_takes_no_more_room() {
        let bodies = Bodies::default();
        let collected = bodies.collect(Full::from("review")).await;
        let collected = collected.expect("there is room");
        assert_eq!(bodies.0.available_permits(), MAX_BODIES - collected.len());
    }

    #[tokio::test]
    async fn one_that_is_too_long_is_given_up() {
        let bodies = Bodies::default();
        let long = MAX_REVIEW as usize + 1;
        let said = Full::from(Bytes::from(vec![b'x'; long]));
        for given_up in [
            bodies.collect(said).await,
            bodies.collect(silent(long)).await,
        ] {
            let error = given_up.expect_err("it is too long");
            assert!(error.to_string().contains("length limit"), "{error}");
        }
        assert_eq!(bodies.0.available_permits(), MAX_BODIES);
    }
}
