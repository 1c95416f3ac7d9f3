//! The example of this filter has a configuration that the filter takes.

use filter_proxy_headers::Config;
use serde_json::Value;

#[test]
fn the_example_is_good() {
    let text = include_str!("../../../examples/filters/proxy-headers.yaml");
    let object: Value = serde_saphyr::from_str(text).expect("it is YAML");
    assert_eq!(object["kind"], "WeftFilter");
    let config = object["spec"]["config"].to_string();
    let config = Config::read(config.as_bytes()).expect("spec.config");
    assert_ne!(config, Config::default());
}
