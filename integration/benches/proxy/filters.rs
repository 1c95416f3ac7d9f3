//! Ours and Envoy with a filter that adds a header.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_api::node::{Direction, Filter, FilterChain, FilterPhase, FilterStep, Snapshot};
use weft_integration::bench::process::Process;
use weft_integration::programs;

use super::contenders::{
    Contender, ENVOY, Ports, Stage, envoy_command, ready, weft_command, write,
};

/// Ours with a filter of the SDK.
pub const WEFT_SDK: &str = "weft + sdk filter";
/// Ours with the module that Envoy has, too.
pub const WEFT_PROXY_WASM: &str = "weft + proxy-wasm";
/// Envoy with it.
pub const ENVOY_PROXY_WASM: &str = "envoy + proxy-wasm";

/// How long a filter may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What both filters do, in their common words.
fn config() -> Value {
    json!({ "request": { "set": { "x-env": "production" } } })
}

impl Stage<'_> {
    /// The proxies with filters whose programs and modules are there.
    ///
    /// # Errors
    /// When one does not start, or its filter does not come.
    pub fn filtered(&self, backend: u16) -> anyhow::Result<Vec<Contender>> {
        let mut contenders = self.ours_filtered(backend)?;
        match self.peers.path(ENVOY) {
            Some(program) => contenders.push(self.envoy_with_filter(program, backend)?),
            None => eprintln!("{ENVOY} is not installed (scripts/bench-peers): left out"),
        }
        Ok(contenders)
    }

    /// Ours of them.
    ///
    /// # Errors
    /// When one does not start, or its filter does not come.
    pub fn ours_filtered(&self, backend: u16) -> anyhow::Result<Vec<Contender>> {
        Ok(vec![
            self.weft_with(WEFT_SDK, "header-transform", backend)?,
            self.weft_with(WEFT_PROXY_WASM, "proxy-headers", backend)?,
        ])
    }

    /// Ours and Envoy, each without a filter and with those that it runs.
    ///
    /// # Errors
    /// When one does not start, or its filter does not come.
    pub fn with_filters_and_without(&self, backend: u16) -> anyhow::Result<Vec<Contender>> {
        let mut contenders = vec![self.weft(backend)?];
        if let Some(program) = self.peers.path(ENVOY) {
            contenders.push(self.peer(ENVOY, program, backend)?);
        }
        contenders.extend(self.filtered(backend)?);
        Ok(contenders)
    }

    fn weft_with(
        &self,
        name: &'static str,
        filter: &str,
        backend: u16,
    ) -> anyhow::Result<Contender> {
        let mut ports = Ports::choose(backend)?;
        ports.one();
        let directory = self.folder(filter)?;
        let text = ports.fill(include_str!("config/snapshot.json"), &directory)?;
        let mut snapshot: Snapshot = serde_json::from_str(&text)?;
        let source = (1, Direction::Egress);
        attach(
            &mut snapshot,
            self::filter("default", filter, &config())?,
            source,
            backend,
        );
        let text = serde_json::to_string(&snapshot)?;
        let mut command = weft_command()?;
        command.arg("--module-dir").arg(modules()?);
        command.arg("--snapshot");
        command.arg(write(&directory, "snapshot.json", &text)?);
        let process = Process::start(name, &mut command, &directory, |c| self.cores.measured(c))?;
        let contender = ready(process, name, ports, None)?;
        await_filter(|| TcpStream::connect(("127.0.0.1", ports.http1)))?;
        Ok(contender)
    }

    fn envoy_with_filter(&self, program: PathBuf, backend: u16) -> anyhow::Result<Contender> {
        let mut ports = Ports::choose(backend)?;
        ports.one();
        let directory = self.folder("envoy-wasm")?;
        let module = module("proxy-headers")?;
        let filter = include_str!("config/envoy-wasm.yaml")
            .replace("{{CONFIG}}", &config().to_string())
            .replace("{{MODULE}}", module.to_str().context("a path in UTF-8")?);
        let text = ports.fill(include_str!("config/envoy.yaml"), &directory)?;
        let text = text.replace("{{FILTERS}}", &filter);
        let mut command = envoy_command(program, &directory, &text)?;
        let process = Process::start(ENVOY_PROXY_WASM, &mut command, &directory, |c| {
            self.cores.measured(c)
        })?;
        let contender = ready(process, ENVOY_PROXY_WASM, ports, None)?;
        await_filter(|| TcpStream::connect(("127.0.0.1", ports.http1)))?;
        Ok(contender)
    }
}

/// One of the modules, as the agent would name it.
pub fn filter(namespace: &str, name: &str, config: &Value) -> anyhow::Result<Filter> {
    let digest = Sha256::digest(fs::read(module(name)?)?);
    Ok(Filter {
        kind: "WeftFilter".into(),
        namespace: namespace.into(),
        name: name.into(),
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        config: config.to_string().into_bytes(),
        ..Filter::default()
    })
}

/// Puts the only filter before the requests of an endpoint to this port.
pub fn attach(
    snapshot: &mut Snapshot,
    filter: Filter,
    (endpoint_id, direction): (u32, Direction),
    port: u16,
) {
    snapshot.filters = vec![filter];
    snapshot.chains = vec![FilterChain {
        endpoint_id,
        direction: direction.into(),
        port_first: port.into(),
        port_last: port.into(),
        steps: vec![FilterStep {
            phase: FilterPhase::AfterPolicy.into(),
            filter: 0,
        }],
    }];
}

/// Where `make filters` puts modules: beside the folder of the programs.
pub fn modules() -> anyhow::Result<PathBuf> {
    let program = programs::find("weft-proxy")?;
    let target = program.parent().and_then(Path::parent);
    let folder = target.context("a target folder")?.join("filters");
    if !folder.is_dir() {
        bail!("{} is not there: make filters", folder.display());
    }
    Ok(folder)
}

fn module(name: &str) -> anyhow::Result<PathBuf> {
    Ok(modules()?.join(format!("{name}.wasm")))
}

/// One request on a connection of its own.
pub fn land(mut stream: TcpStream) -> std::io::Result<String> {
    stream.write_all(
        b"POST /v1/request-landing HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\
          connection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whether it was served.
pub fn is_good(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

/// Waits until requests pass: until then the filter is being compiled.
pub fn await_filter(connect: impl Fn() -> std::io::Result<TcpStream>) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let answer = land(connect()?)?;
        if is_good(&answer) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("its filter did not come: {answer}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
