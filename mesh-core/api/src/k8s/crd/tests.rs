use serde_json::Map;

use super::*;

fn json_of(kind: &str) -> Value {
    let found = crds().into_iter().find(|crd| crd.spec.names.kind == kind);
    serde_json::to_value(found.unwrap()).unwrap()
}

#[test]
fn all_definitions_parse_as_kubernetes_reads_them() {
    let kinds: Vec<_> = crds().into_iter().map(|crd| crd.spec.names.kind).collect();
    assert_eq!(
        kinds,
        [
            "CiliumNetworkPolicy",
            "CiliumClusterwideNetworkPolicy",
            "CiliumEnvoyConfig",
            "CiliumClusterwideEnvoyConfig",
            "CiliumIdentity",
            "WeftFilter",
            "WeftClusterFilter",
            "WasmPlugin",
            "WeftFilterReport"
        ]
    );
}

#[test]
fn names_and_scopes() {
    let cnp = json_of("CiliumNetworkPolicy");
    assert_eq!(cnp["metadata"]["name"], "ciliumnetworkpolicies.cilium.io");
    assert_eq!(cnp["spec"]["names"]["singular"], "ciliumnetworkpolicy");
    assert_eq!(cnp["spec"]["names"]["shortNames"][0], "cnp");
    assert_eq!(cnp["spec"]["scope"], "Namespaced");
    let ccnp = json_of("CiliumClusterwideNetworkPolicy");
    assert_eq!(ccnp["spec"]["names"]["shortNames"][0], "ccnp");
    assert_eq!(ccnp["spec"]["scope"], "Cluster");
    let cec = json_of("CiliumEnvoyConfig");
    assert_eq!(cec["spec"]["names"]["shortNames"][0], "cec");
    assert_eq!(cec["spec"]["scope"], "Namespaced");
    let ccec = json_of("CiliumClusterwideEnvoyConfig");
    assert_eq!(ccec["spec"]["names"]["shortNames"][0], "ccec");
    assert_eq!(ccec["spec"]["scope"], "Cluster");
}

/// The rules of structural schemas: every node has a type (or keeps anything),
/// no references, no lists of types.
fn assert_structural(schema: &Map<String, Value>, path: &str) {
    let says = |key: &str| schema.get(key) == Some(&json!(true));
    let keeps = says("x-kubernetes-preserve-unknown-fields");
    let number_or_text = says("x-kubernetes-int-or-string");
    let kind = schema.get("type").and_then(Value::as_str);
    assert!(
        keeps || number_or_text || kind.is_some(),
        "{path} has no type: {schema:?}"
    );
    for forbidden in [
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "definitions",
        "$defs",
        "title",
    ] {
        assert!(!schema.contains_key(forbidden), "{path} has {forbidden}");
    }
    for key in schema.keys().filter(|key| key.starts_with("x-")) {
        let known = [
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-int-or-string",
        ];
        assert!(known.contains(&key.as_str()), "{path} has {key}");
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        assert!(keeps, "{path} would prune unknown fields");
        for (name, inner) in properties {
            assert_structural(inner.as_object().unwrap(), &format!("{path}.{name}"));
        }
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get(nested) {
            assert_structural(inner, &format!("{path}.{nested}"));
        }
    }
}

#[test]
fn schemas_are_structural_and_prune_nothing() {
    let filters = filter::definitions().map(|crd| crd["spec"]["versions"][0].clone());
    for crd in [policy_version(), identity_version()]
        .into_iter()
        .chain(filters)
    {
        let schema = crd["schema"]["openAPIV3Schema"].as_object().unwrap();
        assert_structural(schema, "");
        // What the typed definition loses would be lost on the way to the server.
        let spec: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps =
            serde_json::from_value(Value::Object(schema.clone())).unwrap();
        assert_eq!(
            serde_json::to_value(spec).unwrap(),
            Value::Object(schema.clone())
        );
    }
}

#[test]
fn filters_have_names_columns_and_defaults() {
    let filter = json_of("WeftFilter");
    assert_eq!(filter["metadata"]["name"], "weftfilters.weft.dev");
    assert_eq!(filter["spec"]["scope"], "Namespaced");
    let version = &filter["spec"]["versions"][0];
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let shown = columns.iter().filter(|column| column["priority"] != 1);
    let shown: Vec<_> = shown.map(|column| &column["name"]).collect();
    assert_eq!(
        shown,
        [
            "Phase",
            "Direction",
            "Accepted",
            "Loaded",
            "Configured",
            "Age"
        ]
    );
    let spec = |crd: &Value| {
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            .clone()
    };
    let own = spec(&filter);
    assert_eq!(own["direction"]["default"], "ingress");
    assert_eq!(own["phase"]["enum"], json!(["afterPolicy", "upstream"]));
    assert_eq!(own["namespaces"], Value::Null);
    assert_eq!(own["module"]["required"], json!(["url"]));

    let wide = json_of("WeftClusterFilter");
    assert_eq!(wide["spec"]["scope"], "Cluster");
    assert_eq!(spec(&wide)["namespaces"]["type"], "object");
    assert_eq!(spec(&wide)["phase"]["enum"][0], "beforePolicy");

    let plugin = json_of("WasmPlugin");
    assert_eq!(
        plugin["metadata"]["name"],
        "wasmplugins.extensions.istio.io"
    );
    assert_eq!(spec(&plugin)["pluginConfig"]["type"], "object");
    assert_eq!(
        spec(&plugin)["vmConfig"]["properties"]["env"]["x-weft-not-yet"],
        Value::Null
    );
}

#[test]
fn the_schema_knows_the_language() {
    let schema = policy_version();
    let ingress = &schema["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["ingress"]
        ["items"]["properties"];
    assert_eq!(
        ingress["fromCIDRSet"]["items"]["properties"]["except"]["type"],
        "array"
    );
    let port = &ingress["toPorts"]["items"]["properties"];
    assert_eq!(
        port["ports"]["items"]["properties"]["port"]["type"],
        "string"
    );
    assert_eq!(
        port["ports"]["items"]["properties"]["endPort"]["type"],
        "integer"
    );
    let http = &port["rules"]["properties"]["http"]["items"]["properties"];
    assert_eq!(http["headerMatches"]["items"]["required"], json!(["name"]));
    assert_eq!(http["path"]["type"], "string");
}
