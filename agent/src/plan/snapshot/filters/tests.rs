use std::net::SocketAddr;
use std::time::Duration;

use weft_core::filter::{Backend, ModuleDigest};
use weft_core::model::{Direction, EndpointId};

use super::*;
use crate::plan::filters::testing::spec;

fn chain(filters: &[FilterSpec]) -> Chain {
    let step = |filter: &FilterSpec| Step {
        phase: Phase::Upstream,
        filter: Arc::new(filter.clone()),
    };
    Chain {
        direction: Direction::Egress,
        first: 80,
        last: 90,
        steps: filters.iter().map(step).collect(),
    }
}

fn on(filters: &[FilterSpec]) -> Chains {
    Chains::from([(7, vec![chain(filters)])])
}

fn callout(service: &str, backends: u32) -> Callout {
    let backend = |number: u32| Backend {
        address: SocketAddr::from(([10, 0, 0, 1], u16::try_from(number).expect("few"))),
        from: (1..40).map(EndpointId).collect(),
    };
    Callout {
        service: service.into(),
        backends: (1..=backends).map(backend).collect(),
    }
}

const MAX: usize = 1 << 20;

#[test]
fn everything_of_a_filter_is_told() {
    let whole = FilterSpec {
        module: ModuleDigest::parse(&"ab".repeat(32)),
        problem: Some("what is wrong".into()),
        config: Arc::from(&b"{\"a\":1}"[..]),
        limits: FilterLimits {
            deadline: Some(Duration::from_millis(5)),
            memory: Some(1 << 20),
            ..FilterLimits::default()
        },
        on_error: OnError {
            load: FailPolicy::Open,
            timeout: FailPolicy::Open,
            ..OnError::default()
        },
        isolation: Isolation::Request,
        callouts: ["authz.default:80"].map(Into::into).into(),
        plugin: Plugin {
            root_id: "root".into(),
            ..Plugin::default()
        },
        ..spec("z")
    };
    let parts = FilterParts::new(&on(&[whole, spec("a")]), &[], MAX);
    let [plain, told] = parts.filters.as_slice() else {
        panic!("{:?}", parts.filters);
    };
    assert_eq!(
        (plain.name.as_str(), plain.kind.as_str()),
        ("a", "WeftFilter")
    );
    assert!(plain.sha256.is_empty() && plain.plugin.is_none() && !plain.isolated);
    assert_eq!(
        (told.name.as_str(), told.namespace.as_str()),
        ("z", "default")
    );
    assert_eq!(
        (told.sha256.as_str(), told.isolated),
        (&*"ab".repeat(32), true)
    );
    assert_eq!(told.problem, "what is wrong");
    assert_eq!(told.config, b"{\"a\":1}");
    let limits = told.limits.expect("limits");
    assert_eq!((limits.memory, limits.contexts), (Some(1 << 20), None));
    assert_eq!(limits.deadline.expect("a deadline").nanos, 5_000_000);
    let on_error = told.on_error.expect("policies");
    assert_eq!(on_error.load(), node::FailPolicy::Open);
    assert_eq!(on_error.trap(), node::FailPolicy::Closed);
    assert_eq!(told.callouts, ["authz.default:80"]);
    assert_eq!(told.plugin.as_ref().expect("a plugin").root_id, "root");
    // In the order of the chain, by their places in the list.
    let [chain] = parts.chains.as_slice() else {
        panic!("{:?}", parts.chains);
    };
    assert_eq!(
        (chain.endpoint_id, chain.port_first, chain.port_last),
        (7, 80, 90)
    );
    assert_eq!(chain.direction(), node::Direction::Egress);
    let steps = chain.steps.iter().map(|step| (step.filter, step.phase()));
    let upstream = node::FilterPhase::Upstream;
    assert_eq!(steps.collect::<Vec<_>>(), [(1, upstream), (0, upstream)]);
}

#[test]
fn a_configuration_without_room_is_a_filter_that_does_not_load() {
    let with = |name: &str, namespace: &str, size: usize| {
        let mut spec = FilterSpec {
            module: ModuleDigest::parse(&"ab".repeat(32)),
            config: vec![b'x'; size].into(),
            ..spec(name)
        };
        spec.key.namespace = namespace.into();
        spec
    };
    let chains = on(&[
        with("small", "one", 1000),
        with("large", "two", 200_000),
        with("larger", "two", 250_000),
    ]);
    let parts = FilterParts::new(&chains, &[], MAX);
    let cut: Vec<&str> = parts
        .filters
        .iter()
        .filter(|filter| filter.sha256.is_empty())
        .map(|filter| filter.name.as_str())
        .collect();
    assert_eq!(
        cut,
        ["larger"],
        "the largest of the namespace that takes most"
    );
    let cut = &parts.filters[2];
    assert!(
        cut.config.is_empty() && cut.problem.contains("250000 bytes"),
        "{cut:?}"
    );
    assert_eq!(parts.chains[0].steps.len(), 3, "it is met all the same");
}

#[test]
fn services_without_room_have_nothing_behind_them() {
    let asks = |name: &str, services: &[&str]| FilterSpec {
        callouts: services.iter().map(|one| (*one).into()).collect(),
        ..spec(name)
    };
    let chains = on(&[asks("a", &["large.default:80", "small.default:80"])]);
    let callouts = [
        callout("large.default:80", 3000),
        callout("small.default:80", 3),
    ];
    let parts = FilterParts::new(&chains, &callouts, MAX);
    let sizes = parts.callouts.iter().map(|one| one.backends.len());
    assert_eq!(sizes.collect::<Vec<_>>(), [0, 3]);
    assert_eq!(parts.unanswered, ["large.default:80".to_owned()].into());
    let parts = FilterParts::new(&chains, &callouts[1..], MAX);
    assert!(parts.unanswered.is_empty());
}

#[test]
fn they_take_no_more_than_was_reckoned() {
    let long = "n".repeat(253);
    let filter = |number: usize| FilterSpec {
        module: ModuleDigest::parse(&"ab".repeat(32)),
        config: vec![b'x'; number * 1000].into(),
        callouts: ["authz.default:80"].map(Into::into).into(),
        ..spec(&format!("{number}{long}"))
    };
    let filters: Vec<FilterSpec> = (0..40).map(filter).collect();
    let endpoints = (0..20).map(|id| (u32::MAX - id, vec![chain(&filters)]));
    let chains: Chains = endpoints.collect();
    let callouts = [callout("authz.default:80", 1000)];
    let parts = FilterParts::new(&chains, &callouts, MAX);
    let taken = node::Snapshot {
        filters: parts.filters,
        chains: parts.chains,
        callouts: parts.callouts,
        ..node::Snapshot::default()
    };
    let (taken, reckoned) = (taken.encoded_len(), size(&chains, MAX));
    assert!(taken <= reckoned, "{taken} for {reckoned}");
    assert!(taken > reckoned / 2, "{taken} for {reckoned}");
    assert_eq!(size(&Chains::new(), MAX), 0);
}
