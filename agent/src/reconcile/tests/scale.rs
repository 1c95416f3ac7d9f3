//! Passes with as many policies as a cluster may have.

use super::*;

const POLICIES: usize = 1_000;
const APPS: usize = 50;
const PODS: usize = 100;

fn pod(index: usize) -> Pod {
    Pod {
        key: ObjectKey::new("default", format!("pod-{index}")),
        uid: format!("uid-{index}"),
        ip: Some(address(index)),
        labels: BTreeMap::from([("app".into(), format!("app{}", index % APPS))]),
        ..deathstar()
    }
}

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, u8::try_from(index + 10).expect("few pods"))
}

/// Lets one application GET a path from another.
fn policy(index: usize, port: u16) -> PolicyObject {
    let name = format!("policy-{index}");
    let app = |index: usize| json!({"matchLabels": {"app": format!("app{}", index % APPS)}});
    let raw = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "endpointSelector": app(index),
            "ingress": [{
                "fromEndpoints": [app(index * 7 + 1)],
                "toPorts": [{
                    "ports": [{"port": port.to_string(), "protocol": "TCP"}],
                    "rules": {"http": [{"method": "GET", "path": format!("/{index}/.*")}]},
                }],
            }],
        },
    });
    PolicyObject {
        key: ObjectKey::new("default", &name),
        uid: name,
        generation: 1,
        raw: raw.into(),
    }
}

#[tokio::test]
async fn a_change_costs_what_it_concerns() {
    let cnp = |delta| Change::Policies(PolicyKind::CiliumNetworkPolicy, delta);
    let mut rig = Rig::new();
    let pods = (0..PODS).map(pod).collect();
    rig.engine.change(Change::Pods(Delta::Replace(pods)));
    let policies = (0..POLICIES).map(|index| policy(index, 8080)).collect();
    rig.engine.change(cnp(Delta::Replace(policies)));
    let behind = |index: usize| {
        let ifindex = u32::try_from(index + 100).expect("few pods");
        (address(index), interface(ifindex))
    };
    let interfaces = Interfaces::these((0..PODS).map(behind));
    rig.engine.interfaces(interfaces);
    rig.pass();
    for _ in 0..APPS {
        rig.answer().await;
    }
    rig.pass();
    assert_eq!(rig.engine.table.endpoints().len(), PODS);
    assert_eq!(rig.engine.compiled.compiled, APPS, "once for equal labels");
    rig.pass();
    assert_eq!(rig.engine.compiled.compiled, 0, "nothing changed");

    let before = rig.engine.kernel.entries.clone();
    rig.engine.change(cnp(Delta::Apply(policy(17, 9090))));
    rig.pass();
    assert_eq!(rig.engine.compiled.compiled, 1, "one application");
    let entries = &rig.engine.kernel.entries;
    let changed = entries.iter().filter(|(id, now)| before[*id] != **now);
    assert_eq!(changed.count(), PODS / APPS);

    rig.engine.change(cnp(Delta::Delete(policy(17, 9090).key)));
    rig.pass();
    assert_eq!(rig.engine.compiled.compiled, 1, "revoked");
}
