//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use std::borrow::Cow;
use std::sync::LazyLock;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_core::policy::{Origin, PolicyKind, Rule};

use super::convert::{self, Counts, MAX_SPECS, Tables};
use super::error::{Errors, FieldErrors, Path};
use super::schema::schema_of;
use super::spec::PolicySpec;
use super::status::{PolicyStatus, lenient};
use super::strict;

/// API group of all custom resources.
pub(super) const GROUP: &str = "cilium.io";
/// Their version.
pub(super) const VERSION: &str = "v2";

/// The content that both kinds of policy share.
///
/// `spec` and `specs` are kept as they were written: they are checked by
/// [`PolicyObject::rules`], so that an object that is wrong is refused by
/// itself instead of ending the watch of all objects.
pub trait PolicyObject: kube::Resource<DynamicType = ()> {
    /// Kind of the object.
    const KIND: PolicyKind;

    /// `spec`, as written.
    fn spec(&self) -> Option<&Value>;

    /// `specs`, as written.
    fn specs(&self) -> Option<&Value>;

    /// Fields beside metadata, spec, specs and status.
    fn unknown(&self) -> &Map<String, Value>;

    /// The object's rules.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its path. One error refuses
    /// the whole object: half a policy means something else.
    fn rules(&self) -> Result<Vec<Rule>, FieldErrors> {
        let mut errors = Errors::default();
        let root = Path::root("");
        for name in self.unknown().keys() {
            errors.add_with(&root.field(name), || {
                strict::unknown_field(name, ["spec", "specs", "status", "metadata"])
            });
        }
        let specs = specs(self.spec(), self.specs(), &mut errors);
        let mut counts = Counts::new();
        for Spec { content, path, .. } in &specs {
            counts.add(content, path);
        }
        if counts.report(&mut errors) {
            return errors.into_result(Vec::new());
        }
        let mut tables = Tables::default();
        let mut rules = Vec::new();
        for Spec {
            content,
            index,
            path,
        } in &specs
        {
            let origin = self.origin(*index);
            rules.extend(convert::rule(
                content,
                origin,
                path,
                &mut tables,
                &mut errors,
            ));
        }
        if let Some(spec) = specs.first()
            && errors.is_empty()
        {
            convert::http(&rules, &spec.path, &mut errors);
        }
        errors.into_result(rules)
    }

    /// The object's name for what its rules decide.
    fn origin(&self, spec: Option<usize>) -> Origin {
        let meta = self.meta();
        let namespace = match Self::KIND {
            PolicyKind::CiliumNetworkPolicy => meta.namespace.as_deref().unwrap_or("default"),
            PolicyKind::CiliumClusterwideNetworkPolicy => "",
        };
        Origin {
            kind: Self::KIND,
            namespace: namespace.into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
            spec,
        }
    }
}

/// Schema of `spec`, for checking.
pub(super) static SPEC: LazyLock<Value> = LazyLock::new(schema_of::<PolicySpec>);

/// A spec of an object, its fields known to be of their types.
struct Spec {
    content: PolicySpec,
    /// Position in `specs`; `None` for `spec`.
    index: Option<usize>,
    path: Path,
}

/// The specs of an object, less those that are not well-formed.
fn specs(spec: Option<&Value>, list: Option<&Value>, errors: &mut Errors) -> Vec<Spec> {
    let spec = spec.filter(|spec| !spec.is_null());
    let root = Path::root("specs");
    let list = match list {
        Some(Value::Array(list)) => list.as_slice(),
        None | Some(Value::Null) => &[],
        Some(_) => {
            errors.add(&root, "must be a list");
            &[]
        }
    };
    if list.len() > MAX_SPECS {
        let message = format!(
            "has {} elements, more than {MAX_SPECS}; make several objects of it",
            list.len()
        );
        errors.add(&root, message);
        return Vec::new();
    }
    if spec.is_none() && list.is_empty() && errors.is_empty() {
        errors.add(
            &Path::root("spec"),
            "is required (or specs, a list of them)",
        );
    }
    let single = spec.map(|spec| (spec, None, Path::root("spec")));
    let listed = list
        .iter()
        .enumerate()
        .map(|(index, spec)| (spec, Some(index), root.index(index)));
    single
        .into_iter()
        .chain(listed)
        .filter_map(|(value, index, path)| {
            let content = read(value, &path, errors)?;
            Some(Spec {
                content,
                index,
                path,
            })
        })
        .collect()
}

fn read(value: &Value, path: &Path, errors: &mut Errors) -> Option<PolicySpec> {
    let mut own = Errors::default();
    match value {
        Value::Object(_) => strict::check(value, &SPEC, path, &mut own),
        _ => own.add(path, "must be an object"),
    }
    if own.is_empty() {
        match PolicySpec::deserialize(value) {
            Ok(spec) => return Some(spec),
            Err(error) => own.add(path, error.to_string()),
        }
    }
    errors.append(own);
    None
}

macro_rules! policy_object {
    ($name:ident, $kind:literal, $plural:literal, $scope:ty) => {
        #[doc = concat!("A ", $kind, " object.")]
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            /// `apiVersion` and `kind`.
            #[serde(flatten, default)]
            pub types: Option<TypeMeta>,
            /// Name, namespace, generation and so on.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// One rule, as written.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub spec: Option<Value>,
            /// Several rules, as written.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub specs: Option<Value>,
            /// What the operator says about it.
            #[serde(
                default,
                deserialize_with = "lenient",
                skip_serializing_if = "Option::is_none"
            )]
            pub status: Option<PolicyStatus>,
            /// Fields that do not belong there.
            #[serde(flatten)]
            pub unknown: Map<String, Value>,
        }

        impl kube::Resource for $name {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                VERSION.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl PolicyObject for $name {
            const KIND: PolicyKind = PolicyKind::$name;

            fn spec(&self) -> Option<&Value> {
                self.spec.as_ref()
            }

            fn specs(&self) -> Option<&Value> {
                self.specs.as_ref()
            }

            fn unknown(&self) -> &Map<String, Value> {
                &self.unknown
            }
        }
    };
}

policy_object!(
    CiliumNetworkPolicy,
    "CiliumNetworkPolicy",
    "ciliumnetworkpolicies",
    NamespaceResourceScope
);
policy_object!(
    CiliumClusterwideNetworkPolicy,
    "CiliumClusterwideNetworkPolicy",
    "ciliumclusterwidenetworkpolicies",
    ClusterResourceScope
);

#[cfg(test)]
pub(super) mod tests;
