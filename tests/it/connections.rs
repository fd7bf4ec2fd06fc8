//! Who has how many connections.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use crate::erasure::delete;
use crate::harness::process::{Process, binary};
use crate::harness::traffic::{at, now_ms};
use crate::harness::{PATIENCE, eventually};

/// Files that the service may open; half of that are for connections, of which a client has a quarter.
const FILES: usize = 1_024;
const ALL: usize = FILES / 2;
const ONE_CLIENT: usize = ALL / 4;

/// A service that may not open more files, whatever it asks for.
async fn service(dir: &std::path::Path) -> Process {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {FILES} && exec \"$0\" \"$@\"")).arg(binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", "embedded", "--data-dir"]).arg(dir.join("data"));
    command.env_clear().kill_on_drop(true);
    Process::begin(dir, command).await.expect("it starts")
}

/// A connection from that address over which something was asked and answered; `None` if it was closed instead.
async fn connect(service: &Process, from: &str) -> Option<TcpStream> {
    let address: SocketAddr = service.url().strip_prefix("http://").expect("a plain address").parse().expect("one");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("a loopback address");
    let mut stream = socket.connect(address).await.expect("it listens");
    let mut answer = [0; 12];
    let asked = async {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").await?;
        stream.read_exact(&mut answer).await
    };
    let outcome = tokio::time::timeout(PATIENCE, asked).await.expect("it is answered or closed");
    outcome.ok().map(|_| {
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    })
}

#[tokio::test]
async fn a_client_with_all_the_connections_it_gets_keeps_nobody_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = service(dir.path()).await;
    let mut greedy = Vec::new();
    while let Some(stream) = connect(&service, "127.0.0.9").await {
        greedy.push(stream);
        assert!(greedy.len() <= ONE_CLIENT, "{}", greedy.len());
    }
    assert_eq!(greedy.len(), ONE_CLIENT);

    service.report(&[at("cab", now_ms())]).await;
    greedy.pop();
    eventually("that what it lets go is there again", async || connect(&service, "127.0.0.9").await).await;
}

#[tokio::test]
async fn files_can_be_opened_whoever_connects() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = service(dir.path()).await;
    // It has one connection that is kept.
    service.report(&[at("cab", now_ms())]).await;
    let mut streams = Vec::new();
    for client in 2..9 {
        while let Some(stream) = connect(&service, &format!("127.0.0.{client}")).await {
            streams.push(stream);
        }
    }
    assert_eq!(streams.len(), ALL - 1);
    // That takes a new segment, and others are read.
    assert_eq!(delete(&service, "cab").await, Some(204));
    service.report(&[at("cab", now_ms())]).await;
    drop(streams);
}
