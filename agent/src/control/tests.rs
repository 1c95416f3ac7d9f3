use std::time::Duration;

use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_api::node::node_control_client::NodeControlClient;
use weft_api::node::{FilterReport, Record};

use super::*;
use crate::filter::Store;

const DEADLINE: Duration = Duration::from_secs(10);

struct Served {
    control: Control,
    records: mpsc::Receiver<RecordBatch>,
    reports: watch::Receiver<Option<FilterReports>>,
    modules: Store,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (control, records) = Control::new();
        let stop = CancellationToken::new();
        let path = dir.path().join("control.sock");
        let serving = control.clone();
        let token = stop.clone();
        let (filters, reports, modules) = ProxyEnd::testing(dir.path());
        tokio::spawn(async move { serving.serve(&path, filters, token).await });
        Self {
            control,
            records,
            reports,
            modules,
            stop,
            dir,
        }
    }

    async fn dial(&self) -> NodeControlClient<Channel> {
        let path = self.dir.path().join("control.sock");
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut attempts = tokio::time::interval(Duration::from_millis(2));
        loop {
            attempts.tick().await;
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move {
                    UnixStream::connect(path)
                        .await
                        .map(hyper_util::rt::TokioIo::new)
                }
            });
            let endpoint = Endpoint::from_static("http://agent.invalid");
            match endpoint.connect_with_connector(connector).await {
                Ok(channel) => return NodeControlClient::new(channel),
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        }
    }

    async fn status(&self, holds: impl FnMut(&ProxyStatus) -> bool) -> ProxyStatus {
        let mut status = self.control.status();
        tokio::time::timeout(DEADLINE, status.wait_for(holds))
            .await
            .expect("in time")
            .expect("served")
            .clone()
    }
}

struct Proxy {
    say: mpsc::Sender<SnapshotStatus>,
    hear: Streaming<Snapshot>,
}

impl Proxy {
    async fn connect(served: &Served, version: &str) -> Self {
        let (say, statuses) = mpsc::channel(8);
        say.send(status(version, "")).await.expect("open");
        let hear = served
            .dial()
            .await
            .snapshots(ReceiverStream::new(statuses))
            .await
            .expect("a stream")
            .into_inner();
        Self { say, hear }
    }

    async fn next(&mut self) -> Snapshot {
        tokio::time::timeout(DEADLINE, self.hear.message())
            .await
            .expect("in time")
            .expect("no error")
            .expect("a snapshot")
    }
}

fn status(version: &str, error: &str) -> SnapshotStatus {
    SnapshotStatus {
        version: version.into(),
        error: error.into(),
        proxy_version: "0.1.0".into(),
        features: Vec::new(),
    }
}

fn snapshot(version: &str) -> Snapshot {
    Snapshot {
        version: version.into(),
        ..Snapshot::default()
    }
}

#[tokio::test]
async fn a_proxy_gets_the_newest_snapshot_and_its_answer_is_known() {
    let served = Served::start();
    served.control.publish(snapshot("one"));
    let mut proxy = Proxy::connect(&served, "").await;
    assert_eq!(proxy.next().await.version, "one");
    proxy.say.send(status("one", "")).await.expect("open");
    served.status(|status| status.acked == "one").await;

    served.control.publish(snapshot("two"));
    assert_eq!(proxy.next().await.version, "two");
    proxy
        .say
        .send(status("two", "policies[0]: bad"))
        .await
        .expect("open");
    let seen = served.status(|status| status.refused.is_some()).await;
    assert_eq!(seen.acked, "one");
    assert_eq!(seen.refused.map(|r| r.version).as_deref(), Some("two"));

    drop(proxy);
    let seen = served.status(|status| !status.connected).await;
    assert_eq!(seen.acked, "", "a proxy that is gone enforces nothing");
}

#[tokio::test]
async fn a_proxy_that_runs_the_newest_from_disk_is_not_bothered() {
    let served = Served::start();
    served.control.publish(snapshot("one"));
    let mut proxy = Proxy::connect(&served, "one").await;
    served.status(|status| status.acked == "one").await;
    served.control.publish(snapshot("two"));
    assert_eq!(proxy.next().await.version, "two");
}

#[tokio::test]
async fn it_is_known_which_publication_an_answer_is_about() {
    let served = Served::start();
    assert_eq!(served.control.publish(snapshot("one")), 1);
    let mut proxy = Proxy::connect(&served, "").await;
    assert_eq!(proxy.next().await.version, "one");
    let seen = served.status(|status| status.connected).await;
    assert_eq!(seen.answered, 0, "it may run from the first");
    proxy.say.send(status("one", "")).await.expect("open");
    served.status(|status| status.answered == 1).await;

    assert_eq!(served.control.publish(snapshot("two")), 2);
    assert_eq!(proxy.next().await.version, "two");
    assert_eq!(served.control.publish(snapshot("one")), 3);
    assert_eq!(served.control.publish(snapshot("one")), 3, "the same");
    assert_eq!(proxy.next().await.version, "one");
    proxy.say.send(status("two", "")).await.expect("open");
    served.status(|status| status.answered == 2).await;
    proxy
        .say
        .send(status("one", "in force, but cannot be stored"))
        .await
        .expect("open");
    let seen = served.status(|status| status.refused.is_some()).await;
    assert_eq!((&*seen.acked, seen.answered), ("two", 2));
    proxy.say.send(status("one", "")).await.expect("open");
    served.status(|status| status.answered == 3).await;

    // One that comes with the newest need not be sent it, one with an older
    // one may go on to all that is sent.
    drop(proxy);
    served.status(|status| !status.connected).await;
    served.control.publish(snapshot("three"));
    assert_eq!(served.control.publish(snapshot("one")), 5);
    let _same = Proxy::connect(&served, "one").await;
    served.status(|status| status.answered == 5).await;
    let _older = Proxy::connect(&served, "two").await;
    let seen = served.status(|status| status.acked == "two").await;
    assert_eq!(seen.answered, 4);
}

#[tokio::test]
async fn while_two_proxies_overlap_the_newer_ones_answer_counts() {
    let served = Served::start();
    served.control.publish(snapshot("one"));
    let mut old = Proxy::connect(&served, "").await;
    old.next().await;
    old.say.send(status("one", "")).await.expect("open");
    served.status(|status| status.acked == "one").await;
    let mut new = Proxy::connect(&served, "").await;
    new.next().await;
    served.control.publish(snapshot("two"));
    new.next().await;
    new.say.send(status("two", "")).await.expect("open");
    served.status(|status| status.acked == "two").await;
    drop(old);
    served.control.publish(snapshot("three"));
    new.next().await;
    new.say.send(status("three", "")).await.expect("open");
    let seen = served.status(|status| status.acked == "three").await;
    assert!(seen.connected);
}

#[tokio::test]
async fn records_come_out_in_order_with_what_was_lost() {
    let mut served = Served::start();
    let mut client = served.dial().await;
    let batches = (1..=3).map(|n| RecordBatch {
        records: vec![Record::default(); n],
        lost: n as u64,
    });
    let received = client
        .records(tokio_stream::iter(batches))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(received.records, 6);
    for n in 1..=3 {
        assert_eq!(served.records.recv().await.expect("a batch").lost, n);
    }
}

#[tokio::test]
async fn what_a_proxy_can_do_is_what_the_newest_one_says() {
    let served = Served::start();
    assert_eq!(served.control.status().borrow().filters, None);
    let connect = async |features: &[&str]| {
        let (say, statuses) = mpsc::channel(8);
        let hello = SnapshotStatus {
            features: features.iter().map(ToString::to_string).collect(),
            ..status("", "")
        };
        say.send(hello).await.expect("room");
        let mut client = served.dial().await;
        let hear = client.snapshots(ReceiverStream::new(statuses)).await;
        let hear = hear.expect("a stream").into_inner();
        Proxy { say, hear }
    };
    let able = connect(&["other", "filters"]).await;
    served.status(|status| status.filters == Some(true)).await;
    // Its answers do not say so again.
    able.say.send(status("one", "")).await.expect("open");
    served.status(|status| status.acked == "one").await;
    assert_eq!(served.control.status().borrow().filters, Some(true));
    // Another one takes over while the first one drains.
    let unable = connect(&[]).await;
    served.status(|status| status.filters == Some(false)).await;
    drop((able, unable));
    served.status(|status| !status.connected).await;
    assert_eq!(served.control.status().borrow().filters, Some(false));
}

#[tokio::test]
async fn a_module_comes_in_parts_as_it_was_kept() {
    let served = Served::start();
    let mut client = served.dial().await;
    let module: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = served.modules.put(&module, "").expect("kept");
    let request = |sha256: &str| ModuleRequest {
        sha256: sha256.to_owned(),
    };
    let answer = client.modules(request(&digest.to_string())).await;
    let mut parts = answer.expect("a stream").into_inner();
    let mut whole = Vec::new();
    while let Some(part) = parts.message().await.expect("no error") {
        whole.extend_from_slice(&part.data);
    }
    assert!(whole == module, "{} bytes", whole.len());

    let code = async |client: &mut NodeControlClient<Channel>, digest: &str| {
        let refused = client.modules(request(digest)).await;
        refused.expect_err("refused").code()
    };
    let none = "0".repeat(64);
    assert_eq!(code(&mut client, &none).await, tonic::Code::NotFound);
    assert_eq!(code(&mut client, "x").await, tonic::Code::InvalidArgument);
    // One that the disk has changed is an error, and is gone then.
    let path = served.dir.path().join("modules").join(digest.to_string());
    std::fs::write(path, &module[1..]).expect("written");
    let answer = client.modules(request(&digest.to_string())).await;
    let mut parts = answer.expect("a stream").into_inner();
    let failed = loop {
        match parts.message().await {
            Ok(part) => assert!(part.is_some(), "it ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(failed.code(), tonic::Code::DataLoss);
    let again = code(&mut client, &digest.to_string()).await;
    assert_eq!(again, tonic::Code::NotFound);
}

#[tokio::test]
async fn the_newest_proxys_reports_count_until_it_goes() {
    let mut served = Served::start();
    let report = |version: &str| FilterReports {
        version: version.to_owned(),
        filters: vec![FilterReport::default()],
    };
    let connect = async |served: &Served, version: &str| {
        let (say, reports) = mpsc::channel(8);
        say.send(report(version)).await.expect("open");
        let mut client = served.dial().await;
        tokio::spawn(async move { client.filters(ReceiverStream::new(reports)).await });
        say
    };
    let hear = async |served: &mut Served, wanted: Option<&str>| {
        let is = |heard: &Option<FilterReports>| heard.as_ref().map(|one| &*one.version) == wanted;
        let heard = tokio::time::timeout(DEADLINE, served.reports.wait_for(is)).await;
        heard.expect("in time").expect("served");
    };
    let old = connect(&served, "old").await;
    hear(&mut served, Some("old")).await;
    let new = connect(&served, "new").await;
    hear(&mut served, Some("new")).await;
    old.send(report("late")).await.expect("open");
    new.send(report("newer")).await.expect("open");
    hear(&mut served, Some("newer")).await;
    drop(old);
    new.send(report("newest")).await.expect("open");
    hear(&mut served, Some("newest")).await;
    drop(new);
    hear(&mut served, None).await;
}
