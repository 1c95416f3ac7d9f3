//! Ways round the policies, and limits of what the mesh uses and leaves.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod bypass;
mod lifetime;
mod marks;
mod memory;
mod native;
mod policies;
mod settings;
mod world;
