mod bounds;
mod filters;
mod names;
mod scale;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_core::model::NumericIdentity;
use weft_core::policy::Bounds;
use weft_datapath::{CLOSED_PORT, Verdict};

use super::pass::Passed;
use super::*;
use crate::endpoint::{Interface, Interfaces};
use crate::program::testing::Recorder;
use crate::state::{Delta, Kind, Namespace, Node, ObjectKey, Pod, PolicyKind, PolicyObject};
use crate::status::{AgentStatus, EndpointPhase, StatusReceiver};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const PROXY: u16 = 15001;

/// An API in which everything can be created and nothing else exists, and what
/// was created.
fn api() -> (kube::Client, Arc<Mutex<Vec<Value>>>) {
    let created = Arc::new(Mutex::new(Vec::new()));
    let creating = created.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let creating = creating.clone();
        async move {
            let (status, body) = if request.method() == Method::POST {
                let body = request.into_body().collect_bytes().await;
                let body = body.unwrap_or_default();
                if let (Ok(object), Ok(mut created)) =
                    (serde_json::from_slice(&body), creating.lock())
                {
                    created.push(object);
                }
                (StatusCode::CREATED, body.to_vec())
            } else {
                let status = json!({"kind": "Status", "code": 404, "reason": "NotFound"});
                (StatusCode::NOT_FOUND, status.to_string().into_bytes())
            };
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    (kube::Client::new(service, "default"), created)
}

struct Rig {
    engine: Engine<Recorder>,
    work: Work,
    created: Arc<Mutex<Vec<Value>>>,
    control: Control,
    status: StatusReceiver,
    metrics: Metrics,
    view: ViewHandle,
    /// The filters whose modules are to be fetched.
    modules: watch::Receiver<Needed>,
    /// The versions of filters in the newest snapshot.
    published: watch::Receiver<Published>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// An agent in sync with a cluster that has a node and a namespace.
    fn new() -> Self {
        Self::within(Bounds::default(), 1 << 20)
    }

    /// One that gives an endpoint and a snapshot only so much.
    fn within(bounds: Bounds, max_snapshot: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (last_good, saved) = LastGood::open(dir.path().into()).expect("opened");
        let (control, _) = Control::new();
        let metrics = Metrics::default();
        let (sender, status) = watch::channel(Arc::new(AgentStatus::default()));
        let view = ViewHandle::default();
        let (needed, modules) = watch::channel(None);
        let (publish, published) = watch::channel(Published::default());
        let mut engine = Engine::new(Start {
            settings: Settings {
                node: "one".into(),
                ip: Ipv4Addr::new(172, 18, 0, 2),
                cluster: "default".into(),
                proxy_port: PROXY,
                proxy_mark: 0xa00,
                proxy: weft_core::snapshot::Settings::default(),
                private_ports: vec![4244],
                bounds,
                max_snapshot,
            },
            kernel: Recorder::default(),
            programmer: Programmer::default(),
            found: vec![],
            cidrs: CidrIdentities::default(),
            repository: Repository::new(saved),
            last_good,
            control: control.clone(),
            view: view.clone(),
            status: sender,
            metrics: metrics.clone(),
            needed,
            published: publish,
        });
        for change in [
            Change::Pods(Delta::Replace(vec![])),
            Change::Services(Delta::Replace(vec![])),
            Change::Slices(Delta::Replace(vec![])),
            Change::Identities(Delta::Replace(vec![])),
            Change::Policies(PolicyKind::CiliumNetworkPolicy, Delta::Replace(vec![])),
            Change::Policies(
                PolicyKind::CiliumClusterwideNetworkPolicy,
                Delta::Replace(vec![]),
            ),
            Change::Namespaces(Delta::Replace(vec![Namespace {
                name: "default".into(),
                labels: BTreeMap::new(),
            }])),
            Change::Nodes(Delta::Replace(vec![Node {
                name: "one".into(),
                labels: BTreeMap::new(),
                addresses: vec![Ipv4Addr::new(172, 18, 0, 2)],
                pod_cidrs: vec!["10.244.1.0/24".into()],
            }])),
        ] {
            engine.change(change);
        }
        assert!(!engine.in_sync(), "filters are not known");
        engine.filters(Arc::default());
        assert!(engine.in_sync());
        let (client, created) = api();
        Self {
            engine,
            work: Work::new(client),
            created,
            control,
            status,
            metrics,
            view,
            modules,
            published,
            _dir: dir,
        }
    }

    /// One with an endpoint, `default/deathstar`, that is ready.
    async fn with_endpoint() -> Self {
        Self::new().and_endpoint().await
    }

    async fn and_endpoint(self) -> Self {
        let mut rig = self;
        rig.engine.change(Change::Pods(Delta::Apply(deathstar())));
        rig.engine
            .interfaces(Interfaces::these([(POD, interface(7))]));
        rig.pass();
        assert_eq!(rig.phase(), EndpointPhase::WaitingForIdentity);
        rig.answer().await;
        rig.pass();
        assert_eq!(rig.phase(), EndpointPhase::Ready);
        rig
    }

    fn pass(&mut self) -> Passed {
        self.engine.pass(&mut self.work)
    }

    async fn answer(&mut self) {
        match self.work.next().await {
            Done::Identity { labels, result } => self.engine.allocated(labels, result),
            Done::Confirmed {
                uid,
                ifindex,
                lives,
            } => self.engine.confirmed(uid, ifindex, lives),
            Done::Told => {}
        }
    }

    fn policy(&mut self, spec: &Value) {
        self.policy_of("rule1", spec);
    }

    fn policy_of(&mut self, name: &str, spec: &Value) {
        let uid = format!("{name}-uid");
        let raw = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "default", "uid": uid},
            "spec": spec,
        });
        let object = PolicyObject {
            key: ObjectKey::new("default", name),
            uid,
            generation: 1,
            raw: raw.into(),
        };
        self.engine.change(Change::Policies(
            PolicyKind::CiliumNetworkPolicy,
            Delta::Apply(object),
        ));
    }

    fn phase(&self) -> EndpointPhase {
        self.status.borrow().endpoints["default/deathstar"].state
    }

    fn endpoint(&self) -> u32 {
        self.status.borrow().endpoints["default/deathstar"].id
    }

    /// Verdicts of the endpoint's ingress entries for port 80.
    fn port_80(&self) -> Vec<Verdict> {
        self.engine.kernel.entries[&self.endpoint()]
            .iter()
            .filter(|entry| entry.port == 80)
            .map(|entry| entry.verdict)
            .collect()
    }

    /// The proxy answered for all that was published.
    fn proxy(&mut self, connected: bool, acked: &str) {
        self.engine.proxy(ProxyStatus {
            connected,
            acked: acked.into(),
            answered: 1000,
            ..ProxyStatus::default()
        });
    }
}

fn interface(ifindex: u32) -> Interface {
    Interface {
        ifindex,
        mac: [2; 6],
        host_mac: [3; 6],
    }
}

fn deathstar() -> Pod {
    Pod {
        key: ObjectKey::new("default", "deathstar"),
        uid: "u1".into(),
        node: "one".into(),
        ip: Some(POD),
        host_network: false,
        finished: false,
        labels: BTreeMap::from([("org".into(), "empire".into())]),
        service_account: "default".into(),
        ports: vec![],
        created: String::new(),
        deleting: false,
        workload: None,
    }
}

fn allow(l7: bool) -> Value {
    let mut port = json!({"ports": [{"port": "80", "protocol": "TCP"}]});
    if l7 {
        port["rules"] = json!({"http": [{"method": "POST"}]});
    }
    json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "ingress": [{
            "fromEndpoints": [{"matchLabels": {"org": "empire"}}],
            "toPorts": [port],
        }],
    })
}

#[tokio::test]
async fn a_pod_gets_an_identity_then_its_rules_then_its_programs() {
    let rig = Rig::with_endpoint().await;
    let calls = &rig.engine.kernel.calls;
    let at = |what: &str| calls.iter().position(|call| call.starts_with(what));
    assert!(at("policy") < at("attach"), "{calls:?}");
    let view = rig.view.load();
    let info = view.address(POD).expect("in the view");
    assert!(NumericIdentity(info.identity).is_cluster());
    assert_eq!(view.endpoint(rig.endpoint()), Some(info));
    assert!(
        view.labels(info.identity)
            .contains(&"k8s:org=empire".into())
    );
}

#[tokio::test]
async fn a_node_with_several_addresses_is_one_peer() {
    let mut rig = Rig::new();
    let addresses = (1..=20).map(|last| Ipv4Addr::new(172, 18, 0, last));
    rig.engine.change(Change::Nodes(Delta::Apply(Node {
        name: "two".into(),
        labels: BTreeMap::new(),
        // The internal one first, as they are read.
        addresses: addresses.rev().collect(),
        pod_cidrs: vec![],
    })));
    rig.pass();
    let nodes: Vec<_> = rig.view.load().nodes().collect();
    let at = |name: &str, last| (name.to_owned(), Ipv4Addr::new(172, 18, 0, last).into());
    assert_eq!(nodes, [at("one", 2), at("two", 20)]);
}

#[tokio::test]
async fn before_every_kind_was_listed_nothing_is_touched() {
    let mut rig = Rig::new();
    assert!(rig.engine.in_sync());
    rig.engine.state = crate::state::ClusterState::default();
    assert!(!rig.engine.in_sync());
    rig.engine.describe_waiting();
    let status = rig.status.borrow().clone();
    assert_eq!(status.waiting_for.len(), Kind::ALL.len());
    assert!(status.not_ready().is_some());
    assert!(rig.engine.kernel.calls.is_empty());
}

#[tokio::test]
async fn a_policy_comes_and_goes() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(false));
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Allow]);
    assert!(rig.status.borrow().endpoints["default/deathstar"].ingress_enforced);
    rig.engine.change(Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Delete(ObjectKey::new("default", "rule1")),
    ));
    rig.pass();
    assert!(rig.port_80().is_empty());
    assert!(!rig.status.borrow().endpoints["default/deathstar"].ingress_enforced);
}

#[tokio::test]
async fn a_broken_version_leaves_the_good_one_in_the_kernel() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(false));
    rig.pass();
    let before = rig.engine.kernel.entries.clone();
    let mut broken = allow(false);
    broken["ingress"][0]["toPorts"][0]["port"] = json!("80");
    rig.policy(&broken);
    rig.pass();
    assert_eq!(rig.engine.kernel.entries, before);
    let status = rig.status.borrow().clone();
    assert_eq!(status.rejected.len(), 1);
    assert!(status.rejected[0].reasons[0].starts_with("spec.ingress[0].toPorts[0].port"));
}

#[tokio::test]
async fn http_rules_reach_the_proxy_before_the_kernel_redirects() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(false));
    rig.proxy(true, "");
    rig.pass();
    rig.policy(&allow(true));
    let passed = rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Allow], "as before, for the moment");
    assert!(passed.again.is_some());
    let version = rig.status.borrow().snapshot.clone();
    rig.proxy(true, &version);
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    // The proxy dies: the redirect stays, and with nobody there it is closed.
    rig.proxy(false, "");
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
}

#[tokio::test]
async fn without_a_proxy_ports_with_http_rules_are_closed() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(true));
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(CLOSED_PORT)]);
    assert_eq!(rig.phase(), EndpointPhase::Ready);
    assert!(
        !rig.status.borrow().endpoints["default/deathstar"]
            .reason
            .is_empty()
    );
}

#[tokio::test]
async fn a_pod_is_ready_once_the_proxy_has_heard_of_it() {
    let mut rig = Rig::with_endpoint().await;
    rig.proxy(true, "");
    let passed = rig.pass();
    assert_eq!(rig.phase(), EndpointPhase::WaitingForProxy);
    assert!(passed.again.is_some());
    let version = rig.status.borrow().snapshot.clone();
    rig.proxy(true, &version);
    rig.pass();
    assert_eq!(rig.phase(), EndpointPhase::Ready);
}

#[tokio::test]
async fn a_deleted_pod_takes_everything_of_its_address_along() {
    let mut rig = Rig::with_endpoint().await;
    let id = rig.endpoint();
    rig.engine.kernel.take();
    rig.engine
        .change(Change::Pods(Delta::Delete(deathstar().key)));
    rig.pass();
    let calls = rig.engine.kernel.take();
    assert_eq!(calls[0], format!("detach {POD}"));
    assert!(calls.contains(&format!("forget {id}")), "{calls:?}");
    assert!(rig.view.load().address(POD).is_none());
}

#[tokio::test]
async fn an_identity_that_is_removed_under_a_pod_is_made_again() {
    let mut rig = Rig::with_endpoint().await;
    let identity = rig.status.borrow().endpoints["default/deathstar"].identity;
    let object = |delta| Change::Identities(delta);
    let labels = rig.engine.table.endpoints()[&POD].labels.clone();
    rig.engine
        .change(object(Delta::Apply(crate::state::IdentityObject {
            id: NumericIdentity(identity),
            labels,
        })));
    rig.pass();
    rig.engine.change(object(Delta::Delete(ObjectKey::new(
        "",
        identity.to_string(),
    ))));
    rig.pass();
    assert_eq!(rig.phase(), EndpointPhase::Ready, "it keeps it meanwhile");
    rig.answer().await;
    rig.pass();
    assert_eq!(
        rig.status.borrow().endpoints["default/deathstar"].identity,
        identity
    );
}
