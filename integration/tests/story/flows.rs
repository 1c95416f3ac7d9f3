//! HTTP flows by request.

use serde_json::Value;
use weft_integration::lab::Lab;

/// Names of the Death Star's replicas, as a ship sees them.
pub struct Replicas {
    /// The one on the ship's node.
    pub same: String,
    /// The one on the other node.
    pub across: String,
}

impl Replicas {
    pub fn of(lab: &Lab, ship: &str) -> Self {
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap().to_owned();
        let own = node(&lab.get("pod", ship).unwrap());
        let stars = lab.pods("class=deathstar").unwrap();
        let name = |there: bool| {
            let star = stars.iter().find(|star| (node(star) == own) == there);
            star.expect("replicas on both nodes")["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        Self {
            same: name(true),
            across: name(false),
        }
    }
}

/// One request with everything that was seen of it.
pub struct Exchange {
    pub id: String,
    pub star: String,
    pub flows: Vec<Value>,
}

pub fn direction_and_type(flow: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "{} {}",
        word(&flow["traffic_direction"]),
        word(&flow["l7"]["type"])
    )
}

/// Asks until requests to both replicas are seen as often as expected, then
/// once more, so that nothing of the first could still be on its way. Returns
/// one request for each replica.
pub fn on_both_nodes(
    lab: &Lab,
    replicas: &Replicas,
    expected: &[&str],
    ask: impl Fn(),
) -> Vec<Exchange> {
    let last = [
        "--namespace",
        "default",
        "--protocol",
        "http",
        "--last",
        "2000",
    ];
    let before: Vec<_> = exchanges(&lab.flows(&last).unwrap())
        .into_iter()
        .map(|e| e.id)
        .collect();
    let whole = |flows: &[Value], star: &str, count: usize| -> Option<Exchange> {
        let new = exchanges(flows)
            .into_iter()
            .filter(|e| !before.contains(&e.id) && e.star == star);
        let mut whole = new.filter(|e| e.flows.len() >= expected.len());
        // The first of so many.
        let first = whole.next();
        match whole.count() + 1 >= count {
            true => first,
            false => None,
        }
    };
    lab.until_flows(&last, |flows| {
        let found = [&replicas.same, &replicas.across].map(|star| whole(flows, star, 2));
        let found: Option<Vec<_>> = found.into_iter().collect();
        if found.is_none() {
            ask();
        }
        found
    })
    .unwrap()
}

/// Requests in the order in which they were seen first.
fn exchanges(flows: &[Value]) -> Vec<Exchange> {
    let mut found: Vec<Exchange> = Vec::new();
    for flow in flows {
        let id = header(&flow["l7"]["http"], "X-Request-Id").to_owned();
        match found.iter_mut().find(|exchange| exchange.id == id) {
            Some(exchange) => exchange.flows.push(flow.clone()),
            None => {
                let names = [
                    &flow["source"]["pod_name"],
                    &flow["destination"]["pod_name"],
                ];
                let star = names
                    .into_iter()
                    .filter_map(Value::as_str)
                    .find(|n| n.starts_with("deathstar-"));
                let star = star.unwrap_or_default().to_owned();
                found.push(Exchange {
                    id,
                    star,
                    flows: vec![flow.clone()],
                });
            }
        }
    }
    found
}

pub fn header_names(http: &Value) -> Vec<&str> {
    headers(http)
        .filter_map(|header| header["key"].as_str())
        .collect()
}

pub fn header<'a>(http: &'a Value, name: &str) -> &'a str {
    let found = headers(http).find(|header| header["key"] == name);
    found
        .and_then(|header| header["value"].as_str())
        .unwrap_or_default()
}

fn headers(http: &Value) -> impl Iterator<Item = &Value> {
    http["headers"].as_array().into_iter().flatten()
}
