//! The real binary, with real modules.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod author;
mod inspect;
mod push;
mod run;
mod shipped;
mod support;
