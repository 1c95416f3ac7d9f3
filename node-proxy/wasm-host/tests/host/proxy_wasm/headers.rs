//! Headers, and the statuses that filters expect of the host.

use http::HeaderValue;
use weft_wasm_host::{Abi, Fields, Step};

use super::{pairs, statuses, told, word};
use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, HEAD, Setup, load, open, runtime};

#[test]
fn both_versions_are_known() {
    let runtime = runtime();
    let module = ProxyWasm::default();
    let of = |version| {
        let wasm = wat::parse_str(module.text(version)).expect("valid");
        load(&runtime, &wasm).abi()
    };
    assert_eq!(of("0_2_0"), Abi::ProxyWasm020);
    assert_eq!(of("0_2_1"), Abi::ProxyWasm021);
}

#[test]
fn a_filter_reads_and_writes_headers() {
    // x becomes what y is; a third is added; z goes.
    let module = ProxyWasm::on_headers(
        "(drop (call $get (i32.const 0) (i32.const 1025) (i32.const 1) (i32.const 800)
           (i32.const 804)))
         (drop (call $replace (i32.const 0) (i32.const 1024) (i32.const 1)
           (i32.load (i32.const 800)) (i32.load (i32.const 804))))
         (drop (call $add (i32.const 0) (i32.const 1026) (i32.const 3) (i32.const 1024)
           (i32.const 3)))
         (drop (call $remove (i32.const 0) (i32.const 1029) (i32.const 1)))
         (i32.const 0)",
    )
    .data("xynewz");
    let mut guest = Setup::new().instance(&module.wasm());
    let exchange = FakeExchange::get("/")
        .with("y", "caf\u{e9}\u{e9}")
        .with("z", "1");
    let context = open(&mut *guest, exchange);
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    let fields = exchange
        .fields(weft_wasm_host::Fields::RequestHeaders)
        .expect("there");
    assert_eq!(fields["x"].as_bytes(), "caf\u{e9}\u{e9}".as_bytes());
    assert_eq!(fields["new"], "xyn");
    assert!(!fields.contains_key("z"));
}

#[test]
fn statuses_are_those_that_filters_expect() {
    let get = |name: u32, length: u32| {
        format!(
            "(call $get (i32.const 0) (i32.const {name}) (i32.const {length}) (i32.const 800)
               (i32.const 804))"
        )
    };
    let put = |how: &str, name: u32, length: u32, value: u32, value_length: u32| {
        format!(
            "(call ${how} (i32.const 0) (i32.const {name}) (i32.const {length})
               (i32.const {value}) (i32.const {value_length}))"
        )
    };
    let calls = [
        get(1024, 6),                      // absent: not found
        put("replace", 1024, 6, 1030, 2),  // CR LF
        put("add", 1024, 6, 1030, 2),      // CR LF
        put("add", 1032, 5, 1048, 4),      // a second :path
        put("replace", 1032, 5, 1048, 4),  // :path
        put("replace", 1037, 7, 1048, 4),  // :scheme
        put("replace", 1044, 4, 1048, 4),  // :foo
        put("replace", 1052, 14, 1048, 1), // content-length: not done, not refused
        "(call $remove (i32.const 0) (i32.const 1024) (i32.const 6))".to_owned(), // absent
        "(call $buffer (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 800) (i32.const 804))"
            .to_owned(), // no body
        "(call $get (i32.const 9) (i32.const 0) (i32.const 1) (i32.const 800) (i32.const 804))"
            .to_owned(), // no such map
        "(call $get_data (i32.const 1024) (i32.const 6) (i32.const 800) (i32.const 804)
           (i32.const 808))"
            .to_owned(), // no such value
        "(call $effective (i32.const 77))".to_owned(), // no such context
        "(call $grpc_stream (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"
            .to_owned(), // 12
        "(call $done)".to_owned(),         // nothing to be done with
    ];
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let module = statuses(&calls).data("absent\\0d\\0a:path:scheme:foo/newcontent-length");
    let (told, target) = told(&module, FakeExchange::get("/"));
    assert_eq!(told, "1222022001212<1");
    assert_eq!(target.path, "/new");
}

#[test]
fn a_bad_pointer_is_a_status_and_not_a_trap() {
    let calls = [
        "(call $get (i32.const 0) (i32.const -1) (i32.const 1) (i32.const 800) (i32.const 804))",
        "(call $get (i32.const 0) (i32.const 131071) (i32.const 2) (i32.const 800) (i32.const 804))",
        "(call $get (i32.const 0) (i32.const 1024) (i32.const -1) (i32.const 800) (i32.const 804))",
        "(call $get (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const -4) (i32.const 804))",
        "(call $get (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 800) (i32.const 131069))",
        "(call $log (i32.const 2) (i32.const -1) (i32.const -1))",
        "(call $set_pairs (i32.const 0) (i32.const 131072) (i32.const 1))",
        "(call $property (i32.const 131072) (i32.const 1) (i32.const 800) (i32.const 804))",
        "(call $respond (i32.const 200) (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 9)
           (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $define (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const -1))",
        "(call $http_call (i32.const 1024) (i32.const 1) (i32.const -2) (i32.const 8) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 800))",
    ];
    let (told, _target) = told(
        &statuses(&calls).data("a"),
        FakeExchange::get("/").with("a", "1"),
    );
    assert_eq!(told, "6".repeat(calls.len()));
}

#[test]
fn pairs_that_lie_about_their_lengths_are_refused() {
    let calls = [
        "(call $set_pairs (i32.const 0) (i32.const 1024) (i32.const 12))",
        "(call $set_pairs (i32.const 0) (i32.const 1036) (i32.const 4))",
        "(call $set_pairs (i32.const 0) (i32.const 1040) (i32.const 18))",
    ];
    let module = statuses(&calls).data(
        "\\01\\00\\00\\00\\ff\\ff\\ff\\ff\\01\\00\\00\\00\\ff\\ff\\ff\\ff\
         \\01\\00\\00\\00\\01\\00\\00\\00\\02\\00\\00\\00x\\00ok\\00\\00",
    );
    let (told, target) = told(&module, FakeExchange::get("/").with("x", "before"));
    assert_eq!(told, "440");
    assert_eq!(target.x.as_deref(), Some("ok"));
    assert_eq!(
        target.authority, "deathstar.default",
        "what was not named stays"
    );
}

/// A request with fields that no filter could have set.
fn laden() -> FakeExchange {
    let mut exchange = FakeExchange::get("/").with("x", "before").with("x", "two");
    let fields = &mut exchange.request;
    fields.insert("content-length", HeaderValue::from_static("7"));
    fields.insert("host", HeaderValue::from_static("deathstar.default"));
    fields.insert("x-request-id", HeaderValue::from_static("id-1"));
    // Together longer than a filter may write to one exchange.
    for name in ["cookie", "a", "b", "c"] {
        let value = "v".repeat(20_000);
        fields.insert(name, HeaderValue::from_str(&value).expect("a value"));
    }
    for _field in 0..300 {
        fields.append("many", HeaderValue::from_static("1"));
    }
    exchange
}

#[test]
fn pairs_that_are_given_back_are_not_judged() {
    let module = ProxyWasm::on_headers(
        "(drop (call $pairs (i32.const 0) (i32.const 800) (i32.const 804)))
         (call $tell (call $set_pairs (i32.const 0) (i32.load (i32.const 800))
           (i32.load (i32.const 804))))
         (i32.const 0)",
    )
    .wasm_of_pages(4);
    let setup = Setup::new();
    let mut guest = setup.instance(&module);
    let context = open(&mut *guest, laden());
    for _time in 0..2 {
        assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
        assert_eq!(word(setup.lines.take()), "0");
    }
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(
        exchange.fields(Fields::RequestHeaders),
        Some(&laden().request)
    );
}

#[test]
fn pairs_are_set_all_or_none() {
    let value = "v".repeat(16_000);
    let large = ["p", "q", "r", "s", "t"].map(|name| (name, &*value));
    let mut too_much = vec![("x", "after")];
    too_much.extend(large);
    let cases: [(&[(&str, &str)], &str); 5] = [
        (
            &[("x", "after"), (":path", "/new"), (":scheme", "https")],
            "2",
        ),
        (
            &[
                (":path", "/new"),
                (":authority", "no spaces"),
                ("x", "after"),
            ],
            "2",
        ),
        (&[("x", "after"), ("y", "line\r\nbreak")], "2"),
        (&too_much[..], "2"),
        (&[("x", "after"), (":path", "/new")], "0"),
    ];
    for (list, status) in cases {
        let (data, length) = pairs(list);
        let module = statuses(&[&format!(
            "(call $set_pairs (i32.const 0) (i32.const 1024) (i32.const {length}))"
        )])
        .data(&data);
        let (told, target) = told(&module, FakeExchange::get("/old").with("x", "before"));
        assert_eq!(told, status, "{}", target.path);
        let (path, x) = if status == "0" {
            ("/new", "after")
        } else {
            ("/old", "before")
        };
        assert_eq!((&*target.path, target.x.as_deref()), (path, Some(x)));
        assert_eq!(target.authority, "deathstar.default");
    }
}

#[test]
fn pairs_begin_with_the_pseudo_headers() {
    let module = ProxyWasm::on_headers(
        "(drop (call $pairs (i32.const 0) (i32.const 800) (i32.const 804)))
         (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
         (i32.store8 (i32.const 900) (i32.add (local.get $count) (i32.const 48)))
         (call $say (i32.const 900) (i32.const 1))
         (i32.const 0)",
    );
    let exchange = FakeExchange::get("/a").with("host", "no").with("b", "c");
    let (told, _target) = told(&module, exchange);
    assert!(told.starts_with("\\u{5}\\u{0}"), "{told}");
    for pair in [
        ":authority\\u{0}deathstar.default",
        ":path\\u{0}/a",
        ":method\\u{0}GET",
        "b\\u{0}c",
    ] {
        assert!(told.contains(pair), "{pair} in {told}");
    }
    assert!(!told.contains("host\\u{0}no"));
    assert!(told.ends_with('5'), "the callback was told as many: {told}");
}
