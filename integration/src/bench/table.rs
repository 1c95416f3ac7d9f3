//! Tables in plain text.

use std::fmt;

/// Rows below a heading; the first column is a name, all others are numbers.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row. Values that are missing print as a dash.
    pub fn row(&mut self, name: &str, values: impl IntoIterator<Item = Option<String>>) {
        let values = values
            .into_iter()
            .map(|value| value.unwrap_or_else(|| "-".to_owned()));
        self.rows
            .push(std::iter::once(name.to_owned()).chain(values).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(formatter, "{cell:<width$}")?;
                } else {
                    write!(formatter, "  {cell:>width$}")?;
                }
            }
            writeln!(formatter)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["", "us", "ratio"]);
        table.row("one", [Some("12.3".to_owned()), None]);
        assert_eq!(table.to_string(), "       us  ratio\none  12.3      -\n");
    }
}
