//! What this node says of its filters, in an object of its own: what the proxy
//! reports, and what keeps filters from reaching it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use weft_api::k8s::filter::{FilterReport, NodeFilter};
use weft_api::node;
use weft_core::filter::{FilterKey, FilterKind, FilterSpec};

use super::objects::InForce;
use crate::kube::filter_report_resource;

/// Changes are gathered for this long: what settles at once is told once.
const GATHER: Duration = Duration::from_secs(1);
/// First and longest wait while the API does not take it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Who writes.
const MANAGER: &str = "weft-agent";
/// Most filters of a report, and most bytes of what is said of one: all of it has
/// to fit into an object.
const MOST: usize = 1000;
const LONGEST: usize = 512;

/// Puts together what is known of filters.
#[derive(Default)]
pub struct Reporter {
    /// What the proxy said last.
    version: String,
    said: BTreeMap<FilterKey, node::FilterReport>,
    /// What it was asked for, and the version of which it spoke then: what it says
    /// of that version is not about this.
    asked: BTreeMap<FilterKey, Asked>,
    /// What was stated last.
    stated: BTreeMap<FilterKey, NodeFilter>,
}

struct Asked {
    spec: Arc<FilterSpec>,
    version: String,
}

impl Reporter {
    /// Takes in what the proxy says; nothing when it is gone.
    pub fn hear(&mut self, reports: Option<&node::FilterReports>) {
        self.version.clear();
        self.said.clear();
        let Some(reports) = reports else { return };
        self.version.clone_from(&reports.version);
        for report in &reports.filters {
            if let Some(kind) = FilterKind::from_name(&report.kind) {
                let key = FilterKey {
                    kind,
                    namespace: report.namespace.as_str().into(),
                    name: report.name.as_str().into(),
                };
                self.said.insert(key, report.clone());
            }
        }
    }

    /// What the node says of these filters.
    pub fn state<'f>(&mut self, filters: impl Iterator<Item = &'f InForce>) -> FilterReport {
        let mut asked = BTreeMap::new();
        let mut stated = BTreeMap::new();
        for one in filters.take(MOST) {
            let spec = &one.filter.spec;
            let before = self.asked.remove(&one.key);
            let before = before.filter(|before| before.spec == *spec);
            let now = before.unwrap_or_else(|| Asked {
                spec: spec.clone(),
                version: self.version.clone(),
            });
            stated.insert(one.key.clone(), self.statement(one, &now));
            asked.insert(one.key.clone(), now);
        }
        self.asked = asked;
        self.stated = stated;
        FilterReport {
            filters: self.stated.values().cloned().collect(),
        }
    }

    fn statement(&self, one: &InForce, asked: &Asked) -> NodeFilter {
        let said = self.said.get(&one.key);
        let answered = said.filter(|_| self.version != asked.version);
        let mut statement = match (answered, self.stated.get(&one.key)) {
            (Some(said), _) => NodeFilter {
                loaded: said.loaded,
                configured: said.configured,
                digest: said.sha256.clone(),
                error: shortened(&said.error),
                quarantined_until: said.quarantined_until.as_ref().and_then(time),
                observed_generation: one.generation,
                ..NodeFilter::default()
            },
            // It will answer.
            (None, Some(before)) if said.is_some() => before.clone(),
            (None, _) => NodeFilter {
                error: "the proxy has not loaded it yet".to_owned(),
                observed_generation: one.generation,
                ..NodeFilter::default()
            },
        };
        if statement.error.is_empty()
            && let Some(warning) = &one.warning
        {
            statement.error = shortened(warning);
        }
        // The newest version is not what the proxy has.
        if let Some(problem) = &one.problem {
            statement.loaded = false;
            statement.configured = false;
            statement.error = shortened(problem);
        }
        one.key.kind.as_str().clone_into(&mut statement.kind);
        statement.namespace = one.key.namespace.to_string();
        statement.name = one.key.name.to_string();
        statement
    }
}

fn time(time: &pbjson_types::Timestamp) -> Option<Time> {
    let time = Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(Time(time))
}

fn shortened(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push_str("...");
    }
    text
}

/// Writes reports, the newest only, until `stop` is cancelled.
pub async fn write(
    client: Client,
    node: String,
    mut reports: watch::Receiver<Option<FilterReport>>,
    stop: CancellationToken,
) {
    let mut writer = Writer {
        reports: Api::all_with(client.clone(), &filter_report_resource()),
        nodes: Api::all(client),
        node,
        owner: None,
    };
    let mut wait = RETRY_FIRST;
    let write = async {
        reports.mark_changed();
        while reports.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            loop {
                let Some(report) = reports.borrow_and_update().clone() else {
                    break;
                };
                match writer.write(&report).await {
                    Ok(()) => {
                        wait = RETRY_FIRST;
                        break;
                    }
                    Err(error) if wait < RETRY_LAST => {
                        debug!(%error, "what is said of filters was not written, trying again");
                    }
                    Err(error) => {
                        info!(%error, "what is said of filters cannot be written, still trying");
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LAST);
            }
        }
    };
    stop.run_until_cancelled(write).await;
}

struct Writer {
    reports: Api<DynamicObject>,
    nodes: Api<Node>,
    node: String,
    owner: Option<OwnerReference>,
}

impl Writer {
    async fn write(&mut self, report: &FilterReport) -> Result<(), kube::Error> {
        if report.filters.is_empty() {
            let params = DeleteParams::default();
            return match self.reports.delete(&self.node, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            };
        }
        // With its node it goes.
        if self.owner.is_none() {
            let node = self.nodes.get_opt(&self.node).await?;
            self.owner = node.map(|node| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name_any(),
                uid: node.uid().unwrap_or_default(),
                ..OwnerReference::default()
            });
        }
        let resource = filter_report_resource();
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": self.node, "ownerReferences": self.owner.as_slice() },
            "filters": report.filters,
        });
        let params = PatchParams::apply(MANAGER).force();
        let object = Patch::Apply(&object);
        let written = self.reports.patch(&self.node, &params, &object).await;
        written.map(drop)
    }
}

#[cfg(test)]
mod tests {
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
        reporter.hear(Some(&said("v1", true, "")));
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
    fn a_registry_that_is_away_is_told_and_takes_nothing_back() {
        let mut reporter = Reporter::default();
        let mut one = in_force(1, 1, None);
        one.warning = Some("oci://a: gone".to_owned());
        state(&mut reporter, &one);
        reporter.hear(Some(&said("v1", true, "")));
        let told = state(&mut reporter, &one);
        assert!(told.loaded && told.configured);
        assert_eq!(told.error, "oci://a: gone");
    }

    #[test]
    fn a_version_that_is_not_in_force_is_not_loaded_whatever_the_proxy_has() {
        let mut reporter = Reporter::default();
        let held = in_force(1, 1, Some("oci://a: gone"));
        reporter.hear(Some(&said("v1", true, "")));
        state(&mut reporter, &held);
        reporter.hear(Some(&said("v2", true, "")));
        let told = state(&mut reporter, &held);
        assert!(!told.loaded && !told.configured);
        assert_eq!(
            (&*told.error, told.observed_generation),
            ("oci://a: gone", 1)
        );
        assert_eq!(told.digest, "07".repeat(32), "what serves");
    }
}
