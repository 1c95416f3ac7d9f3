//! Ports with filters are part of what policies are compiled for.

use super::*;

fn on(port: u16) -> Vec<Intercept> {
    vec![Intercept {
        direction: Direction::Ingress,
        first: port,
        last: port,
    }]
}

fn decision(rig: &Rig, endpoint: u32, port: u16) -> Option<Decision> {
    let entries = &rig.compiled.policies[&endpoint].entries;
    let entry = lookup(entries, Direction::Ingress, NumericIdentity(301), 6, port);
    entry.map(|entry| entry.value.decision)
}

#[test]
fn equal_labels_with_other_filters_are_compiled_apart() {
    let mut rig = Rig::default();
    rig.rules.replace(vec![rule("web", "shop", "80")]);
    let known = identities(&[(300, "web"), (301, "shop")]);
    let apps = ["web", "web", "web"];
    assert_eq!(rig.update(&apps, &known), 1);
    rig.compiled.intercepts = Intercepts::from([(2, on(80))]);
    assert_eq!(rig.update(&apps, &known), 1, "the others are as they were");
    assert_eq!(decision(&rig, 1, 80), Some(Decision::Allow));
    assert_eq!(decision(&rig, 2, 80), Some(Decision::Redirect));
    let [port] = rig.compiled.policies[&2].ports.as_slice() else {
        panic!("{:?}", rig.compiled.policies[&2].ports);
    };
    assert_eq!((port.endpoint, port.first), (EndpointId(2), 80));
    assert!(rig.compiled.policies[&3].ports.is_empty());
    rig.compiled.intercepts = Intercepts::from([(1, on(80)), (2, on(80)), (3, on(81))]);
    assert_eq!(rig.update(&apps, &known), 1, "only the third is new");
    assert_eq!(decision(&rig, 1, 80), Some(Decision::Redirect));
    assert_eq!(decision(&rig, 3, 80), Some(Decision::Allow));
    rig.compiled.intercepts.clear();
    assert_eq!(rig.update(&apps, &known), 1);
    assert_eq!(decision(&rig, 2, 80), Some(Decision::Allow));
}

/// An endpoint over its bounds that gets filters, and loses them, keeps what it
/// is allowed.
#[test]
fn filters_take_nothing_from_an_endpoint_over_its_bounds() {
    let few = Bounds {
        entries: 4,
        ..Bounds::default()
    };
    let endpoints = endpoints(&["web"]);
    let known = identities(&[(300, "web"), (301, "shop")]);
    let held = |compiled: &Compiled| {
        KernelEntries::from([(1, map_entries(&compiled.policies[&1], 15001))])
    };
    let mut rig = Rig {
        compiled: Compiled::bounded(few),
        ..Rig::default()
    };
    let mut rules: Vec<_> = vec![rule("web", "shop", "80")];
    rig.rules.replace(rules.clone());
    let mut kernel = KernelEntries::new();
    let mut update = |rig: &mut Rig| {
        let Rig {
            compiled,
            rules,
            table,
        } = rig;
        compiled.update(&endpoints, rules, known.clone(), table, &kernel);
        kernel = held(compiled);
    };
    update(&mut rig);
    rules.extend((81..90).map(|port| rule("web", "shop", &port.to_string())));
    rig.rules.replace(rules);
    update(&mut rig);
    assert_eq!(decision(&rig, 1, 80), Some(Decision::Allow));
    assert_eq!(decision(&rig, 1, 81), None, "over its bounds");
    rig.compiled.intercepts = Intercepts::from([(1, on(80))]);
    update(&mut rig);
    assert_eq!(decision(&rig, 1, 80), Some(Decision::Redirect));
    assert_eq!(decision(&rig, 1, 81), None);
    rig.compiled.intercepts.clear();
    update(&mut rig);
    assert_eq!(decision(&rig, 1, 80), Some(Decision::Allow));
}
