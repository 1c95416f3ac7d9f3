use super::*;

const IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);

fn pod(name: &str, uid: &str) -> Pod {
    Pod {
        key: ObjectKey::new("default", name),
        uid: uid.into(),
        node: "n".into(),
        ip: Some(IP),
        host_network: false,
        finished: false,
        labels: BTreeMap::new(),
        service_account: "default".into(),
        ports: vec![],
        created: String::new(),
        deleting: false,
        workload: None,
    }
}

fn behind(ifindex: u32) -> Interfaces {
    let interface = Interface {
        ifindex,
        mac: [2; 6],
        host_mac: [3; 6],
    };
    Interfaces::these([(IP, interface)])
}

fn identity(id: u32) -> impl Fn(&Pod) -> Option<(NumericIdentity, Labels)> {
    move |_| Some((NumericIdentity(id), Labels::default()))
}

fn found(ifindex: u32, identity: u32) -> Found {
    Found {
        id: 42,
        ip: IP,
        ifindex,
        identity: NumericIdentity(identity),
    }
}

#[test]
fn a_pod_waits_for_its_interface_and_its_identity() {
    let mut table = Table::default();
    let pods = [pod("a", "1")];
    let update = table.update(pods.iter(), &Interfaces::default(), identity(300));
    assert_eq!(update.waiting[0].phase, EndpointPhase::WaitingForInterface);
    let update = table.update(pods.iter(), &behind(7), |_| None);
    assert_eq!(update.waiting[0].phase, EndpointPhase::WaitingForIdentity);
    let update = table.update(pods.iter(), &behind(7), identity(300));
    assert_eq!(update, Update::default());
    assert_eq!(table.endpoints()[&IP].identity, NumericIdentity(300));
}

#[test]
fn the_same_address_under_another_pod_is_another_endpoint() {
    let mut table = Table::default();
    table.update([pod("a", "1")].iter(), &behind(7), identity(300));
    let first = table.endpoints()[&IP].id;
    let update = table.update([pod("b", "2")].iter(), &behind(8), identity(301));
    assert_eq!(update.detach, [IP]);
    assert_ne!(table.endpoints()[&IP].id, first);
    assert_eq!(table.endpoints()[&IP].identity, NumericIdentity(301));
}

#[test]
fn a_new_interface_never_gets_the_old_pods_identity_unasked() {
    // The watch is late: the old pod is still in the state although its
    // address is behind a new interface already.
    let mut table = Table::default();
    let pods = [pod("a", "1")];
    table.update(pods.iter(), &behind(7), identity(300));
    let update = table.update(pods.iter(), &behind(8), identity(300));
    assert_eq!(update.detach, [IP]);
    assert_eq!(update.confirm.len(), 1);
    assert!(table.endpoints().is_empty());
    // The API says that it is the same pod: its sandbox was made again.
    table.confirm("1".into(), 8);
    let update = table.update(pods.iter(), &behind(8), identity(300));
    assert_eq!(update, Update::default());
    assert_eq!(table.endpoints()[&IP].interface.ifindex, 8);
}

#[test]
fn an_interface_that_goes_takes_its_endpoint_along() {
    let mut table = Table::default();
    let pods = [pod("a", "1")];
    table.update(pods.iter(), &behind(7), identity(300));
    let update = table.update(pods.iter(), &Interfaces::default(), identity(300));
    assert_eq!(update.detach, [IP]);
    assert!(table.endpoints().is_empty());
}

#[test]
fn a_change_of_labels_keeps_the_endpoint_and_waits_for_the_new_number() {
    let mut table = Table::default();
    let pods = [pod("a", "1")];
    table.update(pods.iter(), &behind(7), identity(300));
    let id = table.endpoints()[&IP].id;
    let update = table.update(pods.iter(), &behind(7), |_| None);
    assert_eq!(update, Update::default());
    assert_eq!(table.endpoints()[&IP].identity, NumericIdentity(300));
    table.update(pods.iter(), &behind(7), identity(301));
    assert_eq!(table.endpoints()[&IP].id, id);
    assert_eq!(table.endpoints()[&IP].identity, NumericIdentity(301));
}

#[test]
fn a_restart_takes_over_what_is_the_same_and_detaches_what_is_not() {
    let mut same = Table::restore([found(7, 300)]);
    let update = same.update([pod("a", "1")].iter(), &behind(7), identity(300));
    assert_eq!(update, Update::default());
    assert_eq!(same.endpoints()[&IP].id, 42);

    for other in [found(8, 300), found(7, 301)] {
        let mut table = Table::restore([other]);
        let update = table.update([pod("a", "1")].iter(), &behind(7), identity(300));
        assert_eq!(update.detach, [IP]);
        assert_ne!(table.endpoints()[&IP].id, 42);
    }

    let mut gone = Table::restore([found(7, 300)]);
    let update = gone.update([].iter(), &Interfaces::default(), identity(300));
    assert_eq!(update.detach, [IP]);
}

#[test]
fn a_restart_leaves_an_endpoint_alone_until_its_identity_is_known() {
    let mut table = Table::restore([found(7, 300)]);
    let pods = [pod("a", "1")];
    let update = table.update(pods.iter(), &behind(7), |_| None);
    assert!(update.detach.is_empty());
    table.update(pods.iter(), &behind(7), identity(300));
    assert_eq!(table.endpoints()[&IP].id, 42);
}

#[test]
fn of_two_pods_with_one_address_the_living_and_newer_one_has_it() {
    let mut old = pod("old", "1");
    old.created = "2026-01-01T00:00:00Z".into();
    let mut new = pod("new", "2");
    new.created = "2026-01-01T00:00:09Z".into();
    assert_eq!(claims([&new, &old].into_iter())[&IP].uid, "2");
    new.deleting = true;
    assert_eq!(claims([&new, &old].into_iter())[&IP].uid, "1");
}
