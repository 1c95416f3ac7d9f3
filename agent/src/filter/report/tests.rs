use std::sync::Arc;

use weft_core::filter::FilterSpec;

use super::*;
use crate::filter::ResolvedFilter;

fn in_force(module: u8, generation: i64, problem: Option<&str>) -> InForce {
    let key = FilterKey {
        kind: FilterKind::WeftFilter,
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    let spec = FilterSpec {
        key: key.clone(),
        module: Some(weft_core::filter::ModuleDigest([module; 32])),
        problem: problem.map(Into::into),
        config: Arc::default(),
        limits: Default::default(),
        on_error: Default::default(),
        isolation: Default::default(),
        callouts: Arc::from([]),
        plugin: Default::default(),
    };
    InForce {
        key,
        generation,
        problem: problem.map(str::to_owned),
        warning: None,
        filter: ResolvedFilter {
            spec: spec.into(),
            attachments: Arc::from([]),
            awaited: None,
            // Of another module it is another version.
            revision: module.into(),
        },
    }
}

fn said(version: &str, loaded: bool, error: &str) -> node::FilterReports {
    node::FilterReports {
        version: version.to_owned(),
        filters: vec![node::FilterReport {
            kind: "WeftFilter".to_owned(),
            namespace: "shop".to_owned(),
            name: "jwt".to_owned(),
            sha256: "07".repeat(32),
            loaded,
            configured: loaded,
            error: error.to_owned(),
            quarantined_until: Some(pbjson_types::Timestamp {
                seconds: 1,
                nanos: 0,
            }),
            ..node::FilterReport::default()
        }],
    }
}

/// A snapshot that has this version of the filter.
fn snapshot(version: &str, revision: u64) -> Published {
    Published {
        version: version.to_owned(),
        revisions: [(in_force(1, 1, None).key, revision)].into(),
    }
}

fn state(reporter: &mut Reporter, one: &InForce) -> NodeFilter {
    let mut report = reporter.state([one].into_iter());
    assert_eq!(report.filters.len(), 1);
    report.filters.remove(0)
}

#[test]
fn what_the_proxy_says_is_passed_on_when_it_is_about_the_newest() {
    let mut reporter = Reporter::default();
    let first = in_force(1, 1, None);
    let none = state(&mut reporter, &first);
    assert!(!none.loaded && none.error.contains("not loaded it yet"));
    assert_eq!(
        (&*none.kind, &*none.namespace, &*none.name),
        ("WeftFilter", "shop", "jwt")
    );
    reporter.hear(Some(&said("v1", true, "")));
    let early = state(&mut reporter, &first);
    assert!(!early.loaded, "of nobody knows what");
    reporter.published(snapshot("v1", 1));
    let loaded = state(&mut reporter, &first);
    assert!(loaded.loaded && loaded.configured && loaded.error.is_empty());
    assert_eq!(
        (loaded.observed_generation, &*loaded.digest),
        (1, &*"07".repeat(32))
    );
    assert!(loaded.quarantined_until.is_some());

    // Another version: what was said is not about it.
    let second = in_force(2, 2, None);
    assert_eq!(state(&mut reporter, &second), loaded);
    reporter.published(snapshot("other", 1));
    reporter.hear(Some(&said("other", true, "")));
    assert_eq!(
        state(&mut reporter, &second),
        loaded,
        "it does not have it yet"
    );
    reporter.published(snapshot("v2", 2));
    assert_eq!(state(&mut reporter, &second), loaded);
    reporter.hear(Some(&said("v2", false, &"x".repeat(1000))));
    let failed = state(&mut reporter, &second);
    assert!(!failed.loaded && failed.error.len() < 600);
    assert_eq!(failed.observed_generation, 2);

    reporter.hear(None);
    let gone = state(&mut reporter, &second);
    assert!(gone.error.contains("not loaded it yet"), "{gone:?}");
    assert!(reporter.state([].into_iter()).filters.is_empty());
}

#[test]
fn what_is_being_compiled_is_said_to_be() {
    let mut reporter = Reporter::default();
    let one = in_force(1, 1, None);
    reporter.published(snapshot("v1", 1));
    reporter.hear(Some(&said("v1", false, "")));
    let told = state(&mut reporter, &one);
    assert!(!told.loaded && told.error.contains("compiles"), "{told:?}");
    reporter.hear(Some(&said("v1", false, "it is no WebAssembly")));
    assert_eq!(state(&mut reporter, &one).error, "it is no WebAssembly");
    reporter.hear(Some(&said("v1", true, "")));
    assert_eq!(state(&mut reporter, &one).error, "");
}

#[test]
fn a_registry_that_is_away_is_told_and_takes_nothing_back() {
    let mut reporter = Reporter::default();
    let mut one = in_force(1, 1, None);
    one.warning = Some("oci://a: gone".to_owned());
    reporter.published(snapshot("v1", 1));
    reporter.hear(Some(&said("v1", true, "")));
    let told = state(&mut reporter, &one);
    assert!(told.loaded && told.configured);
    assert_eq!(told.error, "oci://a: gone");
}

#[test]
fn a_version_that_is_not_in_force_is_not_loaded_whatever_the_proxy_has() {
    let mut reporter = Reporter::default();
    let held = in_force(1, 1, Some("oci://a: gone"));
    reporter.published(snapshot("v1", 1));
    reporter.hear(Some(&said("v1", true, "")));
    let told = state(&mut reporter, &held);
    assert!(!told.loaded && !told.configured);
    assert_eq!(
        (&*told.error, told.observed_generation),
        ("oci://a: gone", 1)
    );
    assert_eq!(told.digest, "07".repeat(32), "what serves");
}

#[test]
fn what_was_taken_back_before_the_proxy_saw_it_is_answered() {
    let mut reporter = Reporter::default();
    let first = in_force(1, 1, None);
    reporter.published(snapshot("v1", 1));
    reporter.hear(Some(&said("v1", true, "")));
    assert_eq!(state(&mut reporter, &first).observed_generation, 1);
    let second = in_force(2, 2, None);
    reporter.published(snapshot("v2", 2));
    assert_eq!(state(&mut reporter, &second).observed_generation, 1);
    // As it was, in a snapshot of the same content: the proxy has nothing to add.
    let mut third = in_force(1, 3, None);
    third.filter.revision = 3;
    reporter.published(snapshot("v1", 3));
    let told = state(&mut reporter, &third);
    assert!(told.loaded);
    assert_eq!(told.observed_generation, 3);
}

#[test]
fn a_namespace_with_many_filters_hides_nobody_elses() {
    let mut reporter = Reporter::default();
    let of = |namespace: &str, count: usize| {
        let each = (0..count).map(|number| {
            let mut one = in_force(1, 1, None);
            one.key.namespace = namespace.into();
            one.key.name = format!("f{number:04}").into();
            one
        });
        each.collect::<Vec<_>>()
    };
    let all = [of("aaa", 3000), of("shop", 5)].concat();
    let told = reporter.state(all.iter()).filters;
    assert_eq!(told.len(), MOST);
    let shop = told.iter().filter(|one| one.namespace == "shop");
    assert_eq!(shop.count(), 5);
}
