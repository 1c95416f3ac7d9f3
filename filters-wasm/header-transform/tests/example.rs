//! The example of this filter has a configuration that the filter takes.

use filter_header_transform::HeaderTransform;
use serde_json::Value;
use weft_sdk::testing::TestHost;

#[test]
fn the_example_is_good() {
    let text = include_str!("../../../examples/filters/header-transform.yaml");
    let object: Value = serde_saphyr::from_str(text).expect("it is YAML");
    assert_eq!(object["kind"], "WeftFilter");
    let config = &object["spec"]["config"];
    if let Err(why) = TestHost::<HeaderTransform>::new(config) {
        panic!("spec.config: {why}");
    }
}
