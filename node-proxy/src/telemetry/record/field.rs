//! Numbers of fields in `node.proto`.

pub mod batch {
    pub const RECORDS: u32 = 1;
    pub const LOST: u32 = 2;
}
pub mod record {
    pub const TIME: u32 = 1;
    pub const KIND: u32 = 2;
    pub const DIRECTION: u32 = 3;
    pub const VERDICT: u32 = 4;
    pub const SOURCE: u32 = 5;
    pub const DESTINATION: u32 = 6;
    pub const HTTP: u32 = 7;
    pub const LATENCY_NS: u32 = 8;
    pub const REQUEST_ID: u32 = 9;
    pub const TRACE_ID: u32 = 10;
    pub const RULE: u32 = 11;
    pub const REASON: u32 = 12;
    pub const PROXY_PORT: u32 = 13;
    pub const FILTER: u32 = 14;
}
pub mod timestamp {
    pub const SECONDS: u32 = 1;
    pub const NANOS: u32 = 2;
}
pub mod peer {
    pub const IP: u32 = 1;
    pub const PORT: u32 = 2;
    pub const IDENTITY: u32 = 3;
    pub const ENDPOINT_ID: u32 = 4;
}
pub mod rule {
    pub const KIND: u32 = 1;
    pub const NAMESPACE: u32 = 2;
    pub const NAME: u32 = 3;
    pub const RULE: u32 = 4;
}
pub mod http {
    pub const CODE: u32 = 1;
    pub const METHOD: u32 = 2;
    pub const URL: u32 = 3;
    pub const PROTOCOL: u32 = 4;
    pub const HEADERS: u32 = 5;
}
pub mod header {
    pub const KEY: u32 = 1;
    pub const VALUE: u32 = 2;
}
