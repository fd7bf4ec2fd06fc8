//! Connections: accepting them, their deadlines and limits, and letting them go.
//!
//! `axum::serve` sets no timer, so a client that dribbles its head would hold a connection for ever; hence a loop of
//! our own. Stopping has two parts: no new connection and no new request from then on, and what is in flight gets
//! until the deadline to end.

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::edge;
use super::guard::Peer;
use super::linger::Lingering;
use super::problem::Problem;
use super::slots::Slots;
use super::tls::Tls;
use crate::ingest::Refusal;

/// How long a connection may take to bring the head of its next request, idle time included. No round number, so
/// that it does not beat with a fleet that reports every 10 s.
const HEAD_DEADLINE: Duration = Duration::from_secs(12);

/// The most bytes of a request's head. Enough for the longest target the library reads (65,534), so that a longer one
/// gets its own status.
const MAX_HEAD_BYTES: usize = 96 * 1_024;

/// How long to pause when the system has no more descriptors: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log tells that connections are refused: whoever makes thousands must not fill it.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Serves `router` on `listener`, encrypted if there is a `tls`, until `stop`; then gives what is in flight up to `drain`, cuts off the rest, and
/// returns.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    stop: CancellationToken,
    drain: Duration,
) {
    let (slots, mut told) = (Slots::of_this_process(), None::<Instant>);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((stream, peer)) = stop.run_until_cancelled(accept(&listener)).await {
        // One too many is closed as soon as it is accepted.
        let slot = match slots.take(peer.0) {
            Ok(slot) => slot,
            Err(full) => {
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    tracing::warn!(%full, "connections are refused");
                    told = Some(Instant::now());
                }
                continue;
            }
        };
        let (tls, router, stop, cut) = (tls.clone(), router.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            cut.run_until_cancelled(begin(stream, tls, peer, router, stop)).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting off what did not end in time");
        cut.cancel();
        connections.wait().await;
    }
}

/// The next connection. What goes wrong on the way is the client's loss, or ours for a while, never the end.
async fn accept(listener: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, Peer(address.ip())),
            Err(error) if is_of_the_client(&error) => tracing::debug!(%error, "a connection ended before it began"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection, from its first byte to its last.
async fn begin(stream: TcpStream, tls: Option<Tls>, peer: Peer, router: Router, stop: CancellationToken) {
    // An answer is written at once as a whole; waiting to fill a packet only delays it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let stream = Lingering::new(stream);
    match tls {
        None => converse(stream, peer, router, stop).await,
        Some(tls) => {
            // Nothing is in flight yet.
            if let Some(Some(stream)) = stop.run_until_cancelled(tls.accept(stream)).await {
                converse(stream, peer, router, stop).await;
            }
        }
    }
}

/// From its first request to its last.
async fn converse<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(request, peer, router.clone(), stop.is_cancelled()));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = if let Some(ended) = stop.run_until_cancelled(connection.as_mut()).await {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    peer: Peer,
    router: Router,
    is_stopping: bool,
) -> Result<Response, Infallible> {
    if is_stopping {
        let mut refusal = Problem::Refused(Refusal::ShuttingDown).into_response();
        edge::seal(&mut refusal);
        return Ok(refusal);
    }
    request.extensions_mut().insert(peer);
    router.oneshot(request).await
}
