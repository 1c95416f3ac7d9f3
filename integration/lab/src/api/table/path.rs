//! The part of JSONPath that printer columns use: `.a.b`, `['a.b']`, `[0]`, `[*]`,
//! `[?(@.type=="Valid")]`.

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// Items whose field at the path has the value.
    Where(Vec<Step>, String),
}

/// The values that a path leads to; none when the path is malformed.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    match parse(path) {
        Some(steps) => walk(object, &steps),
        None => Vec::new(),
    }
}

fn walk<'a>(object: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps {
        found = found
            .into_iter()
            .flat_map(|value| next(value, step))
            .collect();
    }
    found
}

fn next<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(i), Value::Array(items)) => items.get(*i).into_iter().collect(),
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Where(path, wanted), Value::Array(items)) => items
            .iter()
            .filter(|item| walk(item, path).iter().any(|found| text(found) == *wanted))
            .collect(),
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (body, after) = bracket(inner)?;
            steps.push(subscript(body)?);
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let (name, after) = name.split_at(end);
            if name.is_empty() && !after.is_empty() && !after.starts_with('[') {
                return None;
            }
            match name {
                "" => {}
                "*" => steps.push(Step::All),
                // A dot in a name is written `\.`: not needed by any column so far.
                name => steps.push(Step::Field(name.to_owned())),
            }
            rest = after;
        }
    }
    Some(steps)
}

/// Splits after the `]` that is outside of quotes and inner brackets.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut quote, mut depth) = (None, 0_u32);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some((&text[..i], &text[i + 1..])),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn subscript(body: &str) -> Option<Step> {
    let body = body.trim();
    if body == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(body) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Ok(index) = body.parse() {
        return Some(Step::Index(index));
    }
    let filter = body.strip_prefix("?(")?.strip_suffix(')')?;
    let (path, wanted) = filter.split_once("==")?;
    let path = parse(path.trim().strip_prefix('@')?)?;
    let wanted = wanted.trim();
    Some(Step::Where(
        path,
        unquote(wanted).unwrap_or(wanted).to_owned(),
    ))
}

fn unquote(text: &str) -> Option<&str> {
    ['"', '\'']
        .iter()
        .find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))
}
