//! `weft-lab demo`, the first command of the front page, as users start it.

use std::process::Command;

use weft_integration::lab::{self, Ran};
use weft_integration::programs;

/// Seconds after which it is told to end, which it does by taking the lab down.
const PATIENCE: &str = "150";

/// Takes the lab down whatever happens.
struct Named(String);

impl Named {
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

#[test]
fn the_demo_comes_out_as_it_should() {
    let demo = Named(format!("d{}", std::process::id()));
    let ran = demo.run(&["timeout", "--kill-after=20", PATIENCE], &["demo"]);
    let told = format!("{}{}", ran.output, ran.errors);
    assert_eq!(ran.code, 0, "{told}");
    let count = |what: &str| {
        ran.output
            .lines()
            .filter(|line| line.starts_with(what))
            .count()
    };
    let steps = count("$ ");
    assert!(steps >= 30, "{steps} steps only: {told}");
    assert_eq!((count("✓"), count("✗")), (steps, 0), "{told}");
    let end = format!("All {steps} steps came out as they should");
    assert!(ran.output.contains(&end), "{told}");
    let through = match weft_lab::kubectl::is_recent() {
        true => "Kubernetes commands run through kubectl.",
        false => "the same steps run through weft-lab.",
    };
    assert!(ran.output.contains(through), "{told}");
    assert_eq!(lab::traces(&demo.0).unwrap(), Vec::<String>::new());
}
