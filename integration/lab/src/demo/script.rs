//! The story as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

/// Files of the story, in the order in which they are told.
const CHAPTERS: [(&str, &str); 8] = [
    ("1-no-policy", include_str!("chapters/1-no-policy.yaml")),
    ("2-l4-policy", include_str!("chapters/2-l4-policy.yaml")),
    (
        "3-exhaust-port",
        include_str!("chapters/3-exhaust-port.yaml"),
    ),
    ("4-l7-policy", include_str!("chapters/4-l7-policy.yaml")),
    ("5-observe", include_str!("chapters/5-observe.yaml")),
    ("6-egress", include_str!("chapters/6-egress.yaml")),
    ("7-agent-away", include_str!("chapters/7-agent-away.yaml")),
    ("8-filters", include_str!("chapters/8-filters.yaml")),
];

/// Manifests that the commands name, by path.
pub(super) const FILES: [(&str, &str); 11] = [
    (
        "sw-pods.yaml",
        include_str!("../../../../examples/starwars/sw-pods.yaml"),
    ),
    (
        "l4-policy.yaml",
        include_str!("../../../../examples/starwars/l4-policy.yaml"),
    ),
    (
        "l7-policy.yaml",
        include_str!("../../../../examples/starwars/l7-policy.yaml"),
    ),
    (
        "policies/dns.yaml",
        include_str!("../../../../examples/starwars/policies/dns.yaml"),
    ),
    (
        "policies/tiefighter.yaml",
        include_str!("../../../../examples/starwars/policies/tiefighter.yaml"),
    ),
    (
        "filters/jwt.yaml",
        include_str!("../../../../examples/filters/starwars/jwt.yaml"),
    ),
    (
        "filters/jwt-v2.yaml",
        include_str!("../../../../examples/filters/starwars/jwt-v2.yaml"),
    ),
    (
        "filters/rate-limit.yaml",
        include_str!("../../../../examples/filters/starwars/rate-limit.yaml"),
    ),
    (
        "filters/loops.yaml",
        include_str!("../../../../examples/filters/starwars/loops.yaml"),
    ),
    (
        "filters/shuttle.yaml",
        include_str!("../../../../examples/filters/starwars/shuttle.yaml"),
    ),
    (
        "filters/token.jwt",
        include_str!("../../../../examples/filters/starwars/token.jwt"),
    ),
];

/// A chapter of the story.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chapter {
    /// Its heading.
    pub title: String,
    /// What happens in it, in order.
    pub steps: Vec<Step>,
}

/// One thing that is said and, mostly, done.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// Why, in words.
    #[serde(default)]
    pub say: String,
    /// A shell command line. Where there is no kubectl it runs with `weft-lab`
    /// in its place.
    pub run: String,
    /// What it must come to.
    #[serde(default)]
    pub expect: Expect,
    /// Seconds within which it must: flows and policies travel. The command is
    /// run again until then. 0: the first time counts.
    #[serde(default)]
    pub within: u64,
}

/// What a command must come to. Texts are patterns: `*` stands for anything.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// Its exit code.
    #[serde(default)]
    pub exit: i32,
    /// Its whole output.
    #[serde(default)]
    pub output: Option<String>,
    /// Each of these is a line of its output.
    #[serde(default)]
    pub lines: Vec<String>,
    /// None of these is a line of its output.
    #[serde(default)]
    pub never: Vec<String>,
    /// So many lines are like that.
    #[serde(default)]
    pub count: BTreeMap<String, usize>,
    /// The JSON values of its output, in any order: each has at least these
    /// fields, and there are no others.
    #[serde(default)]
    pub json: Option<Vec<Value>>,
}

/// Reads the whole story.
pub(super) fn chapters() -> anyhow::Result<Vec<Chapter>> {
    CHAPTERS
        .iter()
        .map(|(name, text)| serde_saphyr::from_str(text).with_context(|| format!("chapter {name}")))
        .collect()
}

/// Reads chapters of the user's own.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Chapter>> {
    let read = |path: &PathBuf| -> anyhow::Result<Chapter> {
        let text = std::fs::read_to_string(path)?;
        Ok(serde_saphyr::from_str(&text)?)
    };
    files
        .iter()
        .map(|path| read(path).with_context(|| path.display().to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chapter_reads() {
        for chapter in chapters().unwrap() {
            assert!(!chapter.title.is_empty());
            for step in chapter.steps {
                let checked = step.expect.output.is_some()
                    || step.expect.exit != 0
                    || !step.expect.lines.is_empty()
                    || step.expect.json.is_some()
                    || !step.expect.count.is_empty();
                assert!(checked, "{} checks nothing", step.run);
            }
        }
    }

    #[test]
    fn a_chapter_of_ones_own_reads_or_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = file("good.yaml", "title: Own\nsteps: [{run: 'true'}]\n");
        let read_one = read(std::slice::from_ref(&good)).unwrap();
        assert_eq!(
            (read_one[0].title.as_str(), read_one[0].steps.len()),
            ("Own", 1)
        );
        let typo = file(
            "typo.yaml",
            "title: Own\nsteps: [{run: 'true', expects: {}}]\n",
        );
        for bad in [typo, directory.path().join("missing.yaml")] {
            let told = format!("{:#}", read(&[good.clone(), bad.clone()]).unwrap_err());
            assert!(told.contains(&bad.display().to_string()), "{told}");
        }
    }

    #[test]
    fn every_manifest_of_the_story_is_laid_out() {
        fn names(directory: &std::path::Path, prefix: &str, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match entry.path().is_dir() {
                    true => names(&entry.path(), &format!("{name}/"), found),
                    false => found.push(name),
                }
            }
        }
        let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let mut found = Vec::new();
        names(&examples.join("starwars"), "", &mut found);
        names(&examples.join("filters/starwars"), "filters/", &mut found);
        found.sort_unstable();
        let mut known = FILES.map(|(path, _)| path.to_owned());
        known.sort_unstable();
        assert_eq!(found, known);
    }

    #[test]
    fn every_file_that_a_command_names_is_there() {
        for chapter in chapters().unwrap() {
            for step in &chapter.steps {
                let words = step.run.split_whitespace();
                for file in words.filter(|word| word.ends_with(".yaml")) {
                    assert!(FILES.iter().any(|(path, _)| *path == file), "{file}");
                }
            }
        }
    }
}
