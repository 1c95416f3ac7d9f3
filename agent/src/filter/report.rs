//! What this node says of its filters, in an object of its own: what the proxy
//! reports, and what keeps filters from reaching it.

use std::collections::{BTreeMap, VecDeque};
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
use weft_core::filter::{FilterKey, FilterKind};

use super::Published;
use super::objects::InForce;
use crate::kube::filter_report_resource;
use crate::plan::room::{Claim, give_way};

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
/// Snapshots that are remembered; what a proxy says that is further behind is not
/// understood.
const REMEMBERED: usize = 32;
const LONGEST: usize = 512;
/// Why a filter is not loaded of which the proxy says nothing else.
const COMPILING: &str = "the proxy takes in and compiles its module, or waits to do so";

/// Puts together what is known of filters.
#[derive(Default)]
pub struct Reporter {
    /// What the proxy said last.
    version: String,
    said: BTreeMap<FilterKey, node::FilterReport>,
    /// The last snapshots: of which versions of filters it spoke.
    published: VecDeque<Published>,
    /// What was stated last.
    stated: BTreeMap<FilterKey, NodeFilter>,
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

    /// Takes in what a snapshot has. The same version again is the same for the
    /// proxy, which says nothing new of it then.
    pub fn published(&mut self, published: Published) {
        self.published
            .retain(|one| one.version != published.version);
        if self.published.len() == REMEMBERED {
            self.published.pop_front();
        }
        self.published.push_back(published);
    }

    /// What the node says of these filters; where they are too many, of an equal
    /// share of each namespace's.
    pub fn state<'f>(&mut self, filters: impl Iterator<Item = &'f InForce>) -> FilterReport {
        let filters: Vec<&InForce> = filters.collect();
        let claims = filters.iter().map(|one| Claim {
            of: &one.key,
            tenant: &one.key.namespace,
            size: 1,
            new: false,
        });
        let left_out = give_way(&claims.collect::<Vec<_>>(), MOST);
        let told = filters.iter().filter(|one| !left_out.contains(&one.key));
        let stated = told.map(|one| (one.key.clone(), self.statement(one)));
        self.stated = stated.collect();
        FilterReport {
            filters: self.stated.values().cloned().collect(),
        }
    }

    fn statement(&self, one: &InForce) -> NodeFilter {
        let said = self.said.get(&one.key);
        let mut published = self.published.iter();
        let about = published.find(|published| published.version == self.version);
        let about = about.and_then(|published| published.revisions.get(&one.key));
        let answered = said.filter(|_| about == Some(&one.filter.revision));
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
        if statement.error.is_empty() && !statement.loaded {
            COMPILING.clone_into(&mut statement.error);
        }
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
mod tests;
