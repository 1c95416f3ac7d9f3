//! Snapshots of the small world, and a proxy that runs from them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use weft_api::node::listener::Mode;
use weft_api::node::{
    AddressIdentity, Callout, Cluster, ClusterEndpoint, Direction, Endpoint, Filter, FilterChain,
    FilterReport, FilterStep, HttpRule, Identity, Listener, Node, PeerRule, PortPolicy, RuleRef,
    Settings, Snapshot,
};
use weft_proxy::app::{self, Options, Origin, Proxy};
use weft_proxy::telemetry::spans::Otlp;
use weft_wasm_host::Compiler;
use weft_wasm_host::budget::BudgetLimits;

use super::agent::Agent;
use super::guests::digest;
use super::within;

pub const TIEFIGHTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub const DEATHSTAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Outside of the cluster.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

pub const TIEFIGHTER_IDENTITY: u32 = 1623;
pub const DEATHSTAR_IDENTITY: u32 = 47013;

fn address(ip: Ipv4Addr, identity: u32) -> AddressIdentity {
    AddressIdentity {
        cidr: ip.to_string(),
        identity,
    }
}

/// What policy there is.
#[derive(Clone, Default)]
pub struct Rules {
    pub egress: Option<Vec<HttpRule>>,
    pub ingress: Option<Vec<HttpRule>>,
    pub settings: Settings,
    /// The server speaks HTTP/2 too.
    pub http2: bool,
    pub version: Option<String>,
    pub filters: Vec<Filter>,
    /// Where they are attached, of the source's and of the destination's pod.
    pub egress_chain: Vec<FilterStep>,
    pub ingress_chain: Vec<FilterStep>,
    pub more_chains: Vec<FilterChain>,
    pub callouts: Vec<Callout>,
    /// What the agent has for filters.
    pub modules: Vec<Vec<u8>>,
    /// Some filter is not to come into force.
    pub refused_filters: bool,
    pub more_policies: Vec<PortPolicy>,
    /// What filters may use; so much that it is not in the way, if nothing is
    /// said: tests are built to be found fault with, and not to be quick.
    pub budget: Option<BudgetLimits>,
}

pub fn rule(method: &str, path: &str) -> HttpRule {
    HttpRule {
        method: method.into(),
        path: path.into(),
        ..Default::default()
    }
}

/// The rules of the story: tiefighters may land, in both directions.
pub fn landing() -> Rules {
    let rules = vec![rule("POST", "/v1/request-landing")];
    Rules {
        egress: Some(rules.clone()),
        ingress: Some(rules),
        ..Default::default()
    }
}

/// Everything passes, and everything is seen.
pub fn open() -> Rules {
    Rules {
        ingress: Some(Vec::new()),
        ..Default::default()
    }
}

impl Rules {
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.into());
        self
    }

    pub fn snapshot(&self, server: SocketAddr) -> Snapshot {
        let policy = |endpoint_id, direction: Direction, rules: &Option<Vec<HttpRule>>| {
            rules.clone().map(|http| PortPolicy {
                endpoint_id,
                direction: direction.into(),
                port_first: server.port().into(),
                port_last: server.port().into(),
                rules: vec![PeerRule {
                    http,
                    rule: Some(RuleRef {
                        kind: "CiliumNetworkPolicy".into(),
                        namespace: "default".into(),
                        name: "rule1".into(),
                        rule: format!("{}[0]", direction.as_str_name().to_lowercase()),
                    }),
                    ..Default::default()
                }],
            })
        };
        let endpoint = |id, pod: &str, ip: Ipv4Addr, identity| Endpoint {
            id,
            namespace: "default".into(),
            pod: pod.into(),
            ip: ip.to_string(),
            identity,
        };
        let identity = |id, name: &str| Identity {
            id,
            labels: vec![
                format!("k8s:app.kubernetes.io/name={name}"),
                format!("k8s:class={name}"),
            ],
        };
        Snapshot {
            version: self.version.clone().unwrap_or_else(|| "1".into()),
            node: Some(Node {
                name: "kind-worker".into(),
                ip: "127.0.0.1".into(),
                cluster: "default".into(),
                private_ports: Vec::new(),
            }),
            listeners: vec![Listener {
                name: "http".into(),
                address: "127.0.0.1:0".into(),
                mode: Some(Mode::Cluster("deathstar".into())),
            }],
            endpoints: vec![
                endpoint(1, "tiefighter", TIEFIGHTER, TIEFIGHTER_IDENTITY),
                endpoint(2, "deathstar-1", DEATHSTAR, DEATHSTAR_IDENTITY),
            ],
            identities: vec![
                identity(TIEFIGHTER_IDENTITY, "tiefighter"),
                identity(DEATHSTAR_IDENTITY, "deathstar"),
            ],
            addresses: vec![
                address(TIEFIGHTER, TIEFIGHTER_IDENTITY),
                address(DEATHSTAR, DEATHSTAR_IDENTITY),
            ],
            policies: [
                policy(1, Direction::Egress, &self.egress),
                policy(2, Direction::Ingress, &self.ingress),
            ]
            .into_iter()
            .flatten()
            .chain(self.more_policies.iter().cloned())
            .collect(),
            clusters: vec![Cluster {
                name: "deathstar".into(),
                connect_timeout: None,
                http2: self.http2,
                endpoints: vec![ClusterEndpoint {
                    address: server.to_string(),
                }],
            }],
            settings: Some(self.settings.clone()),
            filters: self.filters.clone(),
            chains: self.chains(server.port()),
            callouts: self.callouts.clone(),
        }
    }
}

impl Rules {
    fn chains(&self, port: u16) -> Vec<FilterChain> {
        let chain = |endpoint_id, direction: Direction, steps: &[FilterStep]| {
            (!steps.is_empty()).then(|| FilterChain {
                endpoint_id,
                direction: direction.into(),
                port_first: port.into(),
                port_last: port.into(),
                steps: steps.to_vec(),
            })
        };
        let chains = [
            chain(1, Direction::Egress, &self.egress_chain),
            chain(2, Direction::Ingress, &self.ingress_chain),
        ];
        let more = self.more_chains.iter().cloned();
        chains.into_iter().flatten().chain(more).collect()
    }
}

/// A proxy, its agent, and where they live.
pub struct World {
    pub proxy: Proxy,
    pub agent: Agent,
    pub address: SocketAddr,
    pub server: SocketAddr,
    /// Sockets and state; removed with the world.
    _directory: tempfile::TempDir,
}

impl World {
    pub async fn new(server: SocketAddr, rules: &Rules) -> Self {
        Self::with_spans(server, rules, None).await
    }

    pub async fn with_spans(server: SocketAddr, rules: &Rules, otlp: Option<Otlp>) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let snapshot = rules.snapshot(server);
        let version = snapshot.version.clone();
        let mut agent = Agent::start(directory.path(), Some(snapshot));
        offer(&agent, rules);
        let proxy = start_with(&directory, &agent, otlp, rules.budget).await;
        let answer = agent.answer(&version).await;
        assert_eq!(answer.error, "", "snapshot refused");
        loaded(&mut agent, rules).await;
        let address = proxy.status().listeners["http"];
        Self {
            proxy,
            agent,
            address,
            server,
            _directory: directory,
        }
    }

    /// Has the agent offer other rules, and what their filters need.
    pub async fn offer(&mut self, rules: &Rules) {
        offer(&self.agent, rules);
        self.agent.send(rules.snapshot(self.server));
        let version = rules.snapshot(self.server).version;
        let answer = self.agent.answer(&version).await;
        assert_eq!(answer.error, "", "snapshot refused");
    }

    /// Waits until a metric has this value.
    pub async fn until_metric(&self, metric: &str, value: u64) {
        let wanted = format!("{metric} {value}\n");
        let name = metric.split('{').next().unwrap_or(metric);
        let begun = Instant::now();
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let metrics = self.proxy.metrics().expect("text");
            if metrics.contains(&wanted) {
                return;
            }
            let there: Vec<_> = metrics
                .lines()
                .filter(|line| line.starts_with(name))
                .collect();
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{wanted}{there:#?}"
            );
        }
    }

    /// Puts other rules in force.
    pub async fn apply(&self, rules: &Rules) {
        within(self.proxy.apply(rules.snapshot(self.server)))
            .await
            .expect("snapshot in force");
    }
}

fn offer(agent: &Agent, rules: &Rules) {
    for module in &rules.modules {
        agent.offer_module(&digest(module), module.clone());
    }
}

/// Waits until the filters of these rules are in force, those whose module is
/// there, or known not to be.
async fn loaded(agent: &mut Agent, rules: &Rules) {
    if rules.modules.is_empty() {
        return;
    }
    let done = |report: &FilterReport| match rules.refused_filters {
        true => !report.error.is_empty(),
        false => report.configured,
    };
    agent
        .reports(|reports| !reports.filters.is_empty() && reports.filters.iter().all(done))
        .await;
}

pub async fn start(directory: &tempfile::TempDir, agent: &Agent, otlp: Option<Otlp>) -> Proxy {
    start_with(directory, agent, otlp, None).await
}

async fn start_with(
    directory: &tempfile::TempDir,
    agent: &Agent,
    otlp: Option<Otlp>,
    budget: Option<BudgetLimits>,
) -> Proxy {
    start_as(options(directory, agent, otlp, budget)).await
}

pub async fn start_as(options: Options) -> Proxy {
    app::start(options).await.expect("the proxy starts")
}

/// How a proxy is started.
pub fn options(
    directory: &tempfile::TempDir,
    agent: &Agent,
    otlp: Option<Otlp>,
    budget: Option<BudgetLimits>,
) -> Options {
    Options {
        node: Some("kind-worker".into()),
        origin: Origin::Agent {
            socket: agent.socket.clone(),
            state: Some(directory.path().join("state")),
        },
        workers: 1,
        filters: budget.unwrap_or(BudgetLimits {
            reserve: Duration::from_secs(600),
            ..BudgetLimits::default()
        }),
        admin_socket: Some(directory.path().join("admin.sock")),
        compiler: Compiler::Apart(env!("CARGO_BIN_EXE_weft-proxy").into()),
        admin_listen: None,
        otlp,
    }
}

/// Settings with short deadlines, for tests that wait for them.
pub fn impatient() -> Settings {
    let milliseconds = |count: u64| {
        let duration = Duration::from_millis(count);
        Some(pbjson_types::Duration {
            seconds: i64::try_from(duration.as_secs()).expect("small"),
            nanos: i32::try_from(duration.subsec_nanos()).expect("small"),
        })
    };
    Settings {
        request_timeout: milliseconds(300),
        idle_timeout: milliseconds(600),
        header_timeout: milliseconds(300),
        detect_timeout: milliseconds(200),
        ..Default::default()
    }
}
