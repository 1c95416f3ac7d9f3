//! From bytes to a filter: what is refused, what is kept on disk, what stays in force.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;
use weft_wasm_host::{
    Abi, CacheError, ConfigureError, Digest, FaultKind, Filter, LoadError, Loader, Published, Slot,
    Step,
};

use crate::support::guest::{Component, PASS, PROCEED, ProxyWasm, encode};
use crate::support::{HEAD, Setup, head, runtime};

fn refused(wasm: &[u8]) -> LoadError {
    let loader = Loader::new(runtime());
    loader.load(wasm, None).expect_err("no filter")
}

#[test]
fn a_module_of_100_mb_is_refused() {
    let mut wasm = vec![0; 100 << 20];
    wasm[..8].copy_from_slice(b"\0asm\x01\0\0\0");
    let error = refused(&wasm);
    let expected = LoadError::TooLarge {
        size: 100 << 20,
        most: 64 << 20,
    };
    assert_eq!(error, expected);
    let loader = Loader::new(runtime()).with_max_size(1000);
    let error = loader.load(&wasm[..1001], None).expect_err("too large");
    assert!(matches!(error, LoadError::TooLarge { most: 1000, .. }));
}

#[test]
fn what_is_no_module_is_told_by_its_first_bytes() {
    for (bytes, hint) in [
        (&b""[..], ""),
        (b"hello", ""),
        (b"(module)", ", but its text form"),
        (b"\x1f\x8b\x08\0", ", but something packed with gzip"),
        (b"\x7fELF\x02", ", but a native program"),
        (b"\0asm\x02\0\0\0", ""),
    ] {
        assert_eq!(refused(bytes), LoadError::NotWasm { hint });
    }
    let cut = ProxyWasm::default().wasm();
    let error = refused(&cut[..cut.len() / 2]);
    assert!(matches!(error, LoadError::Compile(_)), "{error:?}");
}

#[test]
fn a_module_must_be_the_one_that_was_meant() {
    let wasm = Component::step(PROCEED).wasm();
    let loader = Loader::new(runtime());
    let found = Digest::of(&wasm);
    let module = loader.load(&wasm, Some(found)).expect("that one");
    assert_eq!(
        (module.digest(), module.abi(), module.size()),
        (found, Abi::Weft, wasm.len())
    );
    let expected = Digest::of(b"another");
    let error = loader.load(&wasm, Some(expected)).expect_err("another one");
    assert_eq!(error, LoadError::Digest { expected, found });
}

#[test]
fn a_core_module_must_be_for_proxy_wasm_0_2() {
    for (version, expected) in [("0_1_0", "proxy-wasm 0.1.0"), ("0_3_0", "proxy-wasm 0.3.0")] {
        let wasm = wat::parse_str(ProxyWasm::default().text(version)).expect("valid");
        let found = expected.to_owned();
        assert_eq!(refused(&wasm), LoadError::UnsupportedAbi { found });
    }
    let wasm = wat::parse_str("(module)").expect("valid");
    assert!(matches!(refused(&wasm), LoadError::UnsupportedAbi { .. }));
}

#[test]
fn what_a_filter_needs_must_be_exported() {
    for (from, missing) in [
        (r#"(memory (export "memory") 2)"#, "memory"),
        (r#"(func $malloc (export "malloc")"#, "malloc"),
    ] {
        let text = ProxyWasm::default().text("0_2_1");
        let to = from.replace(&format!(r#"(export "{missing}")"#), "");
        let wasm = wat::parse_str(text.replace(from, &to)).expect("valid");
        assert_eq!(refused(&wasm), LoadError::MissingExport { name: missing });
    }
    let wit = "package test:other;\nworld other { export describe: func(); }\n";
    let wasm = encode(r#"(module (func (export "describe")))"#, wit, "other");
    assert_eq!(
        refused(&wasm),
        LoadError::MissingExport { name: "configure" }
    );
}

#[test]
fn a_component_of_another_world_is_refused() {
    let wit = "package test:other;\nworld other {
        import forbidden: func();
        export describe: func();
        export configure: func();
        export on-event: func();
        export drop-context: func();
    }\n";
    let wasm = encode(
        r#"(module
             (import "$root" "forbidden" (func $f))
             (func (export "describe") (call $f)) (func (export "configure"))
             (func (export "on-event")) (func (export "drop-context")))"#,
        wit,
        "other",
    );
    let error = refused(&wasm);
    assert!(
        matches!(&error, LoadError::Unfit(why) if why.contains("forbidden")),
        "{error:?}"
    );
}

#[test]
fn an_export_of_another_type_is_refused() {
    let module = ProxyWasm::new(r#"(func (export "proxy_on_tick") (param i64))"#);
    let error = Setup::new().configure(&module.wasm()).expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("proxy_on_tick"), "{text}");
    let text = ProxyWasm::default().text("0_2_1").replace(
        r#"(func $log (param i32 i32 i32)"#,
        r#"(func $log (param i64 i32 i32)"#,
    );
    // Nothing of it calls the function with these arguments.
    let text = text.replace(
        "(drop (call $log (i32.const 2)",
        "(drop (call $log (i64.const 2)",
    );
    let error = refused(&wat::parse_str(text).expect("valid"));
    assert!(
        matches!(&error, LoadError::Unfit(why) if why.contains("proxy_log")),
        "{error:?}"
    );
}

#[test]
fn limits_have_bounds_that_are_named() {
    let wasm = Component::step(PROCEED).wasm();
    let mut setup = Setup::new();
    setup.spec.limits.memory = 1 << 40;
    let error = setup.configure(&wasm).expect_err("too much");
    let ConfigureError::Limits(text) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        text,
        "limits.memory is 1099511627776, the most is 268435456"
    );
}

#[test]
fn what_was_compiled_once_is_not_compiled_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("aot");
    let loader = || Loader::with_cache(runtime(), cache.clone()).expect("private");
    for wasm in [Component::step(PROCEED).wasm(), ProxyWasm::default().wasm()] {
        assert!(!loader().remembers(Digest::of(&wasm)));
        assert!(loader().recall(&wasm, None).expect("sound").is_none());
        let first = loader().load(&wasm, None).expect("a module");
        assert!(!first.cached());
        assert!(loader().remembers(Digest::of(&wasm)));
        let recalled = loader().recall(&wasm, None).expect("sound");
        assert!(recalled.is_some_and(|module| module.cached()));
        let second = loader().load(&wasm, None).expect("a module");
        assert!(second.cached());
        let setup = Setup::new();
        let filter = Filter::configure(Arc::clone(&setup.runtime), second, setup.spec.clone());
        let mut guest = filter
            .expect("a filter")
            .instantiate()
            .expect("an instance");
        head(&mut *guest).expect("it runs");
    }
    let files: Vec<_> = fs::read_dir(&cache).expect("there").flatten().collect();
    assert_eq!(files.len(), 2);
    for file in files {
        let mode = file.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut bytes = fs::read(file.path()).expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(file.path(), bytes).expect("written");
    }
    let wasm = Component::step(PROCEED).wasm();
    let other = Digest::of(b"other");
    let error = loader().recall(&wasm, Some(other)).expect_err("not meant");
    assert!(matches!(error, LoadError::Digest { .. }), "{error:?}");
    assert!(loader().recall(&wasm, None).expect("sound").is_none());
    assert!(
        !loader().load(&wasm, None).expect("a module").cached(),
        "it was changed"
    );
    assert!(
        loader().load(&wasm, None).expect("a module").cached(),
        "and is whole again"
    );
}

/// Branches out of a block, after each of which a variable may have one of two values.
fn meetings(variables: usize, branches: usize) -> String {
    let each = |code: &str| -> String {
        let numbers = 1..=variables;
        numbers.map(|n| code.replace('N', &n.to_string())).collect()
    };
    let leave = |n| {
        let changed = n % variables + 1;
        format!("(local.set {changed} (i32.const {n})) (br_if 0 (i32.load (local.get 0)))")
    };
    let leave: String = (0..branches).map(leave).collect();
    format!(
        "(func (param i32) (local {}) {} (block {leave}) {})",
        "i32 ".repeat(variables),
        each("(local.set N (i32.load offset=N (local.get 0)))"),
        each("(i32.store (local.get 0) (local.get N))"),
    )
}

#[test]
fn what_would_take_long_to_compile_is_compiled_quickly() {
    // The usual way takes a compiler five seconds for it.
    let function = meetings(100, 800);
    let folder = tempfile::tempdir().expect("a folder");
    let loader = Loader::with_cache(runtime(), folder.path().join("aot")).expect("private");
    for wasm in [
        Component::step(PROCEED).with(&function).wasm(),
        ProxyWasm::new(&function).wasm(),
    ] {
        for cached in [false, true] {
            let module = loader.load(&wasm, None).expect("a module");
            assert_eq!(module.cached(), cached);
            let setup = Setup::new();
            let filter = Filter::configure(Arc::clone(&setup.runtime), module, setup.spec.clone());
            let mut guest = filter
                .expect("a filter")
                .instantiate()
                .expect("an instance");
            assert_eq!(head(&mut *guest), Ok(Step::Proceed));
        }
    }
}

#[test]
fn what_would_take_too_long_to_compile_is_refused_and_the_old_module_serves() {
    let setup = Setup::new();
    let published = Published::new();
    published.publish(Ok(setup.filter(&Component::step(PASS).wasm())));
    // 40 KiB. A compiler takes hours and gigabytes.
    let function = meetings(1000, 2000);
    for wasm in [
        Component::step(PROCEED).with(&function).wasm(),
        ProxyWasm::new(&function).wasm(),
    ] {
        let error = refused(&wasm);
        let LoadError::TooComplex { found, most, .. } = error else {
            panic!("{error:?}");
        };
        assert!(found > most);
        published.publish(Err(error.into()));
        let condition = published.condition();
        assert_eq!(condition.generation, 1);
        let why = condition.error.map(|error| error.to_string());
        assert!(
            why.is_some_and(|why| why.starts_with("the module would take too long to compile")),
        );
        let mut slot = Slot::new(published.current().expect("the old one"));
        let ticket = slot.open().expect("an instance");
        assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Pass));
    }
}

#[test]
fn a_cache_that_is_not_private_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("changed");
    let error = Loader::with_cache(runtime(), folder.path().to_owned()).expect_err("not private");
    assert!(matches!(error, CacheError::NotPrivate { .. }));
}

#[test]
fn the_last_good_version_stays_in_force() {
    let setup = Setup::new();
    let published = Published::new();
    assert!(published.current().is_none());
    let load_error = refused(b"hello");
    published.publish(Err(load_error.clone().into()));
    assert!(published.current().is_none());
    let condition = published.condition();
    assert_eq!(condition.generation, 0);
    assert_eq!(
        condition.error.map(|error| error.kind()),
        Some(FaultKind::Load)
    );

    let good = setup.filter(&Component::step(PASS).wasm());
    published.publish(Ok(Arc::clone(&good)));
    let mut refusing = Component::step(PROCEED).with(r#"(data (i32.const 340) "\01")"#);
    refusing.configure = "i32.const 340".to_owned();
    let error = setup.configure(&refusing.wasm()).expect_err("refused");
    published.publish(Err(error.into()));
    let condition = published.condition();
    assert_eq!(condition.generation, 1);
    assert_eq!(
        condition.error.map(|error| error.kind()),
        Some(FaultKind::Config)
    );
    let current = published.current().expect("the good one");
    assert!(Arc::ptr_eq(&current, &good));
    let mut guest = current.instantiate().expect("an instance");
    assert_eq!(head(&mut *guest), Ok(Step::Pass));

    published.publish(Ok(setup.filter(&ProxyWasm::default().wasm())));
    let condition = published.condition();
    assert_eq!((condition.generation, condition.error), (2, None));
}

#[test]
fn a_large_module_compiles_on_a_thread_of_its_own() {
    // Many functions, so that it takes a while; the result is brought back from another thread.
    let functions: String = (0..3000)
        .map(|n| format!("(func (param i32) (result i32) (i32.mul (local.get 0) (i32.const {n})))"))
        .collect();
    let wasm = ProxyWasm::new(&functions).wasm();
    let loader = Loader::new(runtime());
    let module = std::thread::spawn(move || loader.load(&wasm, None))
        .join()
        .expect("no panic")
        .expect("a module");
    assert!(!module.took().is_zero());
    let setup = Setup::new();
    let mut spec = setup.spec.clone();
    spec.config = Bytes::new();
    let filter = Filter::configure(Arc::clone(&setup.runtime), module, spec).expect("a filter");
    let guest = std::thread::spawn(move || filter.instantiate())
        .join()
        .expect("no panic");
    assert_eq!(head(&mut *guest.expect("an instance")), Ok(Step::Proceed));
}
