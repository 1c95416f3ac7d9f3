//! Sets, adds, renames and removes headers of requests and responses. Values may have variables,
//! which are filled in from what is known of the request.

mod template;

use std::collections::BTreeMap;

use template::Template;
use weft_sdk::prelude::*;
use weft_sdk::{Attributes, Headers};

/// What is changed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Headers of requests.
    #[serde(default)]
    request: Changes,
    /// Headers of responses.
    #[serde(default)]
    response: Changes,
}

/// Made in this order: rename, remove, set, add.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    /// Old names and new ones. All values are moved, behind those that the new name has.
    rename: BTreeMap<String, String>,
    /// Names of headers to remove.
    remove: Vec<String>,
    /// Headers to set, in place of values that are there. A value may have `${variables}`.
    set: BTreeMap<String, String>,
    /// Headers to add to. A value may have `${variables}`.
    add: BTreeMap<String, String>,
}

/// The filter.
#[derive(Debug)]
pub struct HeaderTransform {
    request: Plan,
    response: Plan,
}

/// Changes with their variables read.
#[derive(Debug)]
struct Plan {
    rename: Vec<(String, String)>,
    remove: Vec<String>,
    set: Vec<(String, Template)>,
    add: Vec<(String, Template)>,
    /// A variable stands for something that has to be asked of the proxy.
    needs_attributes: bool,
}

impl Plan {
    fn new(field: &str, changes: Changes, check: fn(&str) -> Result<()>) -> Result<Self> {
        for (old, new) in &changes.rename {
            let at = format!("{field}.rename.{old}");
            check(old).context(&at)?;
            check(new).context(&at)?;
            if old.eq_ignore_ascii_case(new) {
                return Err(Error::new(format_args!(
                    "{at}: {new} is the same header, for names match in any case"
                )));
            }
        }
        for (at, name) in changes.remove.iter().enumerate() {
            check(name).context(format_args!("{field}.remove[{at}]"))?;
        }
        let read = |what: &str, values: BTreeMap<String, String>| {
            let templates = values.into_iter().map(|(name, value)| {
                check(&name).context(format_args!("{field}.{what}.{name}"))?;
                let template =
                    Template::parse(&value).context(format_args!("{field}.{what}.{name}"))?;
                Ok((name, template))
            });
            templates.collect::<Result<Vec<_>>>()
        };
        let set = read("set", changes.set)?;
        let add = read("add", changes.add)?;
        let mut templates = set.iter().chain(&add);
        Ok(Self {
            needs_attributes: templates.any(|(_, template)| template.needs_attributes()),
            rename: changes.rename.into_iter().collect(),
            remove: changes.remove,
            set,
            add,
        })
    }

    const fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }

    fn apply(
        &self,
        headers: &Headers,
        of_request: &Headers,
        attributes: impl FnOnce() -> Rc<Attributes>,
    ) -> Result<()> {
        for (old, new) in &self.rename {
            for value in headers.get_all(old) {
                headers.append(new, value)?;
            }
            headers.remove(old)?;
        }
        for name in &self.remove {
            headers.remove(name)?;
        }
        let attributes = self.needs_attributes.then(attributes);
        let attributes = attributes.as_deref();
        for (name, value) in &self.set {
            headers.set(name, value.fill(of_request, attributes))?;
        }
        for (name, value) in &self.add {
            headers.append(name, value.fill(of_request, attributes))?;
        }
        Ok(())
    }
}

#[filter]
impl Filter for HeaderTransform {
    const NAME: &'static str = "header-transform";
    const INTERESTS: Interests = Interests::REQUEST_HEADERS.union(Interests::RESPONSE_HEADERS);

    type Config = Config;

    fn new(config: Config, _plugin: &Plugin) -> Result<Self> {
        let filter = Self {
            request: Plan::new("request", config.request, Headers::check_request_name)?,
            response: Plan::new("response", config.response, Headers::check_name)?,
        };
        if filter.request.is_empty() && filter.response.is_empty() {
            return Err(Error::new(
                "request and response change nothing: set, add, rename or remove a header",
            ));
        }
        Ok(filter)
    }

    fn interests(&self) -> Interests {
        Interests::of_methods(!self.request.is_empty(), !self.response.is_empty())
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let headers = request.headers();
        self.request
            .apply(&headers, &headers, || request.attributes())?;
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        if !self.response.is_empty() {
            self.response
                .apply(&response.headers(), &response.request_headers(), || {
                    response.attributes()
                })?;
        }
        Ok(Flow::Continue)
    }
}
