//! Dependencies point one way: who may use whom, and what must never be linked into what.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;

use crate::{
    conclude,
    metadata::{self, Metadata, Package},
};

/// A crate of ours and the crates of ours that it may name in its manifest, in any section.
struct Allowed {
    crate_name: &'static str,
    uses: &'static [&'static str],
}

const fn allow(crate_name: &'static str, uses: &'static [&'static str]) -> Allowed {
    Allowed { crate_name, uses }
}

/// The direction of the design. A crate that is not listed is refused, so that adding one is a
/// decision about its place.
const ALLOWED: &[Allowed] = &[
    allow("weft-core", &[]),
    allow("weft-api", &["weft-core"]),
    allow("weft-abi", &[]),
    allow("weft-sdk-macros", &[]),
    allow("weft-sdk", &["weft-abi", "weft-sdk-macros"]),
    // Starts cargo and turns what it built into components.
    allow("weft-filter-build", &["weft-abi"]),
    allow("weft-wasm-host", &["weft-abi", "weft-core"]),
    // What proxy, agent and command line all say of configurations.
    allow("weft-filter-schema", &["weft-abi"]),
    allow("weft-datapath-common", &[]),
    allow("weft-ebpf", &["weft-datapath-common"]),
    allow("weft-datapath", &["weft-datapath-common", "weft-core"]),
    // Its tests build the filters that they run.
    allow(
        "weft-proxy",
        &[
            "weft-wasm-host",
            "weft-filter-schema",
            "weft-api",
            "weft-core",
            "weft-filter-build",
        ],
    ),
    // Holds configurations to the schemas that modules carry; runs none of them.
    allow(
        "weft-agent",
        &[
            "weft-datapath",
            "weft-api",
            "weft-core",
            "weft-abi",
            "weft-filter-schema",
        ],
    ),
    allow("weft", &["weft-api", "weft-core"]),
    // Runs filters offline: a program of its own, so that `weft` links no wasmtime.
    allow(
        "weft-filter",
        &[
            "weft-abi",
            "weft-wasm-host",
            "weft-filter-schema",
            "weft-filter-build",
            "weft-core",
        ],
    ),
    // Starts the real binaries and links none of their code.
    allow("weft-lab", &[]),
    // The same, but for the wire formats and the lab.
    allow(
        "weft-integration",
        &["weft-api", "weft-lab", "weft-filter-build"],
    ),
    allow("xtask", &[]),
];

/// What every guest crate in `filters-wasm/` and `integration/guests/` may use, by the beginnings
/// of their names.
const FILTER: Allowed = allow("filter-*", &["weft-sdk"]);
const GUEST: &[&str] = &["filter-", "guest-"];

/// Only tests start cargo.
const TESTS_ONLY: &[(&str, &str)] = &[
    ("weft-proxy", "weft-filter-build"),
    ("weft-integration", "weft-filter-build"),
];

/// Crates that must not be linked into another, however many steps away.
struct Banned {
    from: &'static str,
    linked: &'static [&'static str],
    why: &'static str,
}

impl Banned {
    /// What is wrong when all of these are linked.
    fn found_in(&self, linked: &BTreeSet<&str>) -> Vec<String> {
        self.linked
            .iter()
            .filter(|name| linked.contains(*name))
            .map(|name| format!("{} must not link {name}: {}", self.from, self.why))
            .collect()
    }
}

const BANNED: &[Banned] = &[
    Banned {
        from: "weft-core",
        linked: &[
            "tokio",
            "hyper",
            "mio",
            "socket2",
            "rustix",
            "libc",
            "rand",
            "getrandom",
        ],
        why: "pure logic: no sockets, no runtime, no clock, no randomness",
    },
    Banned {
        from: "weft-agent",
        linked: &["weft-proxy", "weft-wasm-host", "wasmtime"],
        why: "the agent is privileged and runs no code of filters",
    },
    Banned {
        from: "weft-wasm-host",
        linked: &["tokio", "hyper", "mio", "socket2"],
        why: "the host of filters is called and answers: it does no I/O, and waits for nothing",
    },
    Banned {
        from: "weft",
        linked: &["aya", "wasmtime"],
        why: "the command line only talks to the other processes",
    },
    Banned {
        from: "weft-lab",
        linked: &["aya", "wasmtime"],
        why: "the lab starts the real binaries",
    },
];

/// The same for what comes with a feature: built by itself a crate has the
/// features that it asks for, and not what the rest of the workspace does.
const BANNED_ALONE: &[Banned] = &[
    Banned {
        from: "weft-proxy",
        linked: KUBERNETES,
        why: "the data plane knows its agent and nobody else",
    },
    Banned {
        from: "weft",
        linked: KUBERNETES,
        why: "the command line only talks to the other processes",
    },
];

const KUBERNETES: &[&str] = &["kube", "kube-client", "k8s-openapi"];

/// Feature of a crate that only tests may switch on.
const TESTING: &str = "testing";

/// Only this crate names wasmtime in its manifest.
const WASMTIME_USER: &str = "weft-wasm-host";

/// Checks the workspace at `root` and the eBPF programs' own workspace.
///
/// # Errors
/// Lists every dependency that points the wrong way.
pub(crate) fn check(root: &Path) -> Result<String> {
    let mut findings = Vec::new();
    let mut crates = 0;
    for manifest in ["Cargo.toml", "datapath/ebpf/Cargo.toml"] {
        let manifest = root.join(manifest);
        if manifest.exists() {
            let metadata = Metadata::of(&manifest)?;
            crates += metadata.workspace_members.len();
            findings.extend(examine(&metadata));
        }
    }
    for ban in BANNED_ALONE {
        let tree = metadata::tree(root, ban.from)?;
        findings.extend(ban.found_in(&metadata::names(&tree)));
    }
    conclude(
        &findings,
        format!("{crates} crates depend on each other as designed"),
    )
}

fn examine(metadata: &Metadata) -> Vec<String> {
    metadata
        .members()
        .flat_map(|member| {
            let mut findings = direction(member);
            findings.extend(links(metadata, member));
            findings
        })
        .collect()
}

fn direction(member: &Package) -> Vec<String> {
    let Some(allowed) = rule_for(&member.name) else {
        return vec![format!(
            "{}: not in the list of crates and what they may use (xtask/src/deps.rs)",
            member.name
        )];
    };
    let mut findings: Vec<String> = member
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some())
        // A crate may name itself, to switch on its own features in its tests.
        .filter(|dependency| dependency.name != member.name)
        .filter(|dependency| !allowed.uses.contains(&dependency.name.as_str()))
        .map(|dependency| format!("{} must not depend on {}", member.name, dependency.name))
        .collect();
    findings.extend(
        member
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .filter(|d| TESTS_ONLY.contains(&(member.name.as_str(), d.name.as_str())))
            .map(|dependency| {
                format!(
                    "{} must not depend on {} outside of its tests",
                    member.name, dependency.name
                )
            }),
    );
    let tests_only = |d: &&crate::metadata::Dependency| d.features.iter().any(|f| f == TESTING);
    findings.extend(
        member
            .dependencies
            .iter()
            .filter(tests_only)
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .map(|dependency| {
                format!(
                    "{} must not switch on {TESTING} of {} outside of its tests",
                    member.name, dependency.name
                )
            }),
    );
    let names_wasmtime = member.dependencies.iter().any(|d| d.name == "wasmtime");
    if names_wasmtime && member.name != WASMTIME_USER {
        findings.push(format!(
            "{} must not depend on wasmtime: only {WASMTIME_USER} does",
            member.name
        ));
    }
    findings
}

fn rule_for(name: &str) -> Option<&'static Allowed> {
    if GUEST.iter().any(|beginning| name.starts_with(beginning)) {
        return Some(&FILTER);
    }
    ALLOWED.iter().find(|allowed| allowed.crate_name == name)
}

fn links(metadata: &Metadata, member: &Package) -> Vec<String> {
    let linked = metadata.linked_into(member);
    BANNED
        .iter()
        .filter(|ban| ban.from == member.name)
        .flat_map(|ban| ban.found_in(&linked))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Name, whether it is ours, dependencies with their kind.
    type Entry<'a> = (&'a str, bool, &'a [(&'a str, Option<&'a str>)]);

    /// The metadata of a workspace of these packages.
    fn workspace(packages: &[Entry]) -> Metadata {
        let ours = |name: &str| packages.iter().any(|p| p.0 == name && p.1);
        let package = |(name, _, deps): &Entry| {
            let deps: Vec<Value> = deps
                .iter()
                .map(|(dep, kind)| {
                    json!({"name": dep, "kind": kind, "path": ours(dep).then_some("/x")})
                })
                .collect();
            json!({"id": format!("id:{name}"), "name": name, "dependencies": deps})
        };
        let node = |(name, _, deps): &Entry| {
            let deps: Vec<Value> = deps
                .iter()
                .map(|(dep, kind)| {
                    json!({"pkg": format!("id:{dep}"), "dep_kinds": [{"kind": kind}]})
                })
                .collect();
            json!({"id": format!("id:{name}"), "deps": deps})
        };
        let members: Vec<String> = packages
            .iter()
            .filter(|p| p.1)
            .map(|p| format!("id:{}", p.0))
            .collect();
        serde_json::from_value(json!({
            "packages": packages.iter().map(package).collect::<Vec<_>>(),
            "workspace_members": members,
            "resolve": {"nodes": packages.iter().map(node).collect::<Vec<_>>()},
        }))
        .expect("a workspace")
    }

    #[test]
    fn the_designed_direction_passes() {
        let found = examine(&workspace(&[
            ("weft-core", true, &[("serde", None)]),
            ("weft-api", true, &[("weft-core", None)]),
            (
                "weft-agent",
                true,
                &[("weft-api", None), ("weft-core", None)],
            ),
            ("filter-wasm-waf", true, &[("weft-sdk", None)]),
            ("guest-probe", true, &[("weft-sdk", None)]),
            ("weft-proxy", true, &[("weft-filter-build", Some("dev"))]),
            ("weft-filter-build", true, &[]),
            ("weft-sdk", true, &[]),
            ("serde", false, &[]),
        ]));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_reversed_dependency_is_named() {
        let found = examine(&workspace(&[
            ("weft-core", true, &[("weft-api", None)]),
            ("weft-api", true, &[]),
        ]));
        assert_eq!(found, ["weft-core must not depend on weft-api"]);
    }

    #[test]
    fn nobody_reaches_past_a_neighbour() {
        let common = &[("weft-datapath-common", None)][..];
        let found = examine(&workspace(&[
            ("weft-proxy", true, common),
            ("weft-agent", true, common),
            ("weft-integration", true, &[("weft-core", None)]),
            ("weft-datapath", true, common),
            ("weft-datapath-common", true, &[]),
            ("weft-core", true, &[]),
        ]));
        assert_eq!(
            found,
            [
                "weft-proxy must not depend on weft-datapath-common",
                "weft-agent must not depend on weft-datapath-common",
                "weft-integration must not depend on weft-core",
            ]
        );
    }

    #[test]
    fn a_dev_dependency_has_the_same_direction() {
        let found = examine(&workspace(&[
            ("weft-lab", true, &[("weft-agent", Some("dev"))]),
            ("weft-agent", true, &[]),
        ]));
        assert_eq!(found, ["weft-lab must not depend on weft-agent"]);
    }

    #[test]
    fn only_tests_build_filters() {
        let found = examine(&workspace(&[
            ("weft-proxy", true, &[("weft-filter-build", None)]),
            ("weft-filter-build", true, &[]),
        ]));
        assert_eq!(
            found,
            ["weft-proxy must not depend on weft-filter-build outside of its tests"]
        );
    }

    #[test]
    fn a_crate_may_use_itself_in_its_tests() {
        let found = examine(&workspace(&[(
            "weft-datapath",
            true,
            &[("weft-datapath", Some("dev"))],
        )]));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn an_unlisted_crate_is_refused() {
        let found = examine(&workspace(&[("weft-surprise", true, &[])]));
        assert_eq!(
            found,
            ["weft-surprise: not in the list of crates and what they may use (xtask/src/deps.rs)"]
        );
    }

    #[test]
    fn a_ban_holds_through_other_crates() {
        let found = examine(&workspace(&[
            ("weft-agent", true, &[("helper", None)]),
            ("helper", false, &[("wasmtime", None)]),
            ("wasmtime", false, &[]),
        ]));
        assert_eq!(
            found,
            [
                "weft-agent must not link wasmtime: the agent is privileged and runs no code of filters"
            ]
        );
    }

    #[test]
    fn a_ban_of_a_crate_by_itself_reads_cargos_tree() {
        let tree =
            "weft-proxy v0.1.0 (/x)\nweft-api v0.1.0 (/x/api)\nkube v5.0.0\nbytes v1.12.1 (*)\n";
        assert_eq!(
            BANNED_ALONE[0].found_in(&metadata::names(tree)),
            ["weft-proxy must not link kube: the data plane knows its agent and nobody else"]
        );
        let without = tree.replace("kube ", "kubernetes-free ");
        assert!(
            BANNED_ALONE[0]
                .found_in(&metadata::names(&without))
                .is_empty()
        );
    }

    #[test]
    fn what_only_builds_or_tests_use_is_not_linked() {
        let found = examine(&workspace(&[
            (
                "weft-core",
                true,
                &[("proptest", Some("dev")), ("codegen", Some("build"))],
            ),
            ("proptest", false, &[("libc", None)]),
            ("codegen", false, &[("tokio", None)]),
            ("libc", false, &[]),
            ("tokio", false, &[]),
        ]));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_a_feature_for_tests_adds_is_not_linked() {
        let mut found = workspace(&[
            ("weft-core", true, &[("proptest", None)]),
            ("proptest", false, &[("libc", None)]),
            ("libc", false, &[]),
        ]);
        assert_eq!(examine(&found).len(), 1, "an ordinary dependency is");
        found.packages[0].dependencies[0].optional = true;
        assert_eq!(examine(&found), Vec::<String>::new());
    }

    #[test]
    fn only_tests_switch_on_testing() {
        let mut found = workspace(&[
            ("weft-api", true, &[("weft-core", None)]),
            ("weft-core", true, &[]),
        ]);
        found.packages[0].dependencies[0].features = vec![TESTING.to_owned()];
        assert_eq!(
            examine(&found),
            ["weft-api must not switch on testing of weft-core outside of its tests"]
        );
        found.packages[0].dependencies[0].kind = Some("dev".to_owned());
        assert_eq!(examine(&found), Vec::<String>::new());
    }

    #[test]
    fn only_the_wasm_host_names_wasmtime() {
        let found = examine(&workspace(&[
            ("weft-proxy", true, &[("wasmtime", None)]),
            ("weft-wasm-host", true, &[("wasmtime", None)]),
            ("wasmtime", false, &[]),
        ]));
        assert_eq!(
            found,
            ["weft-proxy must not depend on wasmtime: only weft-wasm-host does"]
        );
    }
}
