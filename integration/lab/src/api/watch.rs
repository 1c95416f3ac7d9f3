//! Watches over HTTP: one JSON event a line, for as long as the client listens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::answer::View;
use super::object;
use super::request::Query;
use super::resource::ResourceId;
use super::selector::Selector;
use super::store::{ChangeKind, Store, StoreEvent};

/// How often a quiet watch says which revision it has reached.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

struct Watcher {
    store: Store,
    id: ResourceId,
    namespace: Option<String>,
    selector: Selector,
    view: View,
    revisions: tokio::sync::watch::Receiver<u64>,
    cursor: u64,
    pending: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    over: bool,
}

/// Answers a `watch=true` request.
pub(super) fn serve(
    store: &Store,
    view: View,
    namespace: Option<String>,
    selector: Selector,
    query: &Query,
) -> Response {
    let now = Instant::now();
    let timeout = query
        .number("timeoutSeconds")
        .map_or(DEFAULT_TIMEOUT, |s| Duration::from_secs(s.clamp(1, 86_400)));
    let mut watcher = Watcher {
        store: store.clone(),
        id: view.info.id(),
        namespace,
        selector,
        view,
        revisions: store.revisions(),
        cursor: 0,
        pending: VecDeque::new(),
        bookmarks: query.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_EVERY,
        deadline: now + timeout,
        over: false,
    };
    watcher.begin(query);
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watcher))
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, Body::from_stream(lines)).into_response()
}

impl Watcher {
    /// Everything there is, or the place in the history that the client has reached.
    fn begin(&mut self, query: &Query) {
        let initial = query.flag("sendInitialEvents");
        let asked = query.get("resourceVersion");
        if let (Ok(revision), false) = (asked.parse::<u64>(), initial || asked == "0") {
            self.cursor = revision;
            return;
        }
        let (objects, revision) = self.store.list_objects(&self.id, self.namespace.as_deref());
        self.cursor = revision;
        for object in objects.iter().filter(|o| self.selector.matches(o)) {
            self.pending.push_back(self.line("ADDED", object));
        }
        if initial {
            self.bookmark(json!({ "k8s.io/initial-events-end": "true" }));
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Marked as seen before looking, so a change in between wakes us at once.
            self.revisions.borrow_and_update();
            self.catch_up();
            if !self.pending.is_empty() {
                continue;
            }
            let bookmark_due = self.bookmarks.then_some(self.next_bookmark);
            let wake = bookmark_due.map_or(self.deadline, |due| due.min(self.deadline));
            tokio::select! {
                changed = self.revisions.changed() => self.over = changed.is_err(),
                () = sleep_until(wake) => {
                    self.over = Instant::now() >= self.deadline;
                    if self.bookmarks {
                        self.bookmark(Value::Null);
                    }
                }
            }
        }
    }

    fn catch_up(&mut self) {
        match self.store.changes_since(&self.id, self.cursor) {
            Ok((changes, revision)) => {
                self.cursor = self.cursor.max(revision);
                for change in changes {
                    self.report(&change);
                }
            }
            Err(gone) => {
                let line = json!({ "type": "ERROR", "object": gone.to_status() });
                self.pending.push_back(to_line(&line));
                self.over = true;
            }
        }
    }

    /// What a change means to this client: an object can come into and leave its selection.
    fn report(&mut self, change: &StoreEvent) {
        let selects = |object: &Arc<Value>| {
            let here = self
                .namespace
                .as_deref()
                .is_none_or(|ns| ns == object::namespace(object));
            here && self.selector.matches(object)
        };
        let before = change.previous.as_ref().is_some_and(selects);
        let after = change.change != ChangeKind::Deleted && selects(&change.object);
        let kind = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return,
        };
        self.pending.push_back(self.line(kind, &change.object));
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        to_line(&json!({ "type": kind, "object": self.view.one(object) }))
    }

    fn bookmark(&mut self, annotations: Value) {
        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
        let object = self.view.bookmark(self.cursor, annotations);
        let line = json!({ "type": "BOOKMARK", "object": object });
        self.pending.push_back(to_line(&line));
    }
}

fn to_line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}
