//! One connection to what is measured: writes a request in its language, reads what comes back, gives up in time.
//!
//! A connection that broke is opened again by the next request. Never here: when a request is due, how long it took.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_postgres::Config;

use super::fleet::Fleet;
use super::mix::Ask;
use super::{http, postgis, resp};

/// Who is asked, in what language.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    Geotrail(SocketAddr),
    Redis(SocketAddr),
    Tile38(SocketAddr),
    Postgis(Arc<Config>),
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
    server: Server,
    fleet: Arc<Fleet>,
    line: Option<Line>,
    out: Vec<u8>,
    answer: Vec<u8>,
}

enum Line {
    Stream(TcpStream),
    Session(postgis::Session),
}

impl Caller {
    pub(crate) const fn new(server: Server, fleet: Arc<Fleet>) -> Self {
        Self { server, fleet, line: None, out: Vec::new(), answer: Vec::new() }
    }

    /// Opens the connection, if it is not open.
    pub(crate) async fn connect(&mut self, within: Duration) -> io::Result<()> {
        if self.line.is_none() {
            self.line = Some(tokio::time::timeout(within, Line::open(&self.server)).await??);
        }
        Ok(())
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn ask(&mut self, ask: Ask, within: Duration) -> Outcome {
        let outcome = match tokio::time::timeout(within, self.exchange(ask, within)).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Outcome::TimedOut,
            Ok(Err(_)) => Outcome::Broken,
            Err(_) => Outcome::TimedOut,
        };
        // What may still come on it would be taken for the next answer.
        self.line = None;
        outcome
    }

    async fn exchange(&mut self, ask: Ask, within: Duration) -> io::Result<Outcome> {
        self.connect(within).await?;
        let Self { server, fleet, line, out, answer } = self;
        let stream = match line {
            Some(Line::Stream(stream)) => stream,
            Some(Line::Session(session)) => {
                return match session.ask(ask, fleet).await {
                    Ok(()) => Ok(Outcome::Good),
                    Err(error) if error.is_closed() => Err(io::ErrorKind::NotConnected.into()),
                    Err(_) => Ok(Outcome::Error),
                };
            }
            None => return Err(io::ErrorKind::NotConnected.into()),
        };
        out.clear();
        let replies = match server {
            Server::Redis(_) => resp::write_redis(ask, fleet, out),
            Server::Tile38(_) => resp::write_tile38(ask, fleet, out),
            Server::Geotrail(_) | Server::Postgis(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                http::write(ask, fleet, now, out);
                stream.write_all(out).await?;
                let http::Answer { status, retry_after_s, .. } = http::read(stream, answer).await?;
                let is_good = (200..300).contains(&status);
                return Ok(if is_good { Outcome::Good } else { Outcome::Refused { status, retry_after_s } });
            }
        };
        stream.write_all(out).await?;
        Ok(if resp::read(stream, replies, answer).await? { Outcome::Good } else { Outcome::Error })
    }
}

impl Line {
    async fn open(server: &Server) -> io::Result<Self> {
        match server {
            Server::Geotrail(address) | Server::Redis(address) | Server::Tile38(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Stream(stream))
            }
            Server::Postgis(config) => {
                postgis::Session::open(config).await.map(Self::Session).map_err(io::Error::other)
            }
        }
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
