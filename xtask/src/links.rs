//! What documents point at: other files, and targets of the Makefile.

use std::path::{Component, Path, PathBuf};

/// What is there to be pointed at.
pub(crate) struct Known<'a> {
    /// The tracked files, from the root.
    pub files: &'a [String],
    /// The Makefile.
    pub makefile: &'a str,
}

impl Known<'_> {
    /// What `text`, a tracked file, points at and is not there.
    pub fn examine(&self, file: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let mut missing = |what: String| {
                findings.push(format!("{file}:{}: there is no {what}", number + 1));
            };
            for document in documents(line).filter(|path| !self.has(Path::new(path))) {
                missing(document.to_owned());
            }
            if !file.ends_with(".md") {
                continue;
            }
            for link in links(line) {
                let target = beside(file, link);
                if !self.has(&target) {
                    missing(target.display().to_string());
                }
            }
            for target in targets(line).filter(|target| !self.makes(target)) {
                missing(format!("target {target} in the Makefile"));
            }
        }
        findings
    }

    /// Whether it is a tracked file, or a folder of one.
    fn has(&self, path: &Path) -> bool {
        self.files
            .iter()
            .any(|file| Path::new(file).starts_with(path))
    }

    fn makes(&self, target: &str) -> bool {
        let rule = format!("{target}:");
        self.makefile.lines().any(|line| line.starts_with(&rule))
    }
}

/// Targets of relative links, without their fragments.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ', '#']).next()?;
        let elsewhere = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !elsewhere).then_some(target)
    })
}

/// Pages below `docs/` that are named from the root, in prose or in a comment.
fn documents(line: &str) -> impl Iterator<Item = &str> {
    const FOLDER: &str = "docs/";
    line.match_indices(FOLDER).filter_map(move |(at, _)| {
        // The end of another path, as in a URL.
        if line[..at].ends_with(|before: char| before.is_alphanumeric() || "/-_.".contains(before))
        {
            return None;
        }
        let of_path = |c: char| c.is_alphanumeric() || "/-_.".contains(c);
        let rest = &line[at..];
        let end = rest.find(|c| !of_path(c)).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches('.');
        path.ends_with(".md").then_some(path)
    })
}

/// Targets in `make target`, in code between backticks or after a prompt.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    ["`make ", "$ make "].into_iter().flat_map(move |start| {
        line.split(start).skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
            let target = &rest[..end.unwrap_or(rest.len())];
            (!target.is_empty()).then_some(target)
        })
    })
}

/// The path from the root of what `link` means in `file`.
fn beside(file: &str, link: &str) -> PathBuf {
    let mut path = Path::new(file)
        .parent()
        .unwrap_or(Path::new(""))
        .to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let files = ["README.md", "docs/ARCHITECTURE.md", "docs/images/way.svg"].map(str::to_owned);
        let makefile = ".PHONY: demo\ndemo: setup ## play\n";
        let known = Known {
            files: &files,
            makefile,
        };
        known.examine(file, text)
    }

    #[test]
    fn what_is_there_is_fine() {
        for text in [
            "[map](docs/ARCHITECTURE.md#folders), ![way](docs/images/way.svg), [pictures](docs/images)",
            "[site](https://example.org/doc/none.md) [top](#here)",
            "see docs/ARCHITECTURE.md. `make demo`, and make sure of it",
            "$ make demo      # plays",
        ] {
            assert_eq!(findings("README.md", text), Vec::<String>::new(), "{text}");
        }
        let text = "[front](../README.md) ![way](images/way.svg)";
        assert_eq!(findings("docs/ARCHITECTURE.md", text), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_is_named_with_its_line() {
        let gone = concat!("do", "cs/GONE.md");
        let text = "x\n[map](MAP.md)\n`make tea`\n";
        assert_eq!(
            findings("README.md", text),
            [
                "README.md:2: there is no MAP.md",
                "README.md:3: there is no target tea in the Makefile"
            ]
        );
        assert_eq!(
            findings("a.rs", &format!("//! See {gone} for the numbers.")),
            [format!("a.rs:1: there is no {gone}")]
        );
    }
}
