//! How deep schemas are in each other.

use super::Graph;

/// Schemas in each other, references followed: for each one the library takes up to 4 KiB of stack
/// when it compiles them, however little of them a configuration asks. JSON allows as many without
/// references.
const MAX_LEVELS: usize = 128;
/// So many references the library follows within each other; the next ones it comes back to when it
/// has done the others, with its stack empty again.
const NESTED_REFERENCES: usize = 8;
/// Schemas in each other, all references followed: each one takes up to 160 bytes of stack when the
/// library lets go of what it compiled.
const MAX_LINE: usize = 6000;

/// The longest way on from a schema.
#[derive(Clone, Copy, Default)]
struct Way<'a> {
    /// Schemas on it.
    levels: usize,
    /// The first reference on it.
    by: &'a str,
}

impl Graph<'_> {
    /// Refuses what is nested too deep. Of ways that come back to where they were the library goes
    /// fewer rounds than are counted here.
    pub(super) fn depth(&self) -> Result<(), String> {
        let mut ways = Vec::new();
        for references in 0..=NESTED_REFERENCES {
            let mut longer = vec![None; self.nodes.len()];
            for at in 0..self.nodes.len() {
                let Way { levels, by } = self.way(at, &ways, &mut longer);
                if levels > MAX_LEVELS {
                    return Err(format!(
                        "it is nested too deep: with what $ref {by:?} leads to, more than \
                         {MAX_LEVELS} schemas are in each other"
                    ));
                }
            }
            if references == 0 {
                self.line(&longer)?;
            }
            ways = longer;
        }
        Ok(())
    }

    /// Refuses what may form too long a line, given the longest ways without references: there a
    /// reference is followed to each place once, for what comes back ends.
    fn line(&self, ways: &[Option<Way<'_>>]) -> Result<(), String> {
        let levels = |(way, entered): (&Option<Way<'_>>, bool)| match way {
            Some(way) if entered => way.levels,
            _ => 0,
        };
        let line: usize = ways.iter().zip(self.entered()).map(levels).sum();
        match line {
            ..=MAX_LINE => Ok(()),
            _ => Err(format!(
                "it is nested too deep: its references may lead through more than {MAX_LINE} \
                 schemas that are in each other"
            )),
        }
    }

    /// The longest way on from there, given those that follow one reference less. Only schemas in
    /// this one are gone through, whose depth reading JSON has bounded.
    fn way<'a>(
        &'a self,
        at: usize,
        less: &[Option<Way<'a>>],
        known: &mut [Option<Way<'a>>],
    ) -> Way<'a> {
        if let Some(way) = known[at] {
            return way;
        }
        let node = &self.nodes[at];
        let mut longest = Way::default();
        for inner in node.inside() {
            let way = self.way(inner, less, known);
            if way.levels > longest.levels {
                longest = way;
            }
        }
        if let Some((by, target)) = node.target() {
            let levels = less
                .get(target)
                .copied()
                .flatten()
                .map_or(0, |it| it.levels);
            if levels > longest.levels {
                longest = Way { levels, by };
            }
        }
        longest.levels += 1;
        known[at] = Some(longest);
        longest
    }
}

#[cfg(test)]
mod tests;
