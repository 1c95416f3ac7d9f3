//! Ports that policies name and no pod has.

use super::*;
use crate::state::NamedPort;

/// The deathstar lets everybody in on this port, and may reach it elsewhere.
fn to_port(port: &str) -> Value {
    let ports = json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "ingress": [{"fromEntities": ["all"], "toPorts": ports}],
        "egress": [{"toEntities": ["all"], "toPorts": ports}],
    })
}

impl Rig {
    /// The messages of the events about names.
    fn names(&self) -> Vec<String> {
        let created = self.created.lock().expect("readable");
        let events = created
            .iter()
            .filter(|object| object["reason"] == "UnknownPortName");
        events
            .map(|event| {
                let object = &event["involvedObject"];
                assert_eq!(object["kind"], "CiliumNetworkPolicy");
                assert_eq!(object["uid"], "rule1-uid");
                event["message"].as_str().unwrap_or_default().to_owned()
            })
            .collect()
    }

    fn pod_with_port(&mut self, pod: Pod) {
        self.engine.change(Change::Pods(Delta::Apply(Pod {
            ports: vec![NamedPort {
                name: "web".into(),
                protocol: weft_core::model::Protocol::Tcp,
                port: 8080,
            }],
            ..pod
        })));
    }
}

#[tokio::test]
async fn a_name_that_no_pod_has_is_told_once() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&to_port("80a"));
    rig.pass();
    rig.answer().await;
    rig.answer().await;
    let mut told = rig.names();
    told.sort();
    assert_eq!(
        told,
        [
            "egress[0].toPorts[0]: no pod has a port named \"80a\", so nothing matches there; name a \
             port of a container, or give its number",
            "ingress[0].toPorts[0]: no pod that the policy selects has a port named \"80a\", so \
             nothing matches there; name a port of a container, or give its number",
        ]
    );
    // Looked at again, it is what was told.
    rig.policy_of("other", &allow(false));
    rig.pass();
    assert_eq!(rig.engine.unknown_names.len(), 2);
    assert_eq!(rig.names().len(), 2);
    // Another pod's port is none that the policy means in ingress.
    rig.policy(&to_port("web"));
    rig.pod_with_port(Pod {
        key: ObjectKey::new("default", "elsewhere"),
        uid: "u2".into(),
        node: "two".into(),
        ip: Some(Ipv4Addr::new(10, 244, 2, 9)),
        labels: BTreeMap::new(),
        ..deathstar()
    });
    rig.pass();
    let unknown: Vec<_> = rig.engine.unknown_names.iter().collect();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(unknown[0].place.starts_with("ingress"), "{unknown:?}");
    rig.pod_with_port(deathstar());
    rig.pass();
    assert!(rig.engine.unknown_names.is_empty());
}

#[tokio::test]
async fn numbers_and_policies_for_other_nodes_pods_are_no_matter() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&to_port("80"));
    rig.pass();
    let mut spec = to_port("80a");
    spec["endpointSelector"] = json!({"matchLabels": {"org": "alliance"}});
    rig.policy_of("other", &spec);
    rig.pass();
    assert!(rig.engine.unknown_names.is_empty());
}
