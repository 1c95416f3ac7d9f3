//! A new filter: a crate that builds, and whose tests pass.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where a new filter's SDK comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sdk {
    /// A folder with its sources.
    Path(PathBuf),
    /// A version of a registry.
    Version(String),
}

/// For whom a new filter is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// For weft, with its SDK.
    Weft(Sdk),
    /// For all proxies that know proxy-wasm.
    ProxyWasm,
}

/// A path in the new crate, and a text with `{{variables}}`.
type File = (&'static str, &'static str);

const WEFT: &[File] = &[
    ("Cargo.toml", include_str!("../../template/Cargo.toml.tmpl")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs.tmpl")),
    (
        "tests/filter.rs",
        include_str!("../../template/tests/filter.rs.tmpl"),
    ),
];

const PROXY_WASM: &[File] = &[
    (
        "Cargo.toml",
        include_str!("../../template/proxy-wasm/Cargo.toml.tmpl"),
    ),
    (
        "src/lib.rs",
        include_str!("../../template/proxy-wasm/src/lib.rs.tmpl"),
    ),
    (
        "src/filter.rs",
        include_str!("../../template/proxy-wasm/src/filter.rs.tmpl"),
    ),
    (
        "tests/filter.rs",
        include_str!("../../template/proxy-wasm/tests/filter.rs.tmpl"),
    ),
];

/// The same for both.
const COMMON: &[File] = &[
    (
        "filter.yaml",
        include_str!("../../template/filter.yaml.tmpl"),
    ),
    ("README.md", include_str!("../../template/README.md.tmpl")),
    (".gitignore", include_str!("../../template/gitignore.tmpl")),
];

/// Longer names make no good names of Kubernetes objects.
const MAX_NAME: usize = 50;

/// Makes a folder of this name with a new filter in it, below `parent`; the folder.
///
/// # Errors
/// Where the name is not one of a crate, or the folder is there already.
pub fn create(name: &str, parent: &Path, kind: &Kind) -> Result<PathBuf> {
    let files = render(name, kind)?;
    let folder = parent.join(name);
    if folder.exists() {
        bail!("{} is there already", folder.display());
    }
    for (path, text) in files {
        let path = folder.join(path);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(folder)
}

/// Paths and texts of a new filter.
///
/// # Errors
/// Where the name is not one of a crate.
pub fn render(name: &str, kind: &Kind) -> Result<Vec<(&'static str, String)>> {
    check(name)?;
    let (files, source) = match kind {
        Kind::Weft(Sdk::Path(path)) => (WEFT, format!("path = {:?}", path.display().to_string())),
        Kind::Weft(Sdk::Version(version)) => (WEFT, format!("version = {version:?}")),
        Kind::ProxyWasm => (PROXY_WASM, String::new()),
    };
    let variables = [
        ("{{name}}", name.to_owned()),
        ("{{crate}}", name.replace('-', "_")),
        ("{{type}}", type_name(name)),
        ("{{sdk}}", format!("{{ {source} }}")),
        (
            "{{sdk_testing}}",
            format!("{{ {source}, features = [\"testing\"] }}"),
        ),
    ];
    Ok(files
        .iter()
        .chain(COMMON)
        .map(|(path, text)| {
            let filled = variables
                .iter()
                .fold((*text).to_owned(), |text, (variable, value)| {
                    text.replace(variable, value)
                });
            (*path, filled)
        })
        .collect())
}

fn check(name: &str) -> Result<()> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.len() <= MAX_NAME
        && name.bytes().all(letters);
    if !good {
        bail!(
            "{name:?} is no name of a filter: lower-case letters, digits and dashes, a letter \
             first, at most {MAX_NAME}"
        );
    }
    // A crate of such a name would hide what its own tests need.
    if [
        "test",
        "core",
        "std",
        "alloc",
        "proc-macro",
        "weft-sdk",
        "serde",
        "serde-json",
        "schemars",
        "proxy-wasm",
    ]
    .contains(&name)
        || KEYWORDS.contains(&name)
    {
        bail!("{name:?} has a meaning of its own in Rust: choose another name");
    }
    Ok(())
}

/// Of those that are lower-case letters alone.
const KEYWORDS: [&str; 48] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "unsafe", "use",
    "virtual", "where", "while",
];

/// `jwt-auth` is `JwtAuth`.
fn type_name(name: &str) -> String {
    let camel: String = name
        .split('-')
        .filter_map(|word| {
            let mut letters = word.chars();
            let first = letters.next()?.to_ascii_uppercase();
            Some(first.to_string() + letters.as_str())
        })
        .collect();
    // Names that are there already.
    match camel.as_str() {
        "Root" | "Context" | "RootContext" | "HttpContext" | "ContextType" | "Action"
        | "LogLevel" => format!("{camel}Filter"),
        "Filter" | "Flow" | "Config" | "Request" | "Response" | "Reply" | "Plugin" | "Error"
        | "Result" | "Counter" | "Gauge" | "Histogram" | "Interests" | "Kv" | "Duration" | "Rc"
        | "NoConfig" | "Self" | "Deserialize" | "JsonSchema" | "Option" | "Some" | "None"
        | "Ok" | "Err" | "String" | "Vec" | "Box" => format!("{camel}Filter"),
        _ => camel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        let weft = Kind::Weft(Sdk::Version("0.1".to_owned()));
        for kind in [&weft, &Kind::ProxyWasm] {
            for (path, text) in render("my-filter", kind).expect("a good name") {
                assert!(
                    !text.contains("{{name") && !text.contains("{{sdk"),
                    "{path}: {text}"
                );
                assert!(
                    !text.contains("{{crate") && !text.contains("{{type"),
                    "{path}: {text}"
                );
            }
        }
        let files = render("my-filter", &weft).expect("a good name");
        let manifest = &files[0].1;
        assert!(manifest.contains("name = \"my-filter\""), "{manifest}");
        assert!(
            manifest.contains("weft-sdk = { version = \"0.1\" }"),
            "{manifest}"
        );
        let library = &files[1].1;
        assert!(library.contains("impl Filter for MyFilter"), "{library}");
    }

    #[test]
    fn types_have_names_of_their_own() {
        for (name, expected) in [
            ("jwt-auth", "JwtAuth"),
            ("a--b2", "AB2"),
            ("filter", "FilterFilter"),
            ("request", "RequestFilter"),
        ] {
            assert_eq!(type_name(name), expected);
        }
    }

    #[test]
    fn a_bad_name_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let kind = Kind::Weft(Sdk::Version("0.1".to_owned()));
        for name in [
            "", "-a", "a-", "A", "a/b", "../a", "a_b", "1a", "match", "serde",
        ] {
            assert!(create(name, dir.path(), &kind).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
        create("good", dir.path(), &kind).expect("it is made");
        let err = create("good", dir.path(), &kind).expect_err("it is there");
        assert!(err.to_string().contains("there already"), "{err}");
    }
}
