//! One connection to what is measured: writes a request in its language, reads what comes back, gives up in time.
//!
//! A connection that broke is opened again by the next request. Never here: when a request is due, how long it took.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::fleet::Fleet;
use super::mix::Ask;
use super::{http, resp};

/// What a server is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Geotrail,
    Redis,
    Tile38,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    /// Refused with this status, and perhaps asked to come back after so many seconds.
    Refused {
        status: u16,
        retry_after_s: Option<u64>,
    },
    /// A peer answered with an error.
    Error,
    /// Not answered in time.
    TimedOut,
    /// The connection could not be opened, or ended before the answer did.
    Broken,
}

/// A connection.
pub(crate) struct Caller {
    address: SocketAddr,
    speech: Speech,
    fleet: Arc<Fleet>,
    stream: Option<TcpStream>,
    out: Vec<u8>,
    answer: Vec<u8>,
}

impl Caller {
    pub(crate) const fn new(address: SocketAddr, speech: Speech, fleet: Arc<Fleet>) -> Self {
        Self { address, speech, fleet, stream: None, out: Vec::new(), answer: Vec::new() }
    }

    /// Opens the connection, if it is not open.
    pub(crate) async fn connect(&mut self, within: Duration) -> io::Result<&mut TcpStream> {
        if self.stream.is_none() {
            let stream = tokio::time::timeout(within, TcpStream::connect(self.address)).await??;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(self.stream.as_mut().expect("it was opened just now"))
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn ask(&mut self, ask: Ask, within: Duration) -> Outcome {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        self.out.clear();
        let replies = match self.speech {
            Speech::Geotrail => {
                http::write(ask, &self.fleet, now, &mut self.out);
                1
            }
            Speech::Redis => resp::write_redis(ask, &self.fleet, &mut self.out),
            Speech::Tile38 => resp::write_tile38(ask, &self.fleet, &mut self.out),
        };
        let outcome = match tokio::time::timeout(within, self.exchange(replies, within)).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Outcome::TimedOut,
            Ok(Err(_)) => Outcome::Broken,
            Err(_) => Outcome::TimedOut,
        };
        // What may still come on it would be taken for the next answer.
        self.stream = None;
        outcome
    }

    async fn exchange(&mut self, replies: usize, within: Duration) -> io::Result<Outcome> {
        self.connect(within).await?;
        let Self { stream: Some(stream), out, answer, .. } = self else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        stream.write_all(out).await?;
        if self.speech != Speech::Geotrail {
            return Ok(if resp::read(stream, replies, answer).await? { Outcome::Good } else { Outcome::Error });
        }
        let http::Answer { status, retry_after_s, .. } = http::read(stream, answer).await?;
        Ok(if (200..300).contains(&status) { Outcome::Good } else { Outcome::Refused { status, retry_after_s } })
    }
}

/// A page of the service's, over a connection of its own.
pub(crate) async fn page(address: SocketAddr, path: &str, within: Duration) -> io::Result<(u16, String)> {
    let fetch = async {
        let mut stream = TcpStream::connect(address).await?;
        let (mut out, mut answer) = (Vec::new(), Vec::new());
        http::get(path, &mut out);
        stream.write_all(&out).await?;
        let http::Answer { status, body_at, .. } = http::read(&mut stream, &mut answer).await?;
        Ok((status, String::from_utf8_lossy(&answer[body_at..]).into_owned()))
    };
    tokio::time::timeout(within, fetch).await?
}
