//! The proxy passes bodies on without keeping them.

use std::path::PathBuf;

use crate::world::{SERVERS, World};

const GIB: u64 = 1 << 30;
/// What the proxy may grow by, whatever goes through it.
const GROWTH: u64 = 24 << 20;

/// Most memory that a process ever had resident, in bytes.
fn peak(process: u32) -> u64 {
    let path = PathBuf::from(format!("/proc/{process}/status"));
    let text = std::fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

#[test]
fn a_gibibyte_passes_in_constant_memory() {
    let world = World::policed();
    let ports = [(8080, Some("GET|PUT"))];
    let rules = weft_integration::pods::policy("http", ("app", "http"), ("side", "friend"), &ports);
    world.lab.apply(&[rules]).unwrap();
    world.until_curl("friend", 8080, &["-X", "PUT"], "0\n");
    let proxy = world.lab.process("weft-proxy", SERVERS).unwrap();
    let before = peak(proxy);

    let down = format!("http://{}:8080/bytes/{GIB}", world.server);
    let written = "%{http_code} %{size_download}";
    let curl = ["curl", "-s", "-o", "/dev/null", "-w", written, &down];
    let began = std::time::Instant::now();
    let got = world.lab.exec("friend", &curl).well().unwrap();
    assert_eq!(got, format!("200 {GIB}"));
    eprintln!("1 GiB down in {:?}", began.elapsed());

    let up = format!(
        "head -c {GIB} /dev/zero | curl -s -T - http://{}:8080/up",
        world.server
    );
    let began = std::time::Instant::now();
    let got = world.lab.exec("friend", &["sh", "-c", &up]).well().unwrap();
    assert_eq!(got, format!("{GIB}\n"));
    eprintln!("1 GiB up in {:?}", began.elapsed());

    assert_eq!(
        world.lab.process("weft-proxy", SERVERS).unwrap(),
        proxy,
        "it was restarted"
    );
    let grown = peak(proxy) - before;
    eprintln!(
        "the proxy grew by {} KiB over {} KiB",
        grown >> 10,
        before >> 10
    );
    assert!(grown < GROWTH, "{grown} bytes");
}
