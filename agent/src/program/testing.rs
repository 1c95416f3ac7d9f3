//! A kernel for tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_datapath::{Endpoint, PolicyEntry, TableUse};

use super::{Kernel, KernelError};
use crate::plan::{Address, Frontend, ServiceEntry};

/// A kernel that writes down what it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) calls: Vec<String>,
    pub(crate) entries: BTreeMap<u32, Vec<PolicyEntry>>,
    /// The call that fails.
    pub(crate) fail: Option<&'static str>,
    pub(crate) epoch: u32,
}

impl Recorder {
    fn call(&mut self, what: &'static str, detail: String) -> Result<(), KernelError> {
        self.calls.push(format!("{what}{detail}"));
        if self.fail == Some(what) {
            return Err(KernelError {
                what,
                reason: "told to".into(),
            });
        }
        Ok(())
    }

    /// What was called since the last time.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

fn flags(endpoint: &Endpoint) -> String {
    let denies = endpoint.default_deny_ingress || endpoint.default_deny_egress;
    let flag = |set, name: &'static str| if set { name } else { "" };
    format!(
        " {}={}{}{}{}",
        endpoint.id,
        endpoint.identity,
        flag(endpoint.default_deny_ingress, " in"),
        flag(endpoint.default_deny_egress, " eg"),
        flag(endpoint.policed && !denies, " policed"),
    )
}

impl Kernel for Recorder {
    fn detach(&mut self, ip: Ipv4Addr) -> Result<(), KernelError> {
        self.call("detach", format!(" {ip}"))
    }
    fn policy(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<bool, KernelError> {
        self.call("policy", format!(" {endpoint}"))?;
        let old = self.entries.insert(endpoint, entries.to_vec());
        Ok(old.as_deref() != Some(entries))
    }
    fn forget_policy(&mut self, endpoint: u32) -> Result<(), KernelError> {
        self.call("forget", format!(" {endpoint}"))
    }
    fn addresses(&mut self, _: &BTreeMap<Ipv4Net, Address>) -> Result<bool, KernelError> {
        self.call("addresses", String::new()).map(|()| false)
    }
    fn services(&mut self, _: &BTreeMap<Frontend, ServiceEntry>) -> Result<bool, KernelError> {
        self.call("services", String::new()).map(|()| false)
    }
    fn attach(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.call("attach", flags(endpoint))
    }
    fn update(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.call("update", flags(endpoint))
    }
    fn tables(&self) -> [(&'static str, TableUse); 2] {
        let policy = TableUse {
            capacity: 100,
            entries: self.entries.values().map(Vec::len).sum(),
            ..TableUse::default()
        };
        [("policy", policy), ("ipcache", TableUse::default())]
    }
    fn bump_epoch(&mut self) -> Result<u32, KernelError> {
        self.epoch += 1;
        self.call("epoch", String::new()).map(|()| self.epoch)
    }
    fn settled(&mut self) {
        self.calls.push("settled".into());
    }
}
