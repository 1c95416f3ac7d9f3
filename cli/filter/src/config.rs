//! Configurations and other texts, as they stand in arguments: written there, or in a file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The bytes of an argument: its own text, or with `@` before it those of a file.
pub(crate) fn text_or_file(argument: &str) -> Result<Vec<u8>> {
    match argument.strip_prefix('@') {
        Some(path) => fs::read(path).with_context(|| path.to_owned()),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

/// A configuration: JSON or YAML, or a manifest of which it is a part. None where none is written: the
/// mesh gives the filter nothing then.
pub(crate) fn read(argument: &str) -> Result<Option<Value>> {
    let text = text_or_file(argument)?;
    let text = std::str::from_utf8(&text).context("it is no text")?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let is_yaml = argument.strip_prefix('@').is_some_and(|path| {
        let extension = Path::new(path).extension();
        extension.is_some_and(|it| it == "yaml" || it == "yml")
    });
    if !is_yaml {
        return serde_json::from_str(text)
            .map(Some)
            .context("it is no JSON (a file is named @FILE)");
    }
    let value: Value = serde_saphyr::from_str(text).context("it is no YAML")?;
    of_manifest(value)
}

/// The part of a manifest that is the filter's; of anything else all.
fn of_manifest(mut value: Value) -> Result<Option<Value>> {
    let field = match value.get("kind").and_then(Value::as_str) {
        Some("WeftFilter" | "WeftClusterFilter") => "config",
        Some("WasmPlugin") => "pluginConfig",
        Some(kind) if value.get("apiVersion").is_some() => {
            bail!("it is a {kind}, which is no filter")
        }
        _ => return Ok(Some(value)),
    };
    let config = value.get_mut("spec").and_then(|spec| spec.get_mut(field));
    Ok(config.map(Value::take).filter(|config| !config.is_null()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_is_read_from_where_it_stands() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("it is written");
            format!("@{}", path.display())
        };
        let manifest = "apiVersion: weft.dev/v1alpha1\nkind: WeftFilter\nspec:\n  config: {a: 1}\n";
        let plugin = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nspec:\n  pluginConfig: {a: 1}\n";
        for argument in [
            r#"{"a": 1}"#.to_owned(),
            file("a.json", r#"{"a": 1}"#),
            file("b.yaml", "a: 1"),
            file("c.yml", manifest),
            file("d.yaml", plugin),
        ] {
            assert_eq!(
                read(&argument).expect("it is good"),
                Some(json!({"a": 1})),
                "{argument}"
            );
        }
        for argument in [
            "",
            " \n",
            &file("e.yaml", "kind: WeftFilter\nspec: {}"),
            &file("g.yaml", "kind: WasmPlugin\nspec: {url: file://x}"),
            &file("h.yaml", "kind: WasmPlugin\nspec: {pluginConfig: null}"),
        ] {
            assert_eq!(read(argument).expect("it is good"), None, "{argument}");
        }
        let empty = file("i.yaml", "kind: WasmPlugin\nspec: {pluginConfig: {}}");
        assert_eq!(read(&empty).expect("it is good"), Some(json!({})));
        for (argument, why) in [
            ("{".to_owned(), "no JSON"),
            ("a: 1".to_owned(), "no JSON"),
            (
                file("f.yaml", "apiVersion: v1\nkind: Pod"),
                "a Pod, which is no filter",
            ),
            ("@/nowhere/at.all".to_owned(), "/nowhere/at.all"),
        ] {
            let error = format!("{:#}", read(&argument).expect_err("it is bad"));
            assert!(error.contains(why), "{argument}: {error}");
        }
    }
}
