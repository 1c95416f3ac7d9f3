//! Why a compiler says no.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::LoadError;

/// Why a module has no native code. It is the same every time; it may come from another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// It would take too long.
    TooComplex {
        /// Of what there is too much.
        what: Cow<'static, str>,
        /// How much there is.
        found: usize,
        /// How much there may be.
        most: usize,
    },
    /// It is not valid.
    Invalid(String),
}

impl From<Refusal> for LoadError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooComplex { what, found, most } => Self::TooComplex { what, found, most },
            Refusal::Invalid(why) => Self::Compile(why),
        }
    }
}
