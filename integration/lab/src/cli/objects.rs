//! `apply`, `get`, `delete`: thin clients of the lab's API, for machines
//! without a recent kubectl.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;

use super::target::Api;
use crate::api::{table, yaml};

/// What `apply` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// Manifests; `-` is standard input.
    #[arg(short, long = "filename", required = true)]
    filenames: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// What `get` takes.
#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// Kind, in any of its spellings (`pods`, `po`, `cnp`).
    kind: String,
    /// One object.
    object: Option<String>,
    /// Namespace to look in.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Look in all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// How to show them.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// What `delete` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Kind, and names of that kind.
    #[arg(required_unless_present = "filenames")]
    target: Vec<String>,
    /// Manifests of what to delete; `-` is standard input.
    #[arg(short, long = "filename", conflicts_with = "target")]
    filenames: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// A served resource.
#[derive(Debug, Clone)]
struct Resource {
    group: String,
    version: String,
    kind: String,
    plural: String,
    singular: String,
    short_names: Vec<String>,
    namespaced: bool,
}

impl Resource {
    fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", self.plural);
        if let Some(name) = name {
            path += &format!("/{name}");
        }
        path
    }

    /// `deployment.apps/deathstar`, as kubectl names an object.
    fn label(&self, name: &str) -> String {
        let kind = self.kind.to_lowercase();
        match self.group.as_str() {
            "" => format!("{kind}/{name}"),
            group => format!("{kind}.{group}/{name}"),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let qualified = format!("{}.{}", self.plural, self.group);
        name == self.plural
            || name == self.singular
            || name == self.kind.to_lowercase()
            || name == qualified
            || self.short_names.contains(&name)
    }
}

/// What the API serves, the core group first.
async fn discover(api: &Api) -> anyhow::Result<Vec<Resource>> {
    let mut found = resources(&api.get("/api/v1").await?, "", "v1");
    let groups = api.get("/apis").await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        let preferred = group["preferredVersion"]["groupVersion"].as_str();
        let Some((group, version)) = preferred.and_then(|gv| gv.split_once('/')) else {
            continue;
        };
        let list = api.get(&format!("/apis/{group}/{version}")).await?;
        found.extend(resources(&list, group, version));
    }
    Ok(found)
}

fn resources(list: &Value, group: &str, version: &str) -> Vec<Resource> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = list["resources"].as_array().into_iter().flatten();
    all.filter(|resource| !text(&resource["name"]).contains('/'))
        .map(|resource| Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&resource["kind"]),
            plural: text(&resource["name"]),
            singular: text(&resource["singularName"]),
            short_names: resource["shortNames"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect(),
            namespaced: resource["namespaced"].as_bool().unwrap_or(false),
        })
        .collect()
}

fn find<'a>(served: &'a [Resource], name: &str) -> anyhow::Result<&'a Resource> {
    let found = served.iter().find(|resource| resource.is_called(name));
    found.with_context(|| format!("the server doesn't have a resource type {name:?}"))
}

/// The resource of a manifest.
fn resource_of<'a>(served: &'a [Resource], object: &Value) -> anyhow::Result<&'a Resource> {
    let api_version = object["apiVersion"].as_str().context("no apiVersion")?;
    let kind = object["kind"].as_str().context("no kind")?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    served
        .iter()
        .find(|resource| resource.group == group && resource.kind == kind)
        .with_context(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
}

/// Every object of the files, in order.
fn read(filenames: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in filenames {
        let text = match file.to_str() {
            Some("-") => std::io::read_to_string(std::io::stdin()),
            _ => std::fs::read_to_string(file),
        };
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        let read = yaml::documents(&text).with_context(|| file.display().to_string())?;
        objects.extend(read);
    }
    Ok(objects)
}

pub(super) async fn apply(lab: &str, args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    let objects = read(&args.filenames)?;
    let api = Api::of(lab)?;
    let mut served = discover(&api).await?;
    for object in objects {
        if resource_of(&served, &object).is_err() {
            // It may be of a kind that an object before it defined.
            served = discover(&api).await?;
        }
        let resource = resource_of(&served, &object)?;
        let name = object["metadata"]["name"]
            .as_str()
            .context("no metadata.name")?;
        let namespace = object["metadata"]["namespace"].as_str();
        let namespace = namespace.unwrap_or(&args.namespace);
        let path = resource.path(Some(namespace), Some(name));
        let before = api.get(&path).await.ok();
        let content = [(CONTENT_TYPE, "application/apply-patch+yaml")];
        let query = format!("{path}?fieldManager=weft-lab&force=true&fieldValidation=Strict");
        let after = api.call(Method::PATCH, &query, &content, object.to_string());
        let after = after.await.with_context(|| resource.label(name))?;
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let became = match before {
            None => "created",
            Some(before) if version(&before) == version(&after) => "unchanged",
            Some(_) => "configured",
        };
        println!("{} {became}", resource.label(name));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn get(lab: &str, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let api = Api::of(lab)?;
    let served = discover(&api).await?;
    let (kind, name) = match (args.kind.split_once('/'), args.object.as_deref()) {
        (Some((kind, name)), None) => (kind, Some(name)),
        _ => (args.kind.as_str(), args.object.as_deref()),
    };
    let resource = find(&served, kind)?;
    let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
    let mut path = resource.path(namespace, name);
    if let Some(selector) = &args.selector {
        path += &format!("?labelSelector={}", encode(selector));
    }
    let accept = match args.output {
        Output::Table | Output::Wide => "application/json;as=Table;v=v1;g=meta.k8s.io",
        _ => "application/json",
    };
    let answer = api
        .call(Method::GET, &path, &[(ACCEPT, accept)], String::new())
        .await?;
    match args.output {
        Output::Table | Output::Wide => {
            if answer["rows"].as_array().is_none_or(Vec::is_empty) {
                eprintln!("No resources found");
            } else {
                print!("{}", table::print(&answer, args.output == Output::Wide));
            }
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
        Output::Yaml => print!("{}", serde_saphyr::to_string(&answer)?),
        Output::Name => {
            let one = std::slice::from_ref(&answer);
            for object in answer["items"].as_array().map_or(one, Vec::as_slice) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                println!("{}", resource.label(name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn delete(lab: &str, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let api = Api::of(lab)?;
    let served = discover(&api).await?;
    let mut wanted = Vec::new();
    for object in read(&args.filenames)? {
        let resource = resource_of(&served, &object)?;
        let name = object["metadata"]["name"]
            .as_str()
            .context("no metadata.name")?;
        let namespace = object["metadata"]["namespace"].as_str();
        let namespace = namespace.unwrap_or(&args.namespace);
        wanted.push((
            resource,
            name.to_owned(),
            resource.path(Some(namespace), Some(name)),
        ));
    }
    for (kind, name) in named(&args.target)? {
        let resource = find(&served, &kind)?;
        let path = resource.path(Some(&args.namespace), Some(&name));
        wanted.push((resource, name, path));
    }
    for (resource, name, path) in &wanted {
        api.call(Method::DELETE, path, &[], String::new()).await?;
        println!(
            "{} \"{name}\" deleted",
            resource.label("").trim_end_matches('/')
        );
    }
    for (_, _, path) in &wanted {
        await_gone(&api, path).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `KIND NAME...` or `KIND/NAME...`.
fn named(words: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    if words.iter().any(|word| word.contains('/')) {
        let pairs = words.iter().map(|word| {
            let pair = word
                .split_once('/')
                .context("either KIND NAME or KIND/NAME")?;
            Ok((pair.0.to_owned(), pair.1.to_owned()))
        });
        return pairs.collect();
    }
    match words.split_first() {
        Some((_, [])) => bail!("which ones? KIND NAME..."),
        Some((kind, names)) => Ok(names
            .iter()
            .map(|name| (kind.clone(), name.clone()))
            .collect()),
        None => Ok(Vec::new()),
    }
}

/// As kubectl does: a delete is done when the object is gone.
async fn await_gone(api: &Api, path: &str) -> anyhow::Result<()> {
    let gone = async {
        while api.get(path).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(super::target::PATIENCE, gone)
        .await
        .with_context(|| format!("{path} is still there"))
}

/// Percent-encodes what a label selector may hold beside letters and digits.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> Resource {
        Resource {
            group: "cilium.io".to_owned(),
            version: "v2".to_owned(),
            kind: "CiliumNetworkPolicy".to_owned(),
            plural: "ciliumnetworkpolicies".to_owned(),
            singular: "ciliumnetworkpolicy".to_owned(),
            short_names: vec!["cnp".to_owned()],
            namespaced: true,
        }
    }

    #[test]
    fn a_resource_has_many_names_and_one_path() {
        let resource = policies();
        for name in [
            "cnp",
            "CiliumNetworkPolicy",
            "ciliumnetworkpolicies.cilium.io",
        ] {
            assert!(resource.is_called(name), "{name}");
        }
        assert!(!resource.is_called("cn"));
        assert_eq!(
            resource.path(Some("default"), Some("rule1")),
            "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/rule1"
        );
        assert_eq!(
            resource.label("rule1"),
            "ciliumnetworkpolicy.cilium.io/rule1"
        );
    }

    #[test]
    fn targets_are_named_in_two_ways() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let pair = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
        assert_eq!(
            named(&words(&["pod", "a", "b"])).unwrap(),
            [pair("pod", "a"), pair("pod", "b")]
        );
        assert_eq!(
            named(&words(&["cnp/rule1"])).unwrap(),
            [pair("cnp", "rule1")]
        );
        assert!(named(&words(&["pod"])).is_err());
        assert!(named(&words(&["pod/a", "b"])).is_err());
    }

    #[test]
    fn selectors_are_encoded() {
        assert_eq!(encode("org=empire,a/b"), "org%3Dempire%2Ca%2Fb");
    }
}
