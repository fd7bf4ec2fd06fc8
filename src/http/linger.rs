//! Closing a connection so that its last answer arrives.
//!
//! Whoever closes a socket on bytes that were not read makes the system reset the connection, and a reset may
//! overtake the answer: a client still sending a body that was refused would see a broken pipe in place of the reason
//! (RFC 9112, 9.6). So the way out is closed first, and what still comes in is thrown away for a while.
//!
//! Never here: why a connection ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a client has, from our last byte, to read it and close its side.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most bytes that are thrown away. What comes after them waits in the system's buffers, which slows down a client
/// that writes and does not keep one that reads from its answer.
const MAX_DISCARDED_BYTES: usize = 16 << 20;

/// A stream whose shutdown ends when the client has closed its side too, or has been given enough.
pub(super) struct Lingering {
    stream: TcpStream,
    farewell: Option<Farewell>,
}

/// The way out is closed.
struct Farewell {
    deadline: Pin<Box<Sleep>>,
    discarded_bytes: usize,
}

impl Lingering {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, farewell: None }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for Lingering {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, farewell } = self.get_mut();
        let mut stream = Pin::new(stream);
        if farewell.is_none() {
            ready!(stream.as_mut().poll_shutdown(cx))?;
        }
        let farewell = farewell
            .get_or_insert_with(|| Farewell { deadline: Box::pin(tokio::time::sleep(PATIENCE)), discarded_bytes: 0 });
        let mut waste = [0; 8 << 10];
        while farewell.deadline.as_mut().poll(cx).is_pending() {
            if farewell.discarded_bytes >= MAX_DISCARDED_BYTES {
                return Poll::Pending;
            }
            let mut waste = ReadBuf::new(&mut waste);
            ready!(stream.as_mut().poll_read(cx, &mut waste))?;
            if waste.filled().is_empty() {
                break;
            }
            farewell.discarded_bytes += waste.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}
