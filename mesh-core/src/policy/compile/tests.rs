//! Compiled policies against the plain evaluator, and the cases that matter
//! written out.

mod agreement;
mod bounds;
mod intercepts;
mod l7;
mod rules;
mod support;
