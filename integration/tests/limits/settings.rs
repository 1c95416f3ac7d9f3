//! Settings of the proxy, from the agents' variables to what clients see.

use std::path::Path;

use weft_integration::lab::Lab;
use weft_integration::pods::{idle, policy, server};
use weft_integration::watch::until;

use crate::world::{LOAD, SERVERS};

#[test]
fn the_agents_settings_reach_the_proxy() {
    let lab = Lab::up_with(
        &["--nodes", "1"],
        &[
            ("WEFT_PROXY_SERVER_NAME", "death-star"),
            ("WEFT_PROXY_MAX_HEADERS", "12"),
            ("WEFT_PROXY_HEADER_TIMEOUT", "1m30s"),
        ],
    )
    .unwrap();
    let load = Path::new(LOAD);
    lab.apply(&[
        server(load, "http", "http", SERVERS, &["[::]:8080"]),
        idle("friend", SERVERS, &[("side", "friend")]),
        policy(
            "http",
            ("app", "http"),
            ("side", "friend"),
            &[(8080, Some("GET"))],
        ),
    ])
    .unwrap();
    let [http, _friend] = lab.ready(["http", "friend"]).unwrap();
    let url = format!("http://{http}:8080/");
    let curl = ["curl", "-s", "-i", "--max-time", "1", &url];
    until(|| {
        let answer = lab.exec("friend", &curl).output;
        match answer.contains("\r\nserver: death-star\r\n") {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .unwrap();
    let many = (0..20).map(|number| format!("-Hx-{number}: 1"));
    let many: Vec<_> = many.collect();
    let line = [
        &curl[..],
        &many.iter().map(|one| &**one).collect::<Vec<_>>(),
    ]
    .concat();
    let answer = lab.exec("friend", &line).output;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let page = lab.node(SERVERS, &["curl", "-s", "http://127.0.0.1:9901/config"]);
    let page: serde_json::Value = serde_json::from_str(&page.well().unwrap()).unwrap();
    assert_eq!(page["settings"]["header_timeout_ms"], 90_000, "{page}");
    assert_eq!(
        page["settings"]["max_memory_per_source"],
        64 << 20,
        "{page}"
    );
}
