//! Every filter that comes with weft, as a module in the host of filters, with the configuration of
//! its example.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::{configured, example, root, run, shipped};

/// A request, and what the filter makes of it: the exit code, and what is printed.
struct Case {
    filter: &'static str,
    args: &'static [&'static str],
    code: i32,
    printed: &'static [&'static str],
}

const fn case(
    filter: &'static str,
    args: &'static [&'static str],
    code: i32,
    printed: &'static [&'static str],
) -> Case {
    Case {
        filter,
        args,
        code,
        printed,
    }
}

/// Of the issuer in the example, good until the year 5138, signed with the key of RFC 8037.
const TOKEN: &str = "authorization: Bearer eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5lbXBpcmUuZXhhbXBsZSIsImF1ZCI6ImRlYXRoc3RhciIsInN1YiI6InZhZGVyIiwic2NvcGUiOiJsYW5kIiwiZXhwIjo5OTk5OTk5OTk5OX0.wOK9XA8E-K5kDL39nYFuMeJQV5L05W7rDvI_fjMNUYYQ-AAgx5dbkqtypguZx2ao17Ua7t_vRuWsi0TRsN3GAQ";
const KEYS: &str = r#"issuer.default:80=200 {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

const CASES: &[Case] = &[
    case(
        "access-log-redact",
        &[
            "--request",
            "GET /buy?token=abc",
            "-H",
            "referer: https://ada:pw@x/",
        ],
        0,
        &[
            "path=/buy?token=[redacted]",
            "referer=https://[redacted]@x/",
        ],
    ),
    case(
        "canary-by-header",
        &["-H", "x-canary: always"],
        0,
        &[
            "+ request header x-version: canary",
            "requests{version=\"canary\"} 1",
        ],
    ),
    case(
        "ext-auth",
        &[
            "--request",
            "GET /cart",
            "-H",
            "cookie: session=1",
            "--fetch",
            "authz.default:80=200",
            "--fetch-header",
            "authz.default:80=x-user: ada",
        ],
        0,
        &[
            "fetch GET authz.default:80/check/cart -> 200",
            "+ request header x-user: ada",
        ],
    ),
    case("fault-injection", &[], 0, &["faults{kind=\"abort\"} 0"]),
    case(
        "header-transform",
        &["-H", "x-debug: 1", "--source", "default/xwing"],
        0,
        &[
            "- request header x-debug: 1",
            "+ request header x-caller: default/xwing",
        ],
    ),
    case(
        "jwt-auth",
        &["-H", TOKEN, "--fetch", KEYS],
        0,
        &[
            "fetch GET issuer.default:80/.well-known/jwks.json -> 200",
            "+ request header x-user: vader",
            "tokens{outcome=\"accepted\"} 1",
        ],
    ),
    case("jwt-auth", &["--fetch", KEYS], 3, &["401 Unauthorized"]),
    case(
        "jwt-auth",
        &["--request", "GET /v1/health"],
        0,
        &["jwt-auth: passed"],
    ),
    case(
        "proxy-headers",
        &["--response-header", "server: nginx"],
        0,
        &[
            "+ request header x-env: production",
            "- response header server: nginx",
            "+ response header via: weft",
        ],
    ),
    case(
        "rate-limit",
        &["--request", "POST /v1/request-landing"],
        0,
        &["requests{outcome=\"allowed\"} 1"],
    ),
    case(
        "request-inspect",
        &["--request", "GET /.git/config"],
        3,
        &["404 Not Found", "rule dotfiles"],
    ),
];

#[test]
fn every_filter_runs_with_its_example() {
    for Case {
        filter,
        args,
        code,
        printed,
    } in CASES
    {
        let configured = configured(filter);
        let all = ["run"]
            .into_iter()
            .chain(configured.iter().map(String::as_str));
        let done = run(all.chain(args.iter().copied()));
        assert_eq!(done.code, *code, "{filter}: {done:?}");
        for line in *printed {
            assert!(
                done.out.contains(line),
                "{filter}: {line:?} in {}",
                done.out
            );
        }
    }
}

/// No filter is left out, and no example is of a filter that is not there.
#[test]
fn every_filter_has_a_module_an_example_and_a_case() {
    let names = |folder: &str, end: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .filter_map(|name| Some(name.to_str()?.strip_suffix(end)?.to_owned()))
            .collect()
    };
    let filters = names("filters-wasm", "");
    let cases: BTreeSet<String> = CASES.iter().map(|case| case.filter.to_owned()).collect();
    assert_eq!(filters, cases);
    assert_eq!(filters, names("examples/filters", ".yaml"));
    for filter in &filters {
        assert!(
            shipped().join(format!("{filter}.wasm")).is_file(),
            "{filter}"
        );
        let text = fs::read_to_string(example(filter)).expect("an example");
        let manifest: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        let url = manifest["spec"]["module"]["url"]
            .as_str()
            .expect("a module");
        assert!(url.ends_with(&format!("/{filter}.wasm")), "{filter}: {url}");
    }
}
