//! Checking the compiler: what policies mean spelled out plainly, and random
//! policies to compare both with.
//!
//! Other crates use it through the feature `testing`, to compare a third way
//! of deciding with the first two.

pub mod cases;
pub mod reference;
