//! Patterns, and where they are looked for.

use regex::bytes::{Regex, RegexBuilder};
use weft_sdk::Headers;
use weft_sdk::prelude::*;

use crate::Refusal;

/// A pattern takes at most this much memory, however it is written.
const MAX_COMPILED: usize = 1 << 20;

/// A pattern that a request must not have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Its name, for flows and logs.
    name: String,
    /// Where it is looked for.
    #[serde(rename = "in")]
    place: PlaceName,
    /// With `in: header`, only this one; all of them if it is left out.
    header: Option<String>,
    /// A regular expression of ASCII classes, in any case with `(?i)` before it.
    pattern: String,
    /// The answer's status.
    #[serde(default = "forbidden")]
    #[schemars(range(min = 400, max = 599))]
    status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PlaceName {
    Path,
    Query,
    Header,
    Body,
}

const fn forbidden() -> u16 {
    403
}

/// Where a pattern is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Path,
    Query,
    Header(String),
    AnyHeader,
    Body,
}

/// A rule that is ready.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) place: Place,
    name: String,
    status: u16,
    regex: Regex,
}

impl Rule {
    /// `field` is where it stands in the configuration.
    pub(crate) fn compile(&self, field: &str) -> Result<Compiled> {
        if !(400..600).contains(&self.status) {
            return Err(Error::new(format_args!(
                "{field}.status: between 400 and 599"
            )));
        }
        let regex = RegexBuilder::new(&self.pattern)
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .build()
            .map_err(|err| match err {
                regex::Error::CompiledTooBig(_) => Error::new("it takes too much memory"),
                other => Error::new(other),
            })
            .context(format_args!("{field}.pattern"))?;
        if let Some(name) = &self.header {
            Headers::check_readable(name).context(format_args!("{field}.header"))?;
        }
        let place = match (self.place, &self.header) {
            (PlaceName::Path, _) => Place::Path,
            (PlaceName::Query, _) => Place::Query,
            (PlaceName::Body, _) => Place::Body,
            (PlaceName::Header, Some(name)) => Place::Header(name.to_ascii_lowercase()),
            (PlaceName::Header, None) => Place::AnyHeader,
        };
        Ok(Compiled {
            place,
            name: self.name.clone(),
            status: self.status,
            regex,
        })
    }
}

impl Compiled {
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }

    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::new(self.status, format!("rule {}", self.name))
    }
}
