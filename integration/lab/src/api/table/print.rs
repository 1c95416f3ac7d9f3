//! Lays a `Table` out as kubectl does, for `weft-lab get`.

use serde_json::Value;

use crate::api::object;

/// The text of a `Table`: columns three spaces apart, headings in capitals.
pub fn print(table: &Value, wide: bool) -> String {
    let columns = object::list(table, "/columnDefinitions");
    let shown: Vec<usize> = (0..columns.len())
        .filter(|i| wide || object::number(&columns[*i], "/priority") == 0)
        .collect();
    let heading = |i: &usize| object::text(&columns[*i], "/name").to_uppercase();
    let mut lines = vec![shown.iter().map(heading).collect::<Vec<_>>()];
    for row in object::list(table, "/rows") {
        let cell = |i: &usize| match &row["cells"][*i] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        lines.push(shown.iter().map(cell).collect());
    }
    let widths: Vec<usize> = (0..shown.len())
        .map(|i| {
            lines
                .iter()
                .map(|l| l[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}   "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}
