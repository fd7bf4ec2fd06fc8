//! A gate before a server of Redis: it holds what a client sends at the very point that a test chose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::redis::RedisServer;

const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// What becomes of what is held at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// It never arrives, and its connection is over.
    Cut,
}

/// A TCP proxy that holds the next EXEC, or another word, once it is closed.
pub(crate) struct Gate {
    port: u16,
    is_closed: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
    held: mpsc::UnboundedReceiver<oneshot::Sender<Verdict>>,
}

impl Gate {
    pub(crate) async fn before(server: &RedisServer) -> Self {
        Self::holding(EXEC, server).await
    }

    pub(crate) async fn holding(word: &'static [u8], server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (port, target) = (listener.local_addr().expect("it is bound").port(), server.address());
        let (is_closed, passed): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (holding, held) = mpsc::unbounded_channel();
        let (closed, passing) = (is_closed.clone(), passed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the server is there");
                for socket in [&client, &server] {
                    socket.set_nodelay(true).expect("it is a socket");
                }
                let ((from_client, to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let mut to_client_of_server = to_client;
                let back = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client_of_server).await;
                });
                let (closed, passing, holding) = (closed.clone(), passing.clone(), holding.clone());
                tokio::spawn(async move {
                    let _ = forward(word, from_client, &mut to_server, &closed, &passing, &holding).await;
                    back.abort();
                });
            }
        });
        Self { port, is_closed, passed, held }
    }

    pub(crate) fn url(&self) -> String {
        RedisServer::url_at(&format!("127.0.0.1:{}", self.port))
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) async fn holds(&mut self) -> Option<oneshot::Sender<Verdict>> {
        self.held.recv().await
    }

    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Passes on what a client sends until it ends, or is cut.
async fn forward(
    word: &[u8],
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    is_closed: &AtomicBool,
    passed: &AtomicUsize,
    holding: &mpsc::UnboundedSender<oneshot::Sender<Verdict>>,
) -> std::io::Result<()> {
    let mut waiting = Vec::new();
    while from.read_buf(&mut waiting).await? > 0 {
        while let Some(at) = waiting.windows(word.len()).position(|bytes| bytes == word) {
            to.write_all(&waiting[..at]).await?;
            if is_closed.swap(false, Ordering::SeqCst) {
                let (sender, verdict) = oneshot::channel();
                holding.send(sender).expect("the test waits");
                if verdict.await.expect("the test decides") == Verdict::Cut {
                    return Ok(());
                }
            }
            // Before its answer can be there.
            passed.fetch_add(1, Ordering::SeqCst);
            to.write_all(word).await?;
            waiting.drain(..at + word.len());
        }
        // What may be the beginning of one waits for the rest.
        let most = waiting.len().min(word.len() - 1);
        let kept = (0..=most).rev().find(|kept| waiting.ends_with(&word[..*kept])).unwrap_or_default();
        let sent = waiting.len() - kept;
        to.write_all(&waiting[..sent]).await?;
        waiting.drain(..sent);
    }
    Ok(())
}
