//! `run`: one request through a module.

use std::fs;

use serde_json::json;

use crate::support::{Done, configured, module, on_headers, proxy_wasm, run, weft_filter};

fn with(name: &str, more: &[&str]) -> Done {
    let configured = configured(name);
    let args = ["run"]
        .into_iter()
        .chain(configured.iter().map(String::as_str));
    run(args.chain(more.iter().copied()))
}

#[test]
fn what_the_filter_changed_is_printed() {
    let done = with(
        "header-transform",
        &[
            "--request",
            "GET /x",
            "-H",
            "x-debug: 1",
            "-H",
            "x-kept: 2",
            "--source",
            "rebels/xwing",
            "--response",
            "404",
            "--response-header",
            "server: nginx",
            "--response-body",
            "gone",
        ],
    );
    let out = done.well();
    for line in [
        "  - request header x-debug: 1\n",
        "  + request header x-caller: rebels/xwing\n",
        "  - response header server: nginx\n",
        "  + response header x-frame-options: DENY\n",
        "  GET /x\n  host: example.test\n",
        "  404 Not Found\n",
        "\n  gone\n",
        "header-transform: passed (",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
    assert!(!out.contains("request header x-kept"), "{out}");
}

#[test]
fn a_request_that_the_filter_answers_exits_with_3() {
    let done = with("jwt-auth", &["--json"]);
    assert_eq!(done.code, 3, "{done:?}");
    let said = done.json();
    assert_eq!(said["outcome"], "replied");
    assert_eq!(said["reply"]["head"], "401 Unauthorized");
    assert_eq!(said.get("request"), None);
    let steps = said["steps"].as_array().expect("steps");
    assert_eq!(steps.last().expect("one")["step"], "answered with 401");
    assert!(
        steps
            .iter()
            .all(|step| step["cpu_us"].as_f64().is_some_and(|it| it > 0.0))
    );
}

#[test]
fn what_the_filter_asks_is_answered_as_it_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let body = dir.path().join("body");
    fs::write(&body, "not today").expect("it is written");
    let from_file = format!("authz.default:80=403 @{}", body.display());
    for (answer, code, expected) in [
        ("authz.default:80=200", 0, "+ request header x-user: ada"),
        (from_file.as_str(), 3, "not today"),
        ("authz.default:80=503", 1, "answered with status 503"),
        ("authz.default:80=timeout", 1, "no answer in time"),
        ("authz.default:80=denied", 1, "egress policy"),
        (
            "other.default:80=200",
            1,
            "--fetch 'authz.default:80=200 BODY'",
        ),
    ] {
        let mut args = vec!["--fetch", answer];
        if answer.ends_with("=200") && answer.starts_with("authz") {
            args.extend(["--fetch-header", "authz.default:80=x-user: ada"]);
        }
        let done = with("ext-auth", &args);
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.out.contains(expected), "{expected:?} in {done:?}");
        let unasked = done
            .out
            .contains("--fetch other.default:80: the filter asked nothing");
        assert_eq!(unasked, answer.starts_with("other"), "{done:?}");
    }
}

#[test]
fn a_filter_of_the_sdk_has_no_root_id() {
    let args = ["run", &module("header-transform"), "--root-id", "second"];
    run(args).refused("--root-id");
}

#[test]
fn time_passes_only_for_the_filter() {
    let config = r#"{"delay": {"milliseconds": 30000, "percent": 100}}"#;
    let began = std::time::Instant::now();
    let done = run([
        "run",
        &module("fault-injection"),
        "--config",
        config,
        "--json",
    ]);
    assert!(
        began.elapsed() < std::time::Duration::from_secs(25),
        "it does not wait"
    );
    let said = done.json();
    assert_eq!(said["outcome"], "passed");
    let steps = said["steps"].as_array().expect("steps");
    assert!(
        steps
            .iter()
            .any(|step| step["event"] == "timer" && step["at_ms"] == json!(30000.0))
    );
    let delayed = &said["metrics"][1];
    assert_eq!(delayed["labels"], json!([["kind", "delay"]]));
    assert_eq!(delayed["value"], json!(1.0));
}

#[test]
fn a_body_is_searched() {
    let config = r#"{"deny": [{"name": "evil", "in": "body", "pattern": "evil"}]}"#;
    let file = module("request-inspect");
    let args = ["run", &file, "--config", config, "--request", "POST /"];
    let refused = run(args.iter().copied().chain(["--body", "an evil body"]));
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.out.contains("rule evil"), "{refused:?}");
    let passed = run(args.iter().copied().chain(["--body", "a good one"])).well();
    assert!(
        passed.contains("request body, 10 bytes, the last"),
        "{passed}"
    );
    assert!(passed.contains("\n  a good one\n"), "{passed}");
}

#[test]
fn a_configuration_is_held_to_the_filters_schema_first() {
    let file = module("rate-limit");
    for (config, why) in [
        ("{}", "--config: limit: it is missing"),
        (
            r#"{"limit": "5", "per_seconds": 1}"#,
            "--config: limit: it is not of type \"integer\"",
        ),
        (
            r#"{"limit": 5, "per_seconds": 1, "limits": 1}"#,
            "--config: limits: there is no such field",
        ),
        ("{", "--config: it is no JSON"),
        ("@/nowhere.json", "--config: /nowhere.json"),
    ] {
        run(["run", &file, "--config", config]).refused(why);
    }
    // Only the filter itself knows what is wrong here.
    let config = r#"{"request": {"set": {"a b": "1"}}}"#;
    run(["run", &module("header-transform"), "--config", config])
        .refused("refused its configuration: request.set.a b");
}

#[test]
fn arguments_that_are_wrong_are_named() {
    let file = module("header-transform");
    for (args, why) in [
        (["--request", "GET"], "--request \"GET\""),
        (["--request", "GET x"], "--request \"GET x\""),
        (["--request", "GET /a b"], "--request"),
        (["--request", "G(T /"], "is no method"),
        (["--request", "GET /\u{e9}"], "printable ASCII"),
        (["-H", "x-a"], "the header \"x-a\""),
        (["-H", "x a: 1"], "is no name of a header"),
        (["--response", "99"], "--response"),
        (["--response", "100"], "--response"),
        (["--fetch", "authz"], "--fetch \"authz\""),
        (["--fetch", "authz=up"], "--fetch \"authz=up\""),
        (
            ["--fetch-header", "authz=a: b"],
            "there is no --fetch authz=STATUS",
        ),
        (["--source", "xwing"], "NAMESPACE/POD"),
        (["--source-labels", "app"], "KEY=VALUE"),
        (["--body", "@/nowhere"], "--body: /nowhere"),
    ] {
        let args = ["run", &file].into_iter().chain(args);
        run(args).refused(why);
    }
}

#[test]
fn a_module_that_fails_is_said_to_fail() {
    let dir = tempfile::tempdir().expect("a folder");
    for (body, why) in [
        ("unreachable", "the filter trapped"),
        ("(loop $again (br $again)) i32.const 0", "CPU time"),
        ("(call $unknown) i32.const 0", "nobody_knows"),
        (
            "(loop $again (drop (memory.grow (i32.const 64))) (br $again)) i32.const 0",
            "memory",
        ),
        // It pauses, and nothing is to come.
        ("i32.const 1", "held for ever"),
    ] {
        let file = on_headers(dir.path(), body);
        let done = run(["run", &file, "--json"]);
        assert_eq!(done.code, 1, "{body}: {done:?}");
        let said = done.json();
        assert_eq!(said["outcome"], "failed", "{said}");
        assert!(
            said["why"].as_str().expect("text").contains(why),
            "{why}: {said}"
        );
    }
    let refusing = proxy_wasm(
        dir.path(),
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) i32.const 0)"#,
    );
    run(["run", &refusing]).refused("proxy_on_configure returned false");
}

#[test]
fn a_clock_that_ticks_lets_a_request_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = proxy_wasm(
        dir.path(),
        r#"(global $ticks (mut i32) (i32.const 0))
           (global $held (mut i32) (i32.const 0))
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $tick (i32.const 1000))) i32.const 1)
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (global.set $held (local.get 0)) i32.const 1)
           (func (export "proxy_on_tick") (param i32)
             (global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
             (if (i32.eq (global.get $ticks) (i32.const 5)) (then
               (drop (call $of (global.get $held)))
               (drop (call $continue (i32.const 0))))))"#,
    );
    let said = run(["run", &file, "--json"]).json();
    assert_eq!(said["outcome"], "passed", "{said}");
    let steps = said["steps"].as_array().expect("steps");
    let last = steps
        .iter()
        .rfind(|step| step["event"] == "timer")
        .expect("a tick");
    assert_eq!(last["at_ms"], json!(5000.0), "{said}");
    assert!(
        last["asked"]
            .to_string()
            .contains("decides: the request goes on"),
        "{said}"
    );
    // The ticks of which nothing came are not told.
    assert_eq!(
        steps.iter().filter(|step| step["event"] == "timer").count(),
        1,
        "{said}"
    );
}

#[test]
fn the_reader_may_go_away() {
    let mut child = weft_filter()
        .args(["run", &module("header-transform"), "--config"])
        .arg(r#"{"request": {"set": {"x-a": "1"}}}"#)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
