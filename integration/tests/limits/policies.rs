//! Policies that are more than one object, or one pod, may have.

use serde_json::{Value, json};
use weft_integration::pods::policy;
use weft_integration::watch::until;

use crate::world::World;

/// So many prefixes outside of the cluster.
fn prefixes(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("11.{}.{}.0/24", index / 256, index % 256))
        .collect()
}

/// Lets a side in on a port of the server, and prefixes on nine others.
fn wide(side: &str, count: usize) -> Value {
    let mut object = policy("wide", ("app", "http"), ("side", side), &[(8081, None)]);
    let ports: Vec<_> = (9001..9010)
        .map(|port: u16| json!({"port": port.to_string(), "protocol": "TCP"}))
        .collect();
    let rule = json!({"fromCIDR": prefixes(count), "toPorts": [{"ports": ports}]});
    if let Some(rules) = object["spec"]["ingress"].as_array_mut() {
        rules.push(rule);
    }
    object
}

#[test]
fn an_object_over_a_limit_is_refused_and_its_last_good_version_serves() {
    let world = World::policed();
    world.lab.apply(&[wide("stranger", 10)]).unwrap();
    world.until_curl("stranger", 8081, &[], "0\n");
    world.lab.until_valid("wide", true).unwrap();
    // What would let in friends alone, if it were not too much.
    world.lab.apply(&[wide("friend", 2001)]).unwrap();
    let message = world.lab.until_valid("wide", false).unwrap();
    let says = "spec.ingress[1].fromCIDR: the object has 2001 prefixes with their exceptions, \
                more than 2000; name larger prefixes, or make several objects of it";
    assert_eq!(message, says);
    let told = until_event(&world, "PolicyRefused", ("CiliumNetworkPolicy", "wide"));
    assert_eq!(told, says);
    world.until_curl("stranger", 8081, &[], "0\n");
}

/// What an event with this reason says of an object, once there is one.
fn until_event(world: &World, reason: &str, (kind, name): (&str, &str)) -> String {
    until(|| {
        let events = world.lab.lab(&["get", "events", "-o", "json"]).well();
        let events = events.map_err(|error| error.to_string())?;
        let events: Value = serde_json::from_str(&events).map_err(|error| error.to_string())?;
        let wanted = |event: &&Value| {
            let object = &event["involvedObject"];
            event["reason"] == reason && object["kind"] == kind && object["name"] == name
        };
        let mut all = events["items"].as_array().into_iter().flatten();
        match all.find(wanted) {
            Some(event) => Ok(event["message"].as_str().unwrap_or_default().to_owned()),
            None => Err(format!("no such event in {events}")),
        }
    })
    .unwrap()
}

#[test]
fn a_pod_over_its_bound_keeps_what_it_had_and_its_events_say_so() {
    let world = World::policed();
    let status = |pod: &str| {
        let url = format!("http://{}:8081/", world.server);
        world
            .lab
            .exec(pod, &["curl", "-s", "--max-time", "1", &url])
    };
    // 18,000 entries, and 16,384 are what a pod may have.
    world.lab.apply(&[wide("stranger", 2000)]).unwrap();
    let message = until_event(&world, "PolicyOverBounds", ("Pod", "http"));
    assert!(
        message.contains("more than 16384 policy entries")
            && message.contains("CiliumNetworkPolicy default/wide's: 1800"),
        "{message}"
    );
    // The policy is valid, and both what was and what was not allowed stay so.
    world.lab.until_valid("wide", true).unwrap();
    world.until_curl("friend", 8081, &[], "0\n");
    world.until_curl("friend", 8080, &["-X", "POST"], "Access denied");
    let ran = status("stranger");
    assert!(!ran.output.starts_with('0'), "{ran:?}");
    // Permissions that are revoked go although new ones find no place.
    let [l7] = [policy(
        "http",
        ("app", "http"),
        ("side", "friend"),
        &[(8080, Some("GET"))],
    )];
    world.lab.apply(&[l7]).unwrap();
    until(|| match status("friend") {
        ran if ran.output.starts_with('0') => Err(format!("{ran:?}")),
        _ => Ok(()),
    })
    .unwrap();
    // Within the bound all of it is in force.
    world.lab.apply(&[wide("stranger", 1000)]).unwrap();
    world.until_curl("stranger", 8081, &[], "0\n");
}
