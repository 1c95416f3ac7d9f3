//! Parts of the mesh are restarted on purpose, and what they said is kept.

use weft_integration::lab::Lab;
use weft_integration::watch::until;

const NODE: &str = "kind-worker";

/// Lines of a part's log, once one contains this.
fn said(lab: &Lab, words: &[&str], what: &str) -> Vec<String> {
    let words = [&["logs", NODE], words].concat();
    until(|| {
        let log = lab.lab(&words).well().map_err(|error| error.to_string())?;
        match log.contains(what) {
            true => Ok(log.lines().map(str::to_owned).collect()),
            false => Err(format!("{words:?}, no {what:?}: {log}")),
        }
    })
    .unwrap()
}

#[test]
fn parts_come_back_and_their_words_are_kept() {
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    let parts = [
        ("agent", "weft-agent", "this node"),
        ("proxy", "weft-proxy", "snapshot in force"),
    ];
    for (part, program, words) in parts {
        for how in [
            &["restart", NODE, part][..],
            &["restart", NODE, part, "--kill"],
        ] {
            let before = lab.process(program, NODE).unwrap();
            lab.lab(how).well().unwrap();
            assert_ne!(lab.process(program, NODE).unwrap(), before, "{how:?}");
            until(|| match lab.lab(&["status"]) {
                healthy if healthy.code == 0 => Ok(()),
                other => Err(format!("{how:?}: {other:?}")),
            })
            .unwrap();
            said(&lab, &[part], words);
        }
    }
    // Asked to end it says so; killed it cannot.
    lab.lab(&["restart", NODE, "proxy"]).well().unwrap();
    said(&lab, &["proxy", "--previous"], "stopping");
    lab.lab(&["restart", NODE, "proxy", "--kill"])
        .well()
        .unwrap();
    let killed = said(&lab, &["proxy", "--previous"], "snapshot in force");
    assert!(!killed.concat().contains("stopping"), "{killed:?}");
}

#[test]
fn logs_are_whole_or_their_last_lines() {
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    for (part, words) in [
        ("agent", "this node"),
        ("proxy", "snapshot in force"),
        ("relay", "relaying flows"),
    ] {
        said(&lab, &[part], words);
        let last = said(&lab, &[part, "--tail", "1"], "");
        assert_eq!(last.len(), 1, "{part}: {last:?}");
        assert!(said(&lab, &[part], words).contains(&last[0]), "{last:?}");
        assert_eq!(said(&lab, &[part, "--tail", "0"], ""), Vec::<String>::new());
    }
    let nowhere = lab.lab(&["logs", "nowhere", "agent"]);
    assert_eq!(nowhere.code, 1);
    let says = "no node nowhere, only kind-worker";
    assert!(nowhere.errors.contains(says), "{nowhere:?}");
}
