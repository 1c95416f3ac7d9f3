//! The stock client at the relay prints what `weft observe` prints.

use std::process::Command;

use weft_integration::lab::Lab;
use weft_integration::watch::until;

use super::{LAND, denied};

/// Oldest minor version of 1.x that is compared.
const OLDEST_MINOR: u32 = 16;

/// Minor version of the hubble in the path; none where there is no hubble.
fn minor() -> Option<u32> {
    let output = Command::new("hubble").arg("version").output().ok()?;
    minor_of(&String::from_utf8_lossy(&output.stdout))
}

/// Minor version of 1.x in what `hubble version` says.
fn minor_of(text: &str) -> Option<u32> {
    let version = text.strip_prefix("hubble ")?.trim_start_matches('v');
    let minor = version.strip_prefix("1.")?;
    let end = minor.find(|c: char| !c.is_ascii_digit())?;
    minor[..end].parse().ok()
}

/// Lines of an output that can be compared: of JSON the values, since the stock
/// client's white space is random.
fn lines(output: &str, format: &str) -> Vec<String> {
    let line = |line: &str| match format {
        "jsonpb" => serde_json::from_str::<serde_json::Value>(line)
            .unwrap()
            .to_string(),
        _ => line.to_owned(),
    };
    output.lines().map(line).collect()
}

#[test]
fn the_version_is_read() {
    let said = "hubble v1.19.3@HEAD-abc compiled with go1.26 on linux/amd64\n";
    assert_eq!(minor_of(said), Some(19));
    assert_eq!(minor_of("hubble 1.16.0\n"), Some(16));
    assert_eq!(minor_of("something else"), None);
}

#[test]
fn the_stock_client_prints_the_same_lines() {
    let found = minor();
    if found.is_none_or(|minor| minor < OLDEST_MINOR) {
        eprintln!(
            "SKIPPED: no hubble of 1.{OLDEST_MINOR} or later (minor version found: {found:?})"
        );
        return;
    }
    let lab = Lab::up(&["--nodes", "2"]).unwrap();
    for line in [
        "kubectl apply -f sw-pods.yaml -f l7-policy.yaml",
        "kubectl rollout status deployment/deathstar --timeout=20s",
    ] {
        lab.sh(line).well().unwrap();
    }
    lab.ready(["tiefighter", "xwing"]).unwrap();
    // A request that is forwarded, one that is denied, a connection that is.
    until(|| denied(&lab)).unwrap();
    let put = "kubectl exec tiefighter -- curl -s --max-time 1 -X PUT deathstar.default.svc.cluster.local/v1/exhaust-port";
    let post = format!("kubectl exec tiefighter {LAND}");
    for (line, answer) in [(put, "Access denied"), (post.as_str(), "Ship landed")] {
        until(|| match lab.sh(line) {
            ran if ran.output.trim_end() == answer => Ok(()),
            ran => Err(format!("{ran:?}")),
        })
        .unwrap();
    }
    for format in ["compact", "dict", "table", "jsonpb"] {
        for filter in [
            "--from-pod default/tiefighter",
            "--to-pod default/deathstar --print-node-name",
            "--protocol http",
            "--type policy-verdict",
            "--verdict DROPPED",
        ] {
            let words = format!("observe --last 40 -o {format} {filter}");
            // What travels still is seen by both the next time.
            until(|| {
                let ours = lab.sh(&format!("weft {words}"));
                let stock = lab.sh(&format!("hubble {words} --server {}", lab.relay()));
                let compare = |output: &str| lines(output, format);
                let (told, stock_told) = (compare(&ours.output), compare(&stock.output));
                match (ours.code, stock.code) == (0, 0) && !told.is_empty() && told == stock_told {
                    true => Ok(()),
                    false => Err(format!("{words}: {ours:#?} and not {stock:#?}")),
                }
            })
            .unwrap();
        }
    }
}
