//! Every tracked file: short enough to read, free of what belongs to one machine only, and pointing
//! at nothing that is not there.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::conclude;
use crate::links::Known;

/// Past this a source file has more than one subject.
const MAX_LINES: usize = 500;

/// Home folders and work trees of somebody's machine: they mean nothing to a reader, and a test
/// or script that uses one works nowhere else.
const FOREIGN_PATHS: [&str; 4] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
];

/// Checks the files that git tracks under `root`.
///
/// # Errors
/// Lists every offending file and line.
pub(crate) fn check(root: &Path) -> Result<String> {
    let files = tracked(root)?;
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap_or_default();
    let known = Known {
        files: &files,
        makefile: &makefile,
    };
    let mut findings = Vec::new();
    for file in &files {
        // Removed but not yet committed, a link to nowhere, or not text: nothing to read.
        if let Ok(text) = fs::read_to_string(root.join(file)) {
            findings.extend(examine(file, &text));
            findings.extend(known.examine(file, &text));
        }
    }
    conclude(&findings, format!("{} files are in order", files.len()))
}

fn tracked(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    if !output.status.success() {
        bail!(
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_terminator('\0')
        .map(str::to_owned)
        .collect())
}

fn examine(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if file.ends_with(".rs") && lines > MAX_LINES {
        findings.push(format!(
            "{file}: {lines} lines, more than {MAX_LINES}: split it by subject"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for path in FOREIGN_PATHS {
            if starts_a_path(line, path) {
                findings.push(format!("{file}:{}: names {path}", number + 1));
            }
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            findings.push(format!(
                "{file}:{}: a merge conflict left behind",
                number + 1
            ));
        }
    }
    findings
}

/// Whether `path` stands in `line` as the start of an absolute path, not in the middle of a URL
/// or of a relative one.
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !(before.is_alphanumeric() || "._-/})".contains(before)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_source_file_is_named_with_its_length() {
        let text = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(
            examine("a/b.rs", &text),
            ["a/b.rs: 501 lines, more than 500: split it by subject"]
        );
        assert_eq!(
            examine("a/b.rs", &"x\n".repeat(MAX_LINES)),
            Vec::<String>::new()
        );
        assert_eq!(examine("a/b.json", &text), Vec::<String>::new());
    }

    #[test]
    fn a_path_of_somebodys_machine_is_named_with_its_line() {
        let path = FOREIGN_PATHS[0];
        let text = format!("first\nlet tree = \"{path}someone/weft\";\n");
        assert_eq!(examine("a.rs", &text), [format!("a.rs:2: names {path}")]);
    }

    #[test]
    fn the_same_letters_inside_a_url_or_relative_path_are_fine() {
        let path = FOREIGN_PATHS[0];
        for text in [
            format!("see example.org{path}page"),
            format!("under deploy{path}x"),
            format!("${{DIR}}{path}x"),
        ] {
            assert_eq!(examine("a.md", &text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_left_over_conflict_is_found() {
        let marker = "<".repeat(7);
        assert_eq!(
            examine("a.md", &format!("{marker} ours\n")),
            ["a.md:1: a merge conflict left behind"]
        );
    }

    #[test]
    fn only_tracked_files_are_looked_at() {
        let dir = tempfile::tempdir().expect("a folder");
        let git = |args: &[&str]| {
            let status = Command::new("git")
                .args(args)
                .current_dir(dir.path())
                .status();
            assert!(status.expect("git").success(), "git {args:?}");
        };
        let offending = format!("{}someone\n", FOREIGN_PATHS[0]);
        git(&["init", "--quiet"]);
        fs::write(dir.path().join("untracked.md"), &offending).expect("write");
        fs::write(dir.path().join("tracked.md"), "fine\n").expect("write");
        git(&["add", "tracked.md"]);
        assert_eq!(check(dir.path()).expect("in order"), "1 files are in order");

        git(&["add", "untracked.md"]);
        let err = check(dir.path()).expect_err("an offence").to_string();
        assert!(err.contains("untracked.md:1"), "{err}");
    }
}
