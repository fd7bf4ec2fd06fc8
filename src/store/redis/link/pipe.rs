//! The connection that questions go over: many callers at once, each of whom gets its own replies.
//!
//! What is asked at the same moment goes out in one write, and so do all commands of a caller: a server is woken, reads
//! and answers once for them, not once for each, which costs it more than most of the commands do. Replies come in the
//! order of what was asked. The connection never connects anew: when it ends, all that waits fails, and whoever watches
//! is told first.
//!
//! Never here: which server it is, when another connection is made.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::command::{Failure, Reply};
use super::line::{Line, ROOM, Stream, broken, silent};
use super::wire::{MOST_DEPTH, Request, parse};

/// What comes back for a request: as many replies as it has commands.
type Answer = Result<Vec<Result<Reply, Failure>>, Failure>;

/// The connection.
#[derive(Debug)]
pub(super) struct Pipe {
    requests: mpsc::UnboundedSender<(Request, oneshot::Sender<Answer>)>,
    timeout: Duration,
    carrying: AbortHandle,
}

/// A caller whose request went out.
struct Caller {
    replies: Vec<Result<Reply, Failure>>,
    commands: usize,
    answer: oneshot::Sender<Answer>,
}

impl Pipe {
    /// Over a line that nobody uses. `ended` is called once, when the connection has ended and before anybody is told, and
    /// not if it is let go.
    pub(super) fn over(line: Line, ended: impl FnOnce(&Failure) + Send + 'static) -> Self {
        let (stream, timeout) = line.into_stream();
        let (requests, mut asked) = mpsc::unbounded_channel();
        let carrying = tokio::spawn(async move {
            let mut waiting = VecDeque::new();
            let failure = carry(stream, &mut asked, &mut waiting).await;
            asked.close();
            ended(&failure);
            let unsent = std::iter::from_fn(|| asked.try_recv().ok()).map(|(_, answer)| answer);
            for answer in waiting.into_iter().map(|caller| caller.answer).chain(unsent) {
                // Whoever went away misses nothing.
                let _ = answer.send(Err(failure.clone()));
            }
        });
        Self { requests, timeout, carrying: carrying.abort_handle() }
    }

    /// Whether it has not ended, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Sends commands; as many replies, or what became of all of them.
    pub(super) async fn exchange(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ended = || Failure::Down("the connection was closed".into());
        self.requests.send((request, answer)).map_err(|_| ended())?;
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(silent()),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Carries requests and replies until the connection ends; why it did.
async fn carry(
    stream: Box<dyn Stream>,
    asked: &mut mpsc::UnboundedReceiver<(Request, oneshot::Sender<Answer>)>,
    waiting: &mut VecDeque<Caller>,
) -> Failure {
    let (mut from_server, mut to_server) = tokio::io::split(stream);
    let (mut received, mut unsent, mut is_sending) = (BytesMut::new(), BytesMut::new(), false);
    loop {
        received.reserve(ROOM);
        // A server that is slow to read must not keep what it answers from being read.
        tokio::select! {
            read = from_server.read_buf(&mut received) => match read {
                Ok(0) => return Failure::Down("the connection was closed".into()),
                Ok(_) => {
                    if let Err(failure) = hand_out(&mut received, waiting) {
                        return failure;
                    }
                }
                Err(error) => return broken(&error),
            },
            written = send(&mut to_server, &mut unsent), if is_sending => match written {
                Ok(is_flushed) => is_sending = !is_flushed,
                Err(error) => return broken(&error),
            },
            next = asked.recv() => {
                let Some(next) = next else { return Failure::Down("nobody asks any more".into()) };
                let mut next = Some(next);
                while let Some((request, answer)) = next {
                    // Whoever has given up meanwhile is not asked for.
                    if !answer.is_closed() {
                        unsent.extend_from_slice(request.bytes());
                        let commands = request.commands();
                        waiting.push_back(Caller { replies: Vec::with_capacity(commands), commands, answer });
                    }
                    next = asked.try_recv().ok();
                }
                is_sending = true;
            }
        }
    }
}

/// Takes one step of sending; whether all is on its way.
async fn send(stream: &mut (impl AsyncWrite + Unpin), unsent: &mut BytesMut) -> std::io::Result<bool> {
    if unsent.is_empty() {
        return stream.flush().await.map(|()| true);
    }
    stream.write_buf(unsent).await.map(|_| false)
}

/// Gives callers what has come for them.
fn hand_out(received: &mut BytesMut, waiting: &mut VecDeque<Caller>) -> Result<(), Failure> {
    while !received.is_empty() {
        let Some(caller) = waiting.front_mut() else {
            return Err(Failure::Down("a reply came that nobody asked for".into()));
        };
        let Some((reply, length)) = parse(received, MOST_DEPTH)? else { return Ok(()) };
        received.advance(length);
        caller.replies.push(reply);
        if caller.replies.len() == caller.commands
            && let Some(Caller { replies, answer, .. }) = waiting.pop_front()
        {
            // Whoever went away misses nothing.
            let _ = answer.send(Ok(replies));
        }
    }
    Ok(())
}
