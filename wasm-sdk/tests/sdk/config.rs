//! Configuration, and what a filter says of itself.

use weft_sdk::prelude::*;
use weft_sdk::testing::{TestHost, TestRequest, TestResponse};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many at most.
    limit: u8,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize, JsonSchema)]
struct Rule {
    #[expect(dead_code, reason = "only read")]
    name: String,
}

struct Configured;

#[filter]
impl Filter for Configured {
    const NAME: &'static str = "configured";
    type Config = Config;

    fn new(config: Config, plugin: &Plugin) -> Result<Self> {
        if config.limit == 0 {
            return Err(Error::new(
                "limit: 0 lets nothing through; leave the filter out instead",
            ));
        }
        plugin.gauge("rules", &[])?.set(config.rules.len() as f64);
        Ok(Self)
    }

    async fn on_response(self: Rc<Self>, _response: Response) -> Result<Flow> {
        Ok(Flow::Continue)
    }
}

fn refused(json: &str) -> String {
    TestHost::<Configured>::new(json)
        .err()
        .expect("it is refused")
}

#[test]
fn an_error_begins_with_the_field() {
    assert!(refused(r#"{"limit": 300}"#).starts_with("limit: "));
    let nested = refused(r#"{"limit": 1, "rules": [{"name": "a"}, {"name": 1}]}"#);
    assert!(nested.starts_with("rules[1].name: "), "{nested}");
    assert!(refused("{}").contains("limit"));
    assert!(refused(r#"{"limit": 1, "limti": 1}"#).contains("limti"));
    assert!(refused("").contains("limit"), "nothing is an empty object");
    assert!(refused(r#"{"limit": 1} x"#).contains("trailing"));
    assert!(refused("{").contains("EOF"));
}

#[test]
fn the_filter_refuses_what_the_schema_lets_through() {
    assert!(refused(r#"{"limit": 0}"#).starts_with("limit: 0 lets nothing"));
}

#[test]
fn what_new_counts_is_there() {
    let host = TestHost::<Configured>::new(r#"{"limit": 1, "rules": [{"name": "a"}]}"#)
        .expect("a configuration");
    assert!((host.metric("rules", &[]) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_filter_describes_itself() {
    let host = TestHost::<Configured>::new(r#"{"limit": 1}"#).expect("a configuration");
    let manifest = host.describe();
    assert_eq!(manifest.name, "configured");
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    assert!(manifest.sdk.starts_with("weft-sdk "));
    assert_eq!(manifest.interests, Interests::of_methods(false, true));
    let schema: serde_json::Value =
        serde_json::from_str(&manifest.config_schema).expect("the schema is JSON");
    assert_eq!(schema["properties"]["limit"]["maximum"], 255);
    assert_eq!(
        schema["properties"]["limit"]["description"],
        "How many at most."
    );
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["limit"]));
}

/// Marks requests, and responses if it is told to.
struct Marking {
    responses: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Marks {
    responses: bool,
}

#[filter]
impl Filter for Marking {
    const NAME: &'static str = "marking";
    type Config = Marks;

    fn new(config: Marks, _plugin: &Plugin) -> Result<Self> {
        Ok(Self {
            responses: config.responses,
        })
    }

    fn interests(&self) -> Interests {
        Interests::of_methods(true, self.responses)
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        request.keep(1_u8);
        request.headers().set("x-mark", "1")?;
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        let kept = response.kept::<u8>().is_some();
        response.headers().set("x-mark", kept.to_string())?;
        Ok(Flow::Continue)
    }
}

#[test]
fn what_the_configuration_leaves_alone_is_not_shown() {
    for (json, mark) in [
        (r#"{"responses": true}"#, Some("true")),
        (r#"{"responses": false}"#, None),
    ] {
        let host = TestHost::<Marking>::new(json).expect("a configuration");
        let exchange = host.send(TestRequest::get("/"));
        assert_eq!(exchange.request().header("x-mark").as_deref(), Some("1"));
        exchange.respond(TestResponse::new(200));
        let response = exchange.response();
        assert_eq!(response.header("x-mark").as_deref(), mark, "{json}");
    }
}
