//! Filters, where they are attached, and whom they may ask.

use std::sync::Arc;
use std::time::Duration;

use weft_api::node as wire;
use weft_core::filter::{
    Attached, Backend, Callout, ChainSpec, FailPolicy, FilterKey, FilterKind, FilterLimits,
    FilterSpec, Isolation, ModuleDigest, OnError, Phase, Plugin,
};
use weft_core::model::EndpointId;

use super::{Result, direction, each, port, refused, socket_address};
use crate::settings;

/// Reads a filter.
pub(super) fn filter(wire: &wire::Filter, at: &str) -> Result<Arc<FilterSpec>> {
    let kind = FilterKind::from_name(&wire.kind)
        .ok_or_else(|| refused(format!("{at}.kind"), "is not known here"))?;
    if wire.name.is_empty() {
        return Err(refused(format!("{at}.name"), "is missing"));
    }
    let module = match wire.sha256.as_str() {
        "" => None,
        text => Some(ModuleDigest::parse(text).ok_or_else(|| {
            refused(
                format!("{at}.sha256"),
                "is no digest of 64 hexadecimal digits",
            )
        })?),
    };
    let plugin = wire.plugin.as_ref();
    Ok(Arc::new(FilterSpec {
        key: FilterKey {
            kind,
            namespace: wire.namespace.as_str().into(),
            name: wire.name.as_str().into(),
        },
        module,
        problem: (!wire.problem.is_empty()).then(|| wire.problem.as_str().into()),
        config: Arc::from(&wire.config[..]),
        limits: limits(wire.limits.as_ref(), &format!("{at}.limits"))?,
        on_error: on_error(wire.on_error.as_ref(), &format!("{at}.on_error"))?,
        isolation: match wire.isolated {
            true => Isolation::Request,
            false => Isolation::Worker,
        },
        callouts: wire
            .callouts
            .iter()
            .map(|one| one.as_str().into())
            .collect(),
        plugin: plugin.map(self::plugin).unwrap_or_default(),
    }))
}

fn plugin(wire: &wire::FilterPlugin) -> Plugin {
    Plugin {
        name: wire.name.as_str().into(),
        root_id: wire.root_id.as_str().into(),
        vm_id: wire.vm_id.as_str().into(),
        vm_config: wire.vm_config.as_slice().into(),
    }
}

fn limits(wire: Option<&wire::FilterLimits>, at: &str) -> Result<FilterLimits> {
    let Some(wire) = wire else {
        return Ok(FilterLimits::default());
    };
    let duration =
        |value: &Option<pbjson_types::Duration>, field: &str| -> Result<Option<Duration>> {
            let Some(value) = value else { return Ok(None) };
            let duration = settings::duration(value)
                .ok_or_else(|| refused(format!("{at}.{field}"), "must be longer than zero"))?;
            Ok(Some(duration))
        };
    Ok(FilterLimits {
        deadline: duration(&wire.deadline, "deadline")?,
        start_deadline: duration(&wire.start_deadline, "start_deadline")?,
        memory: wire.memory,
        contexts: wire.contexts,
        held_body: wire.held_body,
        fetches_per_context: wire.fetches_per_context,
        fetch_timeout: duration(&wire.fetch_timeout, "fetch_timeout")?,
        fetch_body: wire.fetch_body,
    })
}

fn on_error(wire: Option<&wire::FilterOnError>, at: &str) -> Result<OnError> {
    let Some(wire) = wire else {
        return Ok(OnError::default());
    };
    // What a newer agent knows must not be read as another policy.
    let policy = |value: i32, field: &str| match wire::FailPolicy::try_from(value) {
        Ok(wire::FailPolicy::Closed) => Ok(FailPolicy::Closed),
        Ok(wire::FailPolicy::Open) => Ok(FailPolicy::Open),
        Err(_unknown) => Err(refused(format!("{at}.{field}"), "is not known here")),
    };
    Ok(OnError {
        load: policy(wire.load, "load")?,
        config: policy(wire.config, "config")?,
        trap: policy(wire.trap, "trap")?,
        timeout: policy(wire.timeout, "timeout")?,
    })
}

/// Reads where filters are attached.
pub(super) fn chain(wire: &wire::FilterChain, at: &str) -> Result<ChainSpec> {
    Ok(ChainSpec {
        endpoint: EndpointId(wire.endpoint_id),
        direction: direction(wire.direction(), at)?,
        first: port(wire.port_first, at, "port_first")?,
        last: port(wire.port_last, at, "port_last")?,
        steps: wire
            .steps
            .iter()
            .enumerate()
            .map(|(index, one)| step(one, &format!("{at}.steps[{index}]")))
            .collect::<Result<_>>()?,
    })
}

fn step(wire: &wire::FilterStep, at: &str) -> Result<Attached> {
    let phase = match wire.phase() {
        wire::FilterPhase::BeforePolicy => Phase::BeforePolicy,
        wire::FilterPhase::AfterPolicy => Phase::AfterPolicy,
        wire::FilterPhase::Upstream => Phase::Upstream,
        wire::FilterPhase::Unspecified => {
            return Err(refused(format!("{at}.phase"), "is missing"));
        }
    };
    Ok(Attached {
        phase,
        filter: wire.filter,
    })
}

/// Reads a Service that filters may ask.
pub(super) fn callout(wire: &wire::Callout, at: &str) -> Result<Callout> {
    let backends = each(&wire.backends, "backends", |one, place| {
        let mut from: Vec<_> = one.from.iter().copied().map(EndpointId).collect();
        from.sort_unstable();
        Ok(Backend {
            address: socket_address(&one.address, &format!("{at}.{place}.address"))?,
            from: from.into(),
        })
    })?;
    Ok(Callout {
        service: wire.service.as_str().into(),
        backends: backends.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{filter, wire};

    #[test]
    fn refusals_name_the_field() {
        let field = |change: &dyn Fn(&mut wire::Filter)| {
            let mut wire = wire::Filter {
                kind: "WeftFilter".into(),
                name: "jwt".into(),
                ..Default::default()
            };
            change(&mut wire);
            filter(&wire, "filters[0]").map_err(|error| error.field)
        };
        assert!(field(&|_wire| ()).expect("valid").module.is_none());
        let refused = |change: &dyn Fn(&mut wire::Filter)| field(change).expect_err("refused");
        assert_eq!(
            refused(&|wire| wire.kind = "Other".into()),
            "filters[0].kind"
        );
        assert_eq!(refused(&|wire| wire.name.clear()), "filters[0].name");
        assert_eq!(
            refused(&|wire| wire.sha256 = "12".into()),
            "filters[0].sha256"
        );
        let policy = wire::FilterOnError {
            trap: 7,
            ..Default::default()
        };
        assert_eq!(
            refused(&|wire| wire.on_error = Some(policy)),
            "filters[0].on_error.trap"
        );
    }
}
