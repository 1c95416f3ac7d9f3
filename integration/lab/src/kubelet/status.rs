//! A pod's status as the API shows it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::record::{ContainerState, Ended, Phase, PodState};

/// Where a pod is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its address; none before its network exists.
    pub ip: Option<String>,
    /// Address of its node.
    pub host_ip: String,
    /// When its task began.
    pub started: Timestamp,
}

/// The status that follows from what runs; conditions keep the time of their
/// last change from the previous status.
pub(super) fn of(pod: &Pod, place: &Place, state: &PodState, now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let containers = &state.containers;
    let ready = !containers.is_empty() && containers.iter().all(ContainerState::is_ready);
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let known = before.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = known
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(since.unwrap_or(Time(now))),
            ..PodCondition::default()
        }
    };
    let mut conditions: Vec<_> = before
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.type_ == "PodScheduled")
        .cloned()
        .collect();
    conditions.push(condition("Initialized", true));
    conditions.push(condition("ContainersReady", ready));
    conditions.push(condition("Ready", ready));
    PodStatus {
        phase: Some(phase(containers).to_owned()),
        conditions: Some(conditions),
        host_ip: Some(place.host_ip.clone()),
        host_ips: Some(vec![HostIP {
            ip: place.host_ip.clone(),
        }]),
        pod_ip: place.ip.clone(),
        pod_ips: place.ip.clone().map(|ip| vec![PodIP { ip }]),
        start_time: Some(Time(place.started)),
        container_statuses: Some(containers.iter().map(container_status).collect()),
        message: state.problem.clone(),
        qos_class: before.qos_class,
        ..PodStatus::default()
    }
}

fn phase(containers: &[ContainerState]) -> &'static str {
    let ended = |c: &ContainerState| match c.phase {
        Phase::Ended(ended) => Some(ended.code),
        _ => None,
    };
    let codes: Option<Vec<_>> = containers.iter().map(ended).collect();
    match codes {
        Some(codes) if !codes.is_empty() => match codes.iter().all(|code| *code == 0) {
            true => "Succeeded",
            false => "Failed",
        },
        _ if containers
            .iter()
            .any(|c| c.is_running() || c.last.is_some()) =>
        {
            "Running"
        }
        _ => "Pending",
    }
}

fn container_status(container: &ContainerState) -> ContainerStatus {
    let id = format!("weft-lab://{}", container.cgroup.display());
    let mut state = ApiState::default();
    match &container.phase {
        Phase::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: (!message.is_empty()).then(|| message.clone()),
            });
        }
        Phase::Running { since, .. } => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
        }
        Phase::Ended(ended) => state.terminated = Some(terminated(ended)),
    }
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: container.image.clone(),
        container_id: Some(id),
        ready: container.is_ready(),
        started: Some(container.is_running()),
        restart_count: container.restarts.cast_signed(),
        state: Some(state),
        last_state: container
            .last
            .filter(|_| container.restarts > 0)
            .map(|ended| ApiState {
                terminated: Some(terminated(&ended)),
                ..ApiState::default()
            }),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: i32::from(ended.code),
        reason: Some(
            if ended.code == 0 {
                "Completed"
            } else {
                "Error"
            }
            .to_owned(),
        ),
        started_at: Some(Time(ended.started)),
        finished_at: Some(Time(ended.finished)),
        ..ContainerStateTerminated::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(phase: Phase) -> ContainerState {
        ContainerState {
            name: "c".to_owned(),
            image: "x".to_owned(),
            phase,
            restarts: 0,
            last: None,
            env: Vec::new(),
            cgroup: "/c".into(),
        }
    }

    fn ended(code: u8) -> Phase {
        Phase::Ended(Ended {
            code,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        })
    }

    fn running(ready: bool) -> Phase {
        let since = Timestamp::UNIX_EPOCH;
        Phase::Running { since, ready }
    }

    fn status(pod: &Pod, phases: Vec<Phase>, now: i64) -> PodStatus {
        let place = Place {
            ip: Some("10.244.1.10".to_owned()),
            host_ip: "172.18.0.2".to_owned(),
            started: Timestamp::UNIX_EPOCH,
        };
        let state = PodState {
            containers: phases.into_iter().map(container).collect(),
            ..PodState::default()
        };
        of(pod, &place, &state, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn phases_follow_the_containers() {
        let pod = Pod::default();
        let phase = |phases| status(&pod, phases, 0).phase.unwrap();
        let waiting = || Phase::Waiting {
            reason: "ContainerCreating",
            message: String::new(),
        };
        assert_eq!(phase(vec![waiting()]), "Pending");
        assert_eq!(phase(vec![running(false), waiting()]), "Running");
        assert_eq!(phase(vec![ended(0), ended(0)]), "Succeeded");
        assert_eq!(phase(vec![ended(0), ended(1)]), "Failed");
    }

    #[test]
    fn a_condition_remembers_when_it_changed() {
        let mut pod = Pod::default();
        let at = |status: &PodStatus| {
            let ready = status.conditions.iter().flatten();
            let ready = ready.clone().find(|c| c.type_ == "Ready").unwrap();
            let time = ready.last_transition_time.clone().unwrap();
            (ready.status.clone(), time.0.as_second())
        };
        let first = status(&pod, vec![running(true), running(false)], 10);
        assert_eq!(at(&first), ("False".to_owned(), 10));
        pod.status = Some(first);
        let second = status(&pod, vec![running(true), running(true)], 20);
        assert_eq!(at(&second), ("True".to_owned(), 20));
        pod.status = Some(second);
        let third = status(&pod, vec![running(true), running(true)], 30);
        assert_eq!(at(&third), ("True".to_owned(), 20));
    }
}
