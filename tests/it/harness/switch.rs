//! A TCP proxy that tests turn: on to another server, cut, slow, or swallowing what it should forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy on a port of its own, gone with the runtime.
pub(crate) struct Switch {
    port: u16,
    target: Arc<AtomicU16>,
    swallows: Arc<AtomicBool>,
    /// How long bytes take, either way.
    takes_ms: Arc<AtomicU64>,
    cuts: watch::Sender<u64>,
}

impl Switch {
    /// Forwards to `target`.
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let switch = Self {
            port,
            target: Arc::new(AtomicU16::new(target)),
            swallows: Arc::default(),
            takes_ms: Arc::default(),
            cuts: watch::Sender::new(0),
        };
        let (target, swallows, cuts) = (switch.target.clone(), switch.swallows.clone(), switch.cuts.subscribe());
        let takes_ms = switch.takes_ms.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await else {
                    continue;
                };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(forward(from_client, to_server, cuts.clone(), Arc::default(), takes_ms.clone()));
                tokio::spawn(forward(from_server, to_client, cuts.clone(), swallows.clone(), takes_ms.clone()));
            }
        });
        switch
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on another server; connections are cut.
    pub(crate) fn turn_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on new connections go to another server; those there are stay.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// What servers send from now on goes nowhere, and nobody notices.
    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// From now on bytes take so long, either way.
    pub(crate) fn slow_down(&self, takes: Duration) {
        self.takes_ms.store(takes.as_millis() as u64, Ordering::SeqCst);
    }

    /// No longer so; what was swallowed stays lost.
    pub(crate) fn forward_again(&self) {
        self.swallows.store(false, Ordering::SeqCst);
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<u64>,
    swallows: Arc<AtomicBool>,
    takes_ms: Arc<AtomicU64>,
) {
    cuts.mark_unchanged();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = cuts.changed() => return,
        };
        let Ok(read @ 1..) = read else { return };
        let takes_ms = takes_ms.load(Ordering::SeqCst);
        if takes_ms > 0 {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
        }
        if !swallows.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
