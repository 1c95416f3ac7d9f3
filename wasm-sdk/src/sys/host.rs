//! The host's functions, natively: those of the host that a test has put in place, and harmless
//! nothings where there is none.

use std::cell::RefCell;
use std::rc::Rc;

use super::types::{
    Attributes, Direction, FetchError, FetchRequest, Fields, Header, KvEntry, KvError, Label,
    Level, MetricKind, Peer,
};

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
}

/// Puts a host in place for this thread, until the returned guard is dropped.
#[cfg_attr(
    not(feature = "testing"),
    expect(dead_code, reason = "only tests have a host to put here")
)]
pub(crate) fn enter(host: Rc<dyn Host>) -> Entered {
    Entered(CURRENT.with(|current| current.borrow_mut().replace(host)))
}

/// Puts back what was there before.
pub(crate) struct Entered(Option<Rc<dyn Host>>);

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.0.take();
        // Dropped after the borrow: what it owns may be a filter that calls its host.
        let ours = CURRENT.with(|current| std::mem::replace(&mut *current.borrow_mut(), before));
        drop(ours);
    }
}

fn current() -> Option<Rc<dyn Host>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Declares the trait and the functions that call it, from one list.
macro_rules! host {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $without:expr;)*) => {
        /// What stands in for the proxy.
        pub(crate) trait Host {
            $($(#[$doc])* fn $name(&self, $($arg: $type),*) $(-> $result)?;)*
        }

        $($(#[$doc])* pub fn $name($($arg: $type),*) $(-> $result)? {
            match current() {
                Some(host) => host.$name($($arg),*),
                None => $without,
            }
        })*
    };
}

host! {
    /// The first value of a header.
    fn get_header(ctx: u64, of: Fields, name: &[u8]) -> Option<Vec<u8>> = None;
    /// All values of a header.
    fn get_all(ctx: u64, of: Fields, name: &[u8]) -> Vec<Vec<u8>> = Vec::new();
    /// All headers.
    fn entries(ctx: u64, of: Fields) -> Vec<Header> = Vec::new();
    /// Replaces all values of a header.
    fn set_header(ctx: u64, of: Fields, name: &[u8], value: &[u8]) -> bool = false;
    /// Adds a value.
    fn append_header(ctx: u64, of: Fields, name: &[u8], value: &[u8]) -> bool = false;
    /// Removes all values of a header.
    fn remove_header(ctx: u64, of: Fields, name: &[u8]) -> bool = false;
    /// Changes where the request goes.
    fn set_target(ctx: u64, part: &str, value: &str) -> bool = false;
    /// The response's status.
    fn get_status(ctx: u64) -> Option<u16> = None;
    /// Changes the response's status.
    fn set_status(ctx: u64, status: u16) -> bool = false;
    /// What is known of an exchange.
    fn get_attributes(ctx: u64) -> Attributes = nothing_known();
    /// Sends a request.
    fn start_fetch(ctx: u64, request: &FetchRequest) -> Result<u64, FetchError> = Err(FetchError::NoEndpoint);
    /// Its answer is of no more use.
    fn cancel_fetch(ctx: u64, id: u64) = ();
    /// A stored value.
    fn kv_get(key: &str) -> Option<KvEntry> = None;
    /// Stores a value.
    fn kv_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<u64, KvError> = Err(KvError::Quota);
    /// Stores a value if it has this version.
    fn kv_cas(key: &str, version: Option<u64>, value: &[u8], ttl_ms: Option<u64>) -> Result<u64, KvError> = Err(KvError::Quota);
    /// Forgets a value.
    fn kv_remove(key: &str) = ();
    /// Adds to a number.
    fn kv_incr(key: &str, delta: i64, ttl_ms: Option<u64>) -> Result<i64, KvError> = Err(KvError::Quota);
    /// The metric of this name and these labels.
    fn metric(kind: MetricKind, name: &str, labels: &[Label]) -> Result<u32, String> = Ok(0);
    /// Adds to a counter or a gauge.
    fn metric_add(id: u32, delta: f64) = ();
    /// Sets a gauge, records a value in a histogram.
    fn metric_record(id: u32, value: f64) = ();
    /// Sets an attribute of the span.
    fn span_attribute(ctx: u64, key: &str, value: &str) = ();
    /// Adds an event to the span.
    fn span_event(ctx: u64, name: &str, attributes: &[Label]) = ();
    /// Writes a line to the log.
    fn log(ctx: u64, level: Level, message: &str, labels: &[Label]) = ();
    /// Sets a timer.
    fn set_timer(ctx: u64, after_ms: u64) -> u64 = 0;
    /// It is of no more use.
    fn cancel_timer(ctx: u64, id: u64) = ();
    /// Nanoseconds since 1970.
    fn wall_clock() -> u64 = 0;
    /// Nanoseconds since some moment.
    fn monotonic_clock() -> u64 = 0;
    /// So many random bytes.
    fn random(count: u32) -> Vec<u8> = vec![0; count as usize];
}

/// Attributes of an exchange of which nothing is known.
pub(crate) fn nothing_known() -> Attributes {
    let nobody = || Peer {
        address: String::new(),
        port: 0,
        identity: 0,
        namespace: String::new(),
        pod: String::new(),
        labels: Vec::new(),
    };
    Attributes {
        request_id: String::new(),
        trace_id: String::new(),
        direction: Direction::Ingress,
        source: nobody(),
        destination: nobody(),
        verdict: String::new(),
        rule: String::new(),
        route: String::new(),
        method: String::new(),
        scheme: String::new(),
        authority: String::new(),
        path: String::new(),
        http_version: String::new(),
    }
}
