//! Numbers for label sets, agreed on by every node through the API.
//!
//! An identity object's name is its number, and the API creates a name once:
//! whoever comes second reads what is there. Every node tries the numbers in
//! the same order, so the same labels meet at the same number.

use std::future::Future;

use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;
use weft_core::model::{Labels, NumericIdentity};

use super::{Numbers, from_object_labels, to_object_labels};
use crate::kube::identity_resource;

/// Why a label set has no number yet.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// The API refused or is away; trying again later is right.
    #[error("identity objects: {0}")]
    Api(#[from] Box<kube::Error>),
    /// Every number is taken by other labels.
    #[error("no identity number is free")]
    Full,
}

/// What the allocation needs of the API.
pub trait IdentityApi {
    /// Creates the object; false when the number is taken.
    fn create(
        &self,
        id: NumericIdentity,
        labels: &Labels,
    ) -> impl Future<Output = Result<bool, AllocateError>> + Send;
    /// Labels of the object with this number, none when there is none (any
    /// more). Labels that cannot be read are the empty set, which is no pod's.
    fn labels(
        &self,
        id: NumericIdentity,
    ) -> impl Future<Output = Result<Option<Labels>, AllocateError>> + Send;
}

/// The number of a label set, made if there is none. `known` is what this node
/// has seen of the API; it may lag behind.
///
/// # Errors
/// When the API cannot be asked, or no number is left.
pub async fn allocate<A: IdentityApi>(
    api: &A,
    known: &Numbers,
    labels: &Labels,
) -> Result<NumericIdentity, AllocateError> {
    if let Some(id) = known.of(labels) {
        return Ok(id);
    }
    for id in NumericIdentity::candidates(labels) {
        if known.labels(id).is_some() {
            continue;
        }
        // Twice: between a refused create and the read the object may have
        // been removed as unused.
        for _ in 0..2 {
            if api.create(id, labels).await? {
                return Ok(id);
            }
            match api.labels(id).await? {
                Some(theirs) if theirs == *labels => return Ok(id),
                Some(_) => break,
                None => {}
            }
        }
    }
    Err(AllocateError::Full)
}

/// Identity objects in the Kubernetes API.
#[derive(Clone)]
pub struct KubeIdentities {
    api: Api<DynamicObject>,
}

impl KubeIdentities {
    /// Through this client.
    pub fn new(client: &Client) -> Self {
        Self {
            api: Api::all_with(client.clone(), &identity_resource()),
        }
    }
}

impl IdentityApi for KubeIdentities {
    async fn create(&self, id: NumericIdentity, labels: &Labels) -> Result<bool, AllocateError> {
        let mut object = DynamicObject::new(&id.to_string(), &identity_resource());
        object.data = json!({"security-labels": to_object_labels(labels)});
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(AllocateError::Api(Box::new(error))),
        }
    }

    async fn labels(&self, id: NumericIdentity) -> Result<Option<Labels>, AllocateError> {
        let object = self
            .api
            .get_opt(&id.to_string())
            .await
            .map_err(|error| AllocateError::Api(Box::new(error)))?;
        Ok(object.map(|object| {
            object
                .data
                .get("security-labels")
                .and_then(|value| serde_json::from_value(value.clone()).ok())
                .and_then(|map| from_object_labels(&map).ok())
                .unwrap_or_default()
        }))
    }
}

#[cfg(test)]
mod tests;
