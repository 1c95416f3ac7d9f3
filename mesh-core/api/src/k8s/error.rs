//! What is wrong with an object, and where.

use std::fmt;

/// One thing wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field: `spec.ingress[0].toPorts[0].rules.HTTP`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything wrong with an object; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldErrors(pub Vec<FieldError>);

impl fmt::Display for FieldErrors {
    /// The errors, separated by `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// A place in an object.
#[derive(Clone, Debug)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn field(&self, name: &str) -> Self {
        match (self.0.as_str(), name.contains(['.', '/', ':'])) {
            (own, true) => Self(format!("{own}[\"{name}\"]")),
            ("", false) => Self(name.to_owned()),
            (own, false) => Self(format!("{own}.{name}")),
        }
    }

    /// A place below this one that is already written out: `headers[1]`.
    pub(super) fn field_path(&self, path: &str) -> Self {
        Self(format!("{}.{path}", self.0))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

/// Most errors that are told of one object: they have to fit into its status.
const MOST: usize = 20;
/// Most bytes of a path or message, for the same reason: both may hold what a
/// user wrote.
const LONGEST: usize = 1024;

/// Collects errors, so that a user sees all of them at once.
#[derive(Debug, Default)]
pub(super) struct Errors {
    told: Vec<FieldError>,
    /// How many more there are.
    untold: usize,
}

impl Errors {
    pub(super) fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.add_with(path, || message.into());
    }

    /// For what takes time to say: an object may have any number of errors, and only the
    /// first [`MOST`] are worded.
    pub(super) fn add_with(&mut self, path: &Path, message: impl FnOnce() -> String) {
        if self.told.len() == MOST {
            self.untold += 1;
            return;
        }
        self.told.push(FieldError {
            path: shortened(path.0.clone()),
            message: shortened(message()),
        });
    }

    pub(super) fn append(&mut self, more: Self) {
        self.untold += more.untold;
        for error in more.told {
            if self.told.len() == MOST {
                self.untold += 1;
            } else {
                self.told.push(error);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// The value, unless there was an error.
    pub(super) fn into_result<T>(mut self, value: T) -> Result<T, FieldErrors> {
        if self.told.is_empty() {
            return Ok(value);
        }
        if self.untold > 0 {
            // Where the first of them is: in `spec` or in `specs`.
            let first = self.told.first().map_or("spec", |error| &*error.path);
            let root = first.split(['.', '[']).next().unwrap_or(first).to_owned();
            self.told.push(FieldError {
                path: root,
                message: format!("has {} more errors", self.untold),
            });
        }
        Err(FieldErrors(self.told))
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = text.floor_char_boundary(LONGEST);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_not_worded() {
        let mut errors = Errors::default();
        let mut worded = 0;
        for _ in 0..100_000 {
            errors.add_with(&Path::root("spec"), || {
                worded += 1;
                "is wrong".to_owned()
            });
        }
        assert_eq!(worded, MOST);
        let told = errors.into_result(()).expect_err("errors").0;
        assert_eq!(told.len(), MOST + 1);
        assert_eq!(told[MOST].to_string(), "spec: has 99980 more errors");
    }
}
