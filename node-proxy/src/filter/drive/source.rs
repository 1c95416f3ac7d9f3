//! Where the messages of an exchange come from.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::SizeHint;
use weft_wasm_host::Side;

use super::{Drive, Stop};
use crate::filter::half::Part;
use crate::filter::stage::Stage;
use crate::http::body::ClientBody;
use crate::upstream::Content;

impl Drive {
    /// Whether a message may be of another length than where it comes from.
    #[must_use]
    pub fn changes_length(&self, side: Side) -> bool {
        let seen = match side {
            Side::Request => &self.stages[..],
            Side::Response => self.stages.get(..self.answering).unwrap_or_default(),
        };
        seen.iter()
            .any(|stage| stage.seen(side).replaced || length(stage, side).is_some())
    }

    /// What is known of the length of what is still to come of a message.
    #[must_use]
    pub fn size_hint(&self, side: Side) -> SizeHint {
        if self.progress(side).sent {
            return SizeHint::with_exact(0);
        }
        // The last that a message passes knows best what is still to come of it.
        let known = match side {
            Side::Request => self.stages.iter().rev().find_map(|one| length(one, side)),
            Side::Response => {
                let mut seen = self.stages.iter().take(self.answering);
                seen.find_map(|one| length(one, side))
            }
        };
        known.unwrap_or_else(|| match side {
            Side::Request => self
                .client
                .as_ref()
                .map_or_else(|| SizeHint::with_exact(0), ClientBody::size_hint),
            Side::Response => self.answer.size_hint(),
        })
    }

    /// Whether nothing more comes from where a message comes from.
    fn is_read(&self, side: Side) -> bool {
        match side {
            Side::Request => self.client.as_ref().is_none_or(ClientBody::is_end_stream),
            Side::Response => self.answer.is_over(),
        }
    }

    /// The next part from where a message comes from.
    pub(super) fn poll_source(
        &mut self,
        side: Side,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, Stop>> {
        let over = self.is_read(side);
        let progress = self.progress_mut(side);
        if !progress.begun {
            progress.begun = true;
            progress.read = over;
            return Poll::Ready(Ok(Some(Part::Head { end: over })));
        }
        if progress.read {
            return Poll::Ready(Ok(None));
        }
        let frame = match side {
            Side::Request => {
                let Some(client) = &mut self.client else {
                    return Poll::Ready(Ok(None));
                };
                let frame = ready!(client.poll_frame(context));
                frame.map(|frame| {
                    frame.map(|frame| frame.map_data(|bytes| Content::alone(bytes, 0)))
                })
            }
            Side::Response => ready!(self.answer.poll_frame(context)),
        };
        let over = self.is_read(side);
        let frame = frame.transpose().inspect_err(|_failure| {
            if side == Side::Response {
                // What comes in its place is not for filters that have seen a part.
                self.answering = 0;
            }
        })?;
        let part = match frame {
            None => Part::Data {
                content: Content::alone(Bytes::new(), 0),
                end: true,
            },
            Some(frame) => match frame.into_data() {
                Ok(content) => Part::Data { content, end: over },
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let lent = self.lent()?;
                    match side {
                        Side::Request => lent.request_trailers = Some(trailers),
                        Side::Response => lent.response_trailers = Some(trailers),
                    }
                    Part::Trailers
                }
            },
        };
        self.progress_mut(side).read = part.ends();
        Poll::Ready(Ok(Some(part)))
    }
}

/// What a filter makes of the length of a body; none where it leaves it as it
/// is.
fn length(stage: &Stage, side: Side) -> Option<SizeHint> {
    let half = stage.seen(side);
    if let Some(whole) = half.whole() {
        return Some(SizeHint::with_exact(whole as u64));
    }
    let changes = !stage.leaves_body_alone(side) || half.has_body();
    changes.then(SizeHint::default)
}
