use serde_json::json;
use weft_core::policy::{PolicyKind, lookup};

use super::*;
use crate::endpoint::Interface;
use crate::policy::parse;
use crate::state::ObjectKey;

fn labels(app: &str) -> Labels {
    let app = format!("k8s:app={app}");
    Labels::parse_all([app.as_str(), "k8s:io.kubernetes.pod.namespace=default"]).expect("labels")
}

fn endpoints(apps: &[&str]) -> BTreeMap<Ipv4Addr, LocalEndpoint> {
    let endpoint = |(id, app): (u8, &&str)| {
        let ip = Ipv4Addr::new(10, 244, 1, id);
        let endpoint = LocalEndpoint {
            id: id.into(),
            key: ObjectKey::new("default", format!("{app}-{id}")),
            uid: id.to_string(),
            ip,
            interface: Interface {
                ifindex: id.into(),
                mac: [2; 6],
                host_mac: [3; 6],
            },
            identity: NumericIdentity(1000),
            labels: labels(app),
            ports: NamedPorts::default(),
        };
        (ip, endpoint)
    };
    (1..).zip(apps).map(endpoint).collect()
}

/// Lets pods of one application in from another's.
fn rule(app: &str, from: &str, port: &str) -> Arc<Rule> {
    let raw = json!({
        "metadata": {"name": format!("{app}-from-{from}"), "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": app}},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"app": from}}],
                "toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}],
            }],
        },
    });
    let mut rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.remove(0))
}

fn identities(apps: &[(u32, &str)]) -> IdentityTable {
    let mut table = IdentityTable::new();
    for (id, app) in apps {
        table.insert(NumericIdentity(*id), labels(app));
    }
    table
}

/// What each update compiles.
#[derive(Default)]
struct Rig {
    compiled: Compiled,
    rules: Rules,
    table: RuleTable,
}

impl Rig {
    /// How many label sets an update compiles.
    fn update(&mut self, apps: &[&str], identities: &IdentityTable) -> usize {
        let endpoints = endpoints(apps);
        self.compiled
            .update(&endpoints, &self.rules, identities.clone(), &mut self.table);
        // Whatever was not compiled again is what compiling anew gives.
        let mut anew = Compiled::default();
        anew.update(&endpoints, &self.rules, identities.clone(), &mut self.table);
        assert_eq!(self.compiled.policies, anew.policies);
        self.compiled.compiled
    }

    fn lets_in(&self, endpoint: u32, identity: u32, port: u16) -> bool {
        let direction = weft_core::model::Direction::Ingress;
        let entries = &self.compiled.policies[&endpoint].entries;
        lookup(entries, direction, NumericIdentity(identity), 6, port).is_some()
    }
}

#[test]
fn equal_labels_are_compiled_once() {
    let mut rig = Rig::default();
    rig.rules.replace(vec![rule("web", "shop", "80")]);
    let known = identities(&[(300, "web"), (301, "shop")]);
    assert_eq!(rig.update(&["web", "shop", "web", "web"], &known), 2);
    for endpoint in [1, 3, 4] {
        assert_eq!(rig.compiled.policies[&endpoint].id, EndpointId(endpoint));
        assert!(rig.lets_in(endpoint, 301, 80));
    }
    // One more of a kind, and one gone.
    assert_eq!(rig.update(&["web", "web", "web", "web", "web"], &known), 0);
}

#[test]
fn a_policy_concerns_only_those_that_it_selects() {
    let mut rig = Rig::default();
    let apps = ["web", "shop", "cart"];
    let known = identities(&[(300, "web"), (301, "shop"), (302, "cart")]);
    let (web, shop) = (rule("web", "shop", "80"), rule("shop", "cart", "80"));
    rig.rules.replace(vec![web.clone(), shop.clone()]);
    assert_eq!(rig.update(&apps, &known), 3);
    assert_eq!(rig.update(&apps, &known), 0, "nothing changed");
    rig.rules
        .replace(vec![web.clone(), rule("shop", "cart", "81")]);
    assert_eq!(rig.update(&apps, &known), 1);
    assert!(rig.lets_in(2, 302, 81) && !rig.lets_in(2, 302, 80));
    rig.rules.replace(vec![web]);
    assert_eq!(rig.update(&apps, &known), 1, "revoked");
}

#[test]
fn an_identity_concerns_only_those_whose_rules_mean_it() {
    let mut rig = Rig::default();
    let apps = ["web", "shop", "cart"];
    rig.rules
        .replace(vec![rule("web", "shop", "80"), rule("shop", "cart", "80")]);
    let mut known = vec![(300, "web"), (302, "cart")];
    rig.update(&apps, &identities(&known));
    assert!(!rig.lets_in(1, 301, 80));
    known.push((301, "shop"));
    assert_eq!(rig.update(&apps, &identities(&known)), 1, "a first shop");
    assert!(rig.lets_in(1, 301, 80));
    known.push((303, "nobody's peer"));
    assert_eq!(rig.update(&apps, &identities(&known)), 0);
    known.retain(|(_, app)| *app != "cart");
    assert_eq!(
        rig.update(&apps, &identities(&known)),
        1,
        "no cart any more"
    );
    assert!(!rig.lets_in(2, 302, 80));
}

#[test]
fn named_ports_mean_what_their_pods_call_so() {
    let raw = json!({
        "metadata": {"name": "named", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "egress": [{"toPorts": [{"ports": [{"port": "db", "protocol": "TCP"}]}]}],
        },
    });
    let rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    let mut rig = Rig::default();
    rig.rules.replace(rules.into_iter().map(Arc::new).collect());
    let mut known = identities(&[(300, "web"), (301, "postgres")]);
    rig.update(&["web"], &known);
    let mut ports = NamedPorts::default();
    ports.insert("db", weft_core::model::Protocol::Tcp, 5432);
    known.add_named_ports(NumericIdentity(301), &ports);
    assert_eq!(rig.update(&["web"], &known), 1);
}
