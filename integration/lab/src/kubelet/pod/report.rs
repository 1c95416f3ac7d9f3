//! What becomes of a pod, told to the API, to `exec` and to whoever waits.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::record::{ContainerState, Phase, PodState};
use super::super::status;
use super::PodTask;
use crate::state::{ContainerRecord, PodRecord, write_json};

impl PodTask {
    /// A container of which nothing exists yet.
    pub(super) fn blank(&self, spec: &Container) -> ContainerState {
        ContainerState {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            phase: Phase::Waiting {
                reason: "ContainerCreating",
                message: String::new(),
            },
            restarts: 0,
            last: None,
            env: Vec::new(),
            cgroup: self.cgroup().join(&spec.name),
        }
    }

    pub(super) fn take_report(&self, place: usize, container: ContainerState) {
        if let Phase::Running { ready: false, .. } = container.phase {
            let message = format!("Started container {}", container.name);
            self.event("Normal", "Started", &message);
        }
        self.state.send_modify(|state| {
            if let Some(known) = state.containers.get_mut(place) {
                *known = container;
            }
        });
        self.publish();
    }

    pub(super) fn set_phase(&self, place: usize, phase: Phase) {
        self.state.send_modify(|state| {
            if let Some(container) = state.containers.get_mut(place) {
                container.phase = phase;
            }
        });
    }

    pub(super) fn publish_waiting(&self, reason: &'static str, problem: &str) {
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let containers: Vec<_> = containers
            .map(|container| {
                let mut state = self.blank(container);
                let message = problem.to_owned();
                state.phase = Phase::Waiting { reason, message };
                state
            })
            .collect();
        self.state.send_modify(|state| {
            state.containers = containers;
            state.problem = (!problem.is_empty()).then(|| problem.to_owned());
        });
        self.publish();
    }

    /// Tells the API, `exec` and whoever waits what has become of the pod.
    pub(super) fn publish(&self) {
        let store = &self.kubelet.config.store;
        let (namespace, name, uid) = self.id();
        self.state.send_modify(|state| {
            let containers = &state.containers;
            state.ready = !containers.is_empty() && containers.iter().all(ContainerState::is_ready);
        });
        let state = self.state.borrow().clone();
        if let Err(error) = self.write_record(&state) {
            tracing::warn!(%error, namespace, name, "cannot write the pod's record");
        }
        let Ok(current) = store.get::<Pod>(namespace, name) else {
            // Deleted by force: there is nothing to report to.
            return;
        };
        if current.metadata.uid.as_deref() != Some(uid) {
            return;
        }
        let status = status::of(&current, &self.place, &state, Timestamp::now());
        if let Err(error) = store.set_status::<Pod>(namespace, name, &status) {
            tracing::warn!(%error, namespace, name, "cannot write the pod's status");
        }
    }

    fn write_record(&self, state: &PodState) -> std::io::Result<()> {
        let Some(sandbox) = state.sandbox else {
            return Ok(());
        };
        let containers = state.containers.iter().map(|container| ContainerRecord {
            name: container.name.clone(),
            cgroup: container.cgroup.clone(),
            env: container.env.clone(),
        });
        let record = PodRecord {
            sandbox,
            netns: self.netns(),
            containers: containers.collect(),
        };
        write_json(&self.kubelet.config.state.pod_record(self.id().2), &record)
    }

    pub(super) fn event(&self, kind: &str, reason: &str, message: &str) {
        if let Ok(about) = serde_json::to_value(&self.pod) {
            let store = &self.kubelet.config.store;
            store.event(&about, kind, reason, message, "kubelet");
        }
    }
}
