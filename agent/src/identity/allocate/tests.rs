use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use futures_util::future::join_all;
use tokio::task::yield_now;

use super::*;

/// The API as the allocation sees it: creating a name works once.
#[derive(Default)]
struct Objects(Mutex<BTreeMap<NumericIdentity, Labels>>);

impl IdentityApi for Objects {
    async fn create(&self, id: NumericIdentity, labels: &Labels) -> Result<bool, AllocateError> {
        let mut objects = self.0.lock().expect("lock");
        if objects.contains_key(&id) {
            return Ok(false);
        }
        objects.insert(id, labels.clone());
        Ok(true)
    }

    async fn labels(&self, id: NumericIdentity) -> Result<Option<Labels>, AllocateError> {
        Ok(self.0.lock().expect("lock").get(&id).cloned())
    }
}

fn labels(value: &str) -> Labels {
    Labels::parse_all([format!("k8s:app={value}").as_str()]).expect("labels")
}

fn nth(labels: &Labels, n: usize) -> NumericIdentity {
    NumericIdentity::candidates(labels)
        .nth(n)
        .expect("a number")
}

#[tokio::test]
async fn two_nodes_that_know_nothing_agree() {
    let api = Objects::default();
    let nothing = Numbers::default();
    let one = allocate(&api, &nothing, &labels("a")).await.expect("one");
    let two = allocate(&api, &nothing, &labels("a")).await.expect("two");
    assert_eq!(one, two);
    assert_eq!(one, nth(&labels("a"), 0));
}

#[tokio::test]
async fn two_label_sets_never_share_a_number() {
    let api = Objects::default();
    let wanted = nth(&labels("b"), 0);
    api.0
        .lock()
        .expect("lock")
        .insert(wanted, labels("somebody else"));
    let id = allocate(&api, &Numbers::default(), &labels("b"))
        .await
        .expect("a number");
    assert_eq!(id, nth(&labels("b"), 1));
}

#[tokio::test]
async fn what_is_known_is_not_created_again() {
    let api = Objects::default();
    let known = Numbers::new([(NumericIdentity(300), labels("a"))]);
    let id = allocate(&api, &known, &labels("a")).await.expect("known");
    assert_eq!(id, NumericIdentity(300));
    assert!(api.0.lock().expect("lock").is_empty());
}

/// The same, where others come in between at every step.
struct Busy<'a>(&'a Objects);

impl IdentityApi for Busy<'_> {
    async fn create(&self, id: NumericIdentity, labels: &Labels) -> Result<bool, AllocateError> {
        yield_now().await;
        let created = self.0.create(id, labels).await;
        yield_now().await;
        created
    }

    async fn labels(&self, id: NumericIdentity) -> Result<Option<Labels>, AllocateError> {
        yield_now().await;
        let labels = self.0.labels(id).await;
        yield_now().await;
        labels
    }
}

/// Two label sets that try the same number first.
fn rivals() -> [Labels; 2] {
    let mut seen = HashMap::new();
    for value in 0.. {
        let own = labels(&value.to_string());
        if let Some(other) = seen.insert(nth(&own, 0), own.clone()) {
            return [other, own];
        }
    }
    unreachable!("there are fewer numbers than labels");
}

#[tokio::test]
async fn agents_that_race_agree_on_every_number() {
    let api = Objects::default();
    let rivals = rivals();
    let nothing = Numbers::default();
    // Four agents, in either order.
    let asked: Vec<_> = (0..8).map(|turn| &rivals[(turn / 2 + turn) % 2]).collect();
    let busy = Busy(&api);
    let numbers = join_all(asked.iter().map(|labels| allocate(&busy, &nothing, labels))).await;
    let mut agreed: HashMap<&Labels, NumericIdentity> = HashMap::new();
    for (labels, number) in asked.into_iter().zip(numbers) {
        let number = number.expect("a number");
        assert_eq!(*agreed.entry(labels).or_insert(number), number);
    }
    assert_ne!(agreed[&rivals[0]], agreed[&rivals[1]]);
    assert_eq!(api.0.lock().expect("lock").len(), 2, "nothing left over");
}
