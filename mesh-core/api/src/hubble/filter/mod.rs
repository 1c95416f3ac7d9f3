//! What a [`FlowFilter`] means: which flows it selects.
//!
//! The meaning is part of the protocol, so the observer (which filters at the
//! source) and the command line (which filters recorded flows) share it. A
//! filter is compiled once, with every pattern checked, and then asked per flow.

mod ends;
mod http;
mod kinds;
mod pattern;
mod selector;

#[cfg(test)]
mod tests;

use super::flow::{Flow, FlowFilter};

/// A filter that cannot be honoured. The text is what clients print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

impl FilterError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    fn within(self, what: &str) -> Self {
        Self(format!("{what}: {self}"))
    }
}

/// One condition on a flow.
type Condition = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// Every condition of one [`FlowFilter`]; all must hold.
struct Compiled(Vec<Condition>);

impl Compiled {
    fn new(filter: &FlowFilter) -> Result<Self, FilterError> {
        let mut conditions = Vec::new();
        kinds::compile(filter, &mut conditions)?;
        ends::compile(filter, &mut conditions)?;
        http::compile(filter, &mut conditions)?;
        Ok(Self(conditions))
    }

    fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|condition| condition(flow))
    }
}

/// An allow list and a deny list, ready to be asked.
pub struct FlowFilters {
    allow: Vec<Compiled>,
    deny: Vec<Compiled>,
}

impl FlowFilters {
    /// Compiles both lists.
    ///
    /// # Errors
    /// When a value cannot be parsed, or a filter asks for something that is
    /// not supported (CEL expressions): silently matching everything or nothing
    /// would mislead.
    pub fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, FilterError> {
        Ok(Self {
            allow: allow.iter().map(Compiled::new).collect::<Result<_, _>>()?,
            deny: deny.iter().map(Compiled::new).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the flow is wanted: the allow list is empty or one of its
    /// filters matches, and no filter of the deny list does.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let allowed = self.allow.is_empty() || self.allow.iter().any(|f| f.matches(flow));
        allowed && !self.deny.iter().any(|f| f.matches(flow))
    }
}

impl std::fmt::Debug for FlowFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowFilters")
            .field("allow", &self.allow.len())
            .field("deny", &self.deny.len())
            .finish()
    }
}

/// Adds a condition when the filter names any values for it.
fn when_any<T: Clone + Send + Sync + 'static>(
    conditions: &mut Vec<Condition>,
    values: &[T],
    matches: impl Fn(&[T], &Flow) -> bool + Send + Sync + 'static,
) {
    if !values.is_empty() {
        let values = values.to_vec();
        conditions.push(Box::new(move |flow| matches(&values, flow)));
    }
}
