//! `weft-lab demo`, the first command of the front page, as users start it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_integration::lab::{self, Ran};
use weft_integration::programs;

/// Seconds after which it is told to end, which it does by taking the lab down.
const PATIENCE: &str = "150";

const WITHOUT_KUBECTL: &str = "the same steps run through weft-lab.";

/// A story whose second step differs.
const DIFFERING: &str = "\
title: A story of one's own
steps:
  - say: Two nodes are there.
    run: kubectl get nodes -o name
    expect: {count: {'node/kind-worker*': 2}}
  - say: This goes wrong.
    run: echo nothing; exit 3
    expect: {lines: [something]}
  - run: echo never run
    expect: {lines: [never run]}
";

/// Takes the lab down whatever happens.
struct Named(String);

impl Named {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("d{}-{number}", std::process::id()))
    }

    /// Plays, and leaves nothing.
    fn demo(&self, arguments: &[&str]) -> Ran {
        let words = [&["demo"], arguments].concat();
        let ran = self.run(&["timeout", "--kill-after=20", PATIENCE], &words);
        assert_eq!(lab::traces(&self.0).unwrap(), Vec::<String>::new());
        ran
    }

    fn run(&self, before: &[&str], arguments: &[&str]) -> Ran {
        let program = programs::find("weft-lab").unwrap();
        let mut words = before.iter();
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => return self.run(&["env"], arguments),
        };
        command
            .args(words)
            .arg(program)
            .args(["--name", &self.0])
            .args(arguments);
        command.output().unwrap().into()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let down = self.run(&[], &["down"]);
        if down.code != 0 {
            eprintln!("lab {} is not taken down: {}", self.0, down.errors);
        }
    }
}

/// How many lines begin like that.
fn count(ran: &Ran, what: &str) -> usize {
    let lines = ran.output.lines();
    lines.filter(|line| line.starts_with(what)).count()
}

/// The story of the project, from its first step to its last.
fn comes_out(arguments: &[&str], through: &str) {
    let ran = Named::new().demo(arguments);
    let told = format!("{}{}", ran.output, ran.errors);
    assert_eq!(ran.code, 0, "{told}");
    let steps = count(&ran, "$ ");
    assert!(steps >= 30, "{steps} steps only: {told}");
    assert_eq!((count(&ran, "✓"), count(&ran, "✗")), (steps, 0), "{told}");
    let end = format!("All {steps} steps came out as they should");
    assert!(ran.output.contains(&end), "{told}");
    assert!(ran.output.contains(through), "{told}");
    assert!(ran.output.contains("\nThe lab is gone. "), "{told}");
}

#[test]
fn the_demo_comes_out_as_it_should() {
    let through = match weft_lab::kubectl::is_recent() {
        true => "Kubernetes commands run through kubectl.",
        false => WITHOUT_KUBECTL,
    };
    comes_out(&[], through);
}

#[test]
fn the_demo_needs_no_kubectl() {
    comes_out(&["--without-kubectl"], WITHOUT_KUBECTL);
}

#[test]
fn a_step_that_differs_ends_the_demo_and_fails_it() {
    let directory = tempfile::tempdir().unwrap();
    let story = directory.path().join("story.yaml");
    std::fs::write(&story, DIFFERING).unwrap();
    let ran = Named::new().demo(&[story.to_str().unwrap()]);
    let told = format!("{}{}", ran.output, ran.errors);
    assert_eq!(ran.code, 1, "{told}");
    assert_eq!((count(&ran, "$ "), count(&ran, "✓")), (2, 1), "{told}");
    for line in [
        "nothing",
        "✗ exit code 3 instead of 0",
        "✗ no line like: something",
        "The story ends here: this step differed.",
    ] {
        assert!(ran.output.lines().any(|l| l == line), "{line:?}: {told}");
    }
    assert!(!told.contains("never run"), "{told}");
    assert!(!told.contains("as they should"), "{told}");
}

#[test]
fn a_story_that_cannot_be_read_is_named_before_anything_is_made() {
    let ran = Named::new().demo(&["no-such-story.yaml"]);
    assert_eq!((ran.code, ran.output.as_str()), (1, ""));
    assert!(ran.errors.contains("no-such-story.yaml"), "{}", ran.errors);
}
