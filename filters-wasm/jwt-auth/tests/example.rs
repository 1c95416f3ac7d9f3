//! The example of this filter has a configuration that the filter takes.

use filter_jwt_auth::JwtAuth;
use serde_json::Value;
use weft_sdk::testing::TestHost;

#[test]
fn the_example_is_good() {
    let text = include_str!("../../../examples/filters/jwt-auth.yaml");
    let object: Value = serde_saphyr::from_str(text).expect("it is YAML");
    assert_eq!(object["kind"], "WeftFilter");
    let config = &object["spec"]["config"];
    if let Err(why) = TestHost::<JwtAuth>::new(config) {
        panic!("spec.config: {why}");
    }
}
