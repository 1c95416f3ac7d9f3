//! `kubectl port-forward`, with bytes in both directions.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{DEADLINE, Kubectl};

#[tokio::test]
async fn ports_are_forwarded() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    k.run("run server --image x").await;
    k.run("wait --for=condition=Ready pod/server --timeout=20s")
        .await;
    // Takes everything until the end of input, and sends it back.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let echo = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("reads");
            stream.write_all(&all).await.expect("writes");
        }
    });
    let line = format!("port-forward --address 127.0.0.1 pod/server :{port}");
    let mut child = k.command(&line).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let told = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    let told = told.expect("in time").expect("readable").expect("a line");
    let address = told
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split_once(" -> "))
        .map(|(address, _)| address.to_owned())
        .unwrap_or_else(|| panic!("{told}"));
    for size in [1, 500_000, 7] {
        let sent = vec![b'x'; size];
        let round = async {
            let stream = TcpStream::connect(&address).await.expect("connects");
            let (mut read, mut write) = stream.into_split();
            let mut back = Vec::new();
            write.write_all(&sent).await.expect("writes");
            write.shutdown().await.expect("shuts down");
            read.read_to_end(&mut back).await.expect("reads");
            back
        };
        let back = tokio::time::timeout(DEADLINE, round)
            .await
            .expect("in time");
        assert_eq!(back.len(), size);
    }
    child.kill().await.expect("killed");
    echo.abort();
}
