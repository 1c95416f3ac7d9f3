//! Whether a configuration is of the form that its filter says.
//!
//! Schema and configuration may come from anybody: checking one against the other has bounds.
#![forbid(unsafe_code)]

mod cost;
mod graph;

use std::fmt;

use cost::Telling;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, PatternOptions, ValidationError};
use serde_json::Value;
use weft_abi::section::MAX_SCHEMA;

/// More are not told: the first ones say what is wrong.
const MAX_PROBLEMS: usize = 8;
/// A pattern of a schema takes at most this much memory.
const MAX_PATTERN: usize = 1 << 20;
/// Bytes of a path, and of what is said of it: either may quote the schema.
const MAX_TEXT: usize = 512;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// The filter's schema is none.
    Schema(String),
    /// The configuration is not of its form.
    Config(Vec<Problem>),
}

impl Invalid {
    /// What is wrong, with the paths that fields have where the configuration stands below `root`.
    #[must_use]
    pub fn below(&self, root: &str) -> String {
        match self {
            Self::Schema(_) => self.to_string(),
            Self::Config(problems) => {
                let problems: Vec<_> = problems.iter().map(|one| one.below(root)).collect();
                problems.join("; ")
            }
        }
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its path, as `deny[0].status`; empty for the configuration as a whole.
    pub path: String,
    /// Why. Values are not repeated, for they may be secrets.
    pub why: String,
}

impl Problem {
    fn below(&self, root: &str) -> String {
        let Self { path, why } = self;
        match path.as_str() {
            "" => format!("{root}: {why}"),
            path if path.starts_with('[') => format!("{root}{path}: {why}"),
            path => format!("{root}.{path}: {why}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.why),
            path => write!(f, "{path}: {}", self.why),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(why) => write!(f, "the filter's schema cannot be used: {why}"),
            Self::Config(problems) => {
                for (at, problem) in problems.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    write!(f, "{separator}{problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// Checks a configuration. Schema and configuration may come from anybody: patterns are matched in
/// linear time, nothing is fetched, and what would take too long is refused before it is done.
///
/// # Errors
/// What is wrong, by field.
pub fn validate(schema: &str, config: &Value) -> Result<(), Invalid> {
    if schema.len() > MAX_SCHEMA {
        let why = format!("it has more than {MAX_SCHEMA} bytes");
        return Err(Invalid::Schema(why));
    }
    let schema: Value =
        serde_json::from_str(schema).map_err(|error| Invalid::Schema(error.to_string()))?;
    let telling = cost::check(&schema, config).map_err(Invalid::Schema)?;
    let patterns = PatternOptions::regex()
        .size_limit(MAX_PATTERN)
        .dfa_size_limit(MAX_PATTERN);
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns)
        // Some of them take longer than linear time.
        .should_validate_formats(false)
        .build(&schema)
        .map_err(|error| Invalid::Schema(error.to_string()))?;
    // What is right is known without making a list of what is wrong.
    if validator.is_valid(config) {
        return Ok(());
    }
    let problems: Vec<_> = match telling {
        Telling::All => {
            let errors = validator.iter_errors(config).take(MAX_PROBLEMS);
            errors.map(|error| problem(&error)).collect()
        }
        Telling::First => {
            let first = validator.validate(config).err();
            first.iter().map(problem).collect()
        }
        Telling::Nothing => vec![Problem {
            path: String::new(),
            why: "it is not of the form that the filter asks for, and too large to say where"
                .to_owned(),
        }],
    };
    Err(Invalid::Config(problems.into_iter().map(cut).collect()))
}

/// Names may be as long as the configuration is.
fn cut(problem: Problem) -> Problem {
    let short = |text: String| match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    };
    Problem {
        path: short(problem.path),
        why: short(problem.why),
    }
}

fn problem(error: &ValidationError<'_>) -> Problem {
    let path = dotted(error.instance_path());
    match error.kind() {
        ValidationErrorKind::Required { property } => Problem {
            path: joined(&path, property.as_str().unwrap_or_default()),
            why: "it is missing".to_owned(),
        },
        ValidationErrorKind::AdditionalProperties { unexpected } => match &unexpected[..] {
            [name] => Problem {
                path: joined(&path, name),
                why: "there is no such field".to_owned(),
            },
            names => Problem {
                path,
                why: format!(
                    "there are no such fields: {}",
                    names[..names.len().min(MAX_PROBLEMS)].join(", ")
                ),
            },
        },
        // Of several forms none fits: what is wrong with the one that comes nearest.
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            match nearest(context) {
                Some(nested) => problem(nested),
                None => plain(path, error),
            }
        }
        _ => plain(path, error),
    }
}

fn plain(path: String, error: &ValidationError<'_>) -> Problem {
    let why = error.masked_with("it").to_string();
    Problem { path, why }
}

/// The first problem of the form whose problems lie deepest; none if no form is better than others.
fn nearest<'a>(forms: &'a [Vec<ValidationError<'static>>]) -> Option<&'a ValidationError<'static>> {
    let depth = |error: &ValidationError<'_>| error.instance_path().iter().count();
    let deepest = |form: &'a Vec<ValidationError<'static>>| form.iter().max_by_key(|it| depth(it));
    let mut found: Vec<_> = forms.iter().filter_map(deepest).collect();
    found.sort_by_key(|error| std::cmp::Reverse(depth(error)));
    match &found[..] {
        [first, second, ..] if depth(first) == depth(second) => None,
        [first, ..] => Some(first),
        [] => None,
    }
}

fn dotted(location: &Location) -> String {
    let mut path = String::new();
    for segment in location {
        match segment {
            LocationSegment::Property(name) => path = joined(&path, &name),
            LocationSegment::Index(at) => path.push_str(&format!("[{at}]")),
        }
    }
    path
}

fn joined(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: Value, config: Value) -> String {
        validate(&schema.to_string(), &config)
            .expect_err("it is wrong")
            .to_string()
    }

    fn schema() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "limit": {"type": "integer", "minimum": 1},
                "deny": {"type": "array", "items": {"$ref": "#/$defs/Rule"}},
                "by": {"oneOf": [
                    {"type": "object", "properties": {"cookie": {"type": "string"}},
                     "required": ["cookie"], "additionalProperties": false},
                    {"type": "object", "properties": {"header": {"type": "string"}},
                     "required": ["header"], "additionalProperties": false},
                ]},
            },
            "required": ["limit"],
            "additionalProperties": false,
            "$defs": {"Rule": {
                "type": "object",
                "properties": {"status": {"type": "integer"}, "name": {"pattern": "^[a-z]+$"}},
            }},
        })
    }

    #[test]
    fn what_is_wrong_is_told_by_field() {
        for (config, expected) in [
            (json!({}), "limit: it is missing"),
            (
                json!({"limit": "secret"}),
                "limit: it is not of type \"integer\"",
            ),
            (
                json!({"limit": 0}),
                "limit: it is less than the minimum of 1",
            ),
            (json!({"limit": 1, "x": 1}), "x: there is no such field"),
            (
                json!({"limit": 1, "x": 1, "y": 2}),
                "there are no such fields: x, y",
            ),
            (
                json!({"limit": 1, "deny": [{}, {"status": "a"}]}),
                "deny[1].status: it is not of type \"integer\"",
            ),
            (
                json!({"limit": 1, "deny": [{"name": "A"}]}),
                "deny[0].name: it does not match \"^[a-z]+$\"",
            ),
            (
                json!({"limit": 1, "by": {"cookie": 5}}),
                "by.cookie: it is not of type \"string\"",
            ),
            (json!([]), "it is not of type \"object\""),
            (
                json!({"deny": 1}),
                "deny: it is not of type \"array\"; limit: it is missing",
            ),
        ] {
            assert_eq!(refused(schema(), config.clone()), expected, "{config}");
        }
        assert_eq!(
            validate(&schema().to_string(), &json!({"limit": 5})),
            Ok(())
        );
    }

    #[test]
    fn problems_have_the_paths_of_the_object_around_the_configuration() {
        let below = |schema: Value, config: Value| {
            let wrong = validate(&schema.to_string(), &config).expect_err("it is wrong");
            wrong.below("spec.config")
        };
        for (config, expected) in [
            (
                json!({"deny": 1}),
                "spec.config.deny: it is not of type \"array\"; spec.config.limit: it is missing",
            ),
            (json!([]), "spec.config: it is not of type \"object\""),
        ] {
            assert_eq!(below(schema(), config), expected);
        }
        let items = json!({"items": {"type": "integer"}});
        assert_eq!(
            below(items, json!(["x"])),
            "spec.config[0]: it is not of type \"integer\""
        );
        let none = below(json!({"type": 5}), json!({}));
        assert!(
            none.starts_with("the filter's schema cannot be used: "),
            "{none}"
        );
    }

    #[test]
    fn a_schema_that_is_none_is_said_to_be_so() {
        for schema in [
            "{",
            r#"{"type": 5}"#,
            r#"{"$ref": "https://example.com/x"}"#,
        ] {
            let error = validate(schema, &json!({})).expect_err("it is none");
            assert!(matches!(error, Invalid::Schema(_)), "{schema}: {error}");
        }
    }

    #[test]
    fn a_pattern_is_matched_in_linear_time() {
        let value = "a".repeat(100_000);
        let schema = json!({"pattern": "^(a+)+$"});
        assert_eq!(validate(&schema.to_string(), &json!(value)), Ok(()));
        let slow = refused(json!({"pattern": "^(a+)+$"}), json!(value + "!"));
        assert!(slow.contains("does not match"), "{slow}");
        let around = validate(r#"{"pattern": "^(?=a)"}"#, &json!("a"));
        assert!(matches!(around, Err(Invalid::Schema(_))), "{around:?}");
    }

    #[test]
    fn so_many_problems_are_told_and_no_more() {
        let config = json!(vec!["x"; 1000]);
        let Err(Invalid::Config(problems)) = validate(r#"{"items": {"type": "integer"}}"#, &config)
        else {
            panic!("all are wrong");
        };
        assert_eq!(problems.len(), MAX_PROBLEMS);
    }

    #[test]
    fn of_very_many_problems_only_the_first_is_looked_for() {
        let names: Vec<_> = (0..1000).map(|it| format!("n{it}")).collect();
        let schema = json!({"items": {"required": names}});
        let config = json!(vec![json!({}); 2000]);
        assert_eq!(
            refused(schema.clone(), config.clone()),
            "[0].n0: it is missing"
        );
        let forms = refused(json!({"anyOf": [schema]}), config);
        assert!(forms.contains("too large to say where"), "{forms}");
    }

    #[test]
    fn a_text_is_not_as_long_as_the_configuration() {
        let long = "x".repeat(100_000);
        let config = json!({(long.clone()): {"a": 1}, (format!("{long}2")): 2});
        let unknown = refused(json!({"additionalProperties": false}), config.clone());
        assert!(unknown.len() < 2 * MAX_TEXT, "{}", unknown.len());
        let below = json!({"additionalProperties": {"additionalProperties": false}});
        let below = refused(below, config);
        assert!(below.len() < 2 * MAX_TEXT, "{}", below.len());
    }
}
