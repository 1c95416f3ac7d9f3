//! The files under /etc that a pod has of its own.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::net::plan::DNS_IP;

/// Writes a pod's resolv.conf, hosts and nsswitch.conf into `dir` and returns
/// what is to be bound where.
///
/// # Errors
/// When a file cannot be written, or the machine has none to cover.
pub(super) fn write(
    dir: &Path,
    namespace: &str,
    hostname: &str,
    ip: Ipv4Addr,
) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let files = [
        ("/etc/resolv.conf", resolv_conf(namespace)),
        ("/etc/hosts", hosts(hostname, ip)),
        // The machine may ask a local resolver over a socket instead of the
        // addresses in resolv.conf.
        ("/etc/nsswitch.conf", nsswitch()),
    ];
    let mut binds = Vec::with_capacity(files.len());
    for (target, text) in files {
        let target = PathBuf::from(target);
        if !target.exists() {
            // No nsswitch.conf means the C library's default: files, then DNS.
            if target.ends_with("nsswitch.conf") {
                continue;
            }
            let message = format!("the machine has no {} to cover", target.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let source = dir.join(target.file_name().unwrap_or_default());
        std::fs::write(&source, text)?;
        binds.push((source, target));
    }
    Ok(binds)
}

fn resolv_conf(namespace: &str) -> String {
    format!(
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n\
         nameserver {DNS_IP}\n\
         options ndots:5\n"
    )
}

fn hosts(hostname: &str, ip: Ipv4Addr) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{hostname}\n")
}

fn nsswitch() -> String {
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
     protocols: files\nservices: files\n"
        .to_owned()
}
