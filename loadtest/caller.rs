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

/// Where somebody is, and in what language to ask.
#[derive(Clone, Debug)]
pub(crate) enum Address {
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
    address: Address,
    fleet: Arc<Fleet>,
    line: Option<Line>,
    out: Vec<u8>,
    answer: Vec<u8>,
}

enum Line {
    Http(TcpStream),
    /// With what writes a request, and says how many replies there will be.
    Resp(TcpStream, fn(Ask, &Fleet, &mut Vec<u8>) -> usize),
    Postgis(postgis::Session),
}

impl Caller {
    pub(crate) const fn new(address: Address, fleet: Arc<Fleet>) -> Self {
        Self { address, fleet, line: None, out: Vec::new(), answer: Vec::new() }
    }

    /// Opens the connection, if it is not open.
    pub(crate) async fn connect(&mut self, within: Duration) -> io::Result<()> {
        if self.line.is_none() {
            self.line = Some(tokio::time::timeout(within, Line::open(&self.address)).await??);
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
        let Self { fleet, line, out, answer, .. } = self;
        out.clear();
        match line.as_mut().ok_or(io::ErrorKind::NotConnected)? {
            Line::Http(stream) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                http::write(ask, fleet, now, out);
                stream.write_all(out).await?;
                let http::Answer { status, retry_after_s, .. } = http::read(stream, answer).await?;
                let is_good = (200..300).contains(&status);
                Ok(if is_good { Outcome::Good } else { Outcome::Refused { status, retry_after_s } })
            }
            Line::Resp(stream, write) => {
                let replies = write(ask, fleet, out);
                stream.write_all(out).await?;
                Ok(if resp::read(stream, replies, answer).await? { Outcome::Good } else { Outcome::Error })
            }
            Line::Postgis(session) => match session.ask(ask, fleet).await {
                Ok(()) => Ok(Outcome::Good),
                Err(error) if error.is_closed() => Err(io::ErrorKind::NotConnected.into()),
                Err(_) => Ok(Outcome::Error),
            },
        }
    }
}

impl Line {
    async fn open(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Geotrail(address) => Self::Http(connected(address).await?),
            Address::Redis(address) => Self::Resp(connected(address).await?, resp::write_redis),
            Address::Tile38(address) => Self::Resp(connected(address).await?, resp::write_tile38),
            Address::Postgis(config) => {
                Self::Postgis(postgis::Session::open(config).await.map_err(io::Error::other)?)
            }
        })
    }
}

async fn connected(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
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
