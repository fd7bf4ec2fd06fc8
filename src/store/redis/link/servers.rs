//! The servers of a Redis one by one, for who looks at them from outside (`doctor`): where a URL leads, and what each
//! server answers over a connection of its own, which is made for the look and ends with it.
//!
//! Nothing is made anew and nothing is sent elsewhere: a connection that breaks stays broken, an error is told as it
//! came. Whoever asks says until when; each exchange has the timeout of all others besides.
//!
//! Never here: what is asked, what an answer means for the service.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::command::{Failure, NOT_ALLOWED, Reply};
use super::line::Line;
use super::map::{Share, shares};
use super::place::{self, Address, Dial, Topology};
use super::wire::Request;
use crate::store::StoreError;

/// The kinds of Redis a URL can speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Standalone,
    /// Slots on many servers.
    Cluster,
    /// One primary at a time, which sentinels know.
    Sentinel,
}

/// Where a URL leads.
pub struct Servers {
    topology: Topology,
    dial: Dial,
}

/// A connection to one server.
pub struct Server {
    address: Address,
    line: Option<Line>,
    until: Instant,
    /// Why there is no connection any more.
    ended: Option<String>,
}

/// A command, its name first.
#[derive(Clone, Debug)]
pub struct Question {
    name: String,
    args: Vec<Bytes>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This user may not ask it, or the server does not know it.
    NotAllowed,
    /// The server answered with an error: its first word.
    Told(String),
    /// Nothing came back: why, in a few words.
    Away(String),
}

impl Servers {
    /// Reads a URL, without connecting. `ca` is a file of certificates to trust instead of the system's.
    pub fn of(url: &str, ca: Option<&Path>, deadline: Duration) -> Result<Self, StoreError> {
        // fred's TLS takes rustls' process-wide provider; whoever installed one before us has the say.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (topology, dial) = place::read(url, ca, deadline)?;
        Ok(Self { topology, dial })
    }

    /// What kind of Redis it is, as the URL says.
    pub const fn mode(&self) -> Mode {
        match self.topology {
            Topology::Single(_) => Mode::Standalone,
            Topology::Cluster(_) => Mode::Cluster,
            Topology::Sentinel { .. } => Mode::Sentinel,
        }
    }

    /// The number of the database.
    pub fn database(&self) -> u8 {
        self.dial.database()
    }

    /// The servers that the URL names: the one, some of a cluster, or the sentinels.
    pub fn named(&self) -> Vec<Address> {
        match &self.topology {
            Topology::Single(address) => vec![address.clone()],
            Topology::Cluster(seeds) => seeds.clone(),
            Topology::Sentinel { sentinels, .. } => sentinels.clone(),
        }
    }

    /// What sentinels call the primary.
    pub fn service(&self) -> Option<&str> {
        match &self.topology {
            Topology::Sentinel { service, .. } => Some(service),
            Topology::Single(_) | Topology::Cluster(_) => None,
        }
    }

    /// Connects to a server of data; nothing is asked there after `until`.
    pub async fn connect(&self, address: &Address, until: Instant) -> Result<Server, Trouble> {
        Server::open(&self.dial, address, until).await
    }

    /// The same to a sentinel.
    pub async fn connect_sentinel(&self, address: &Address, until: Instant) -> Result<Server, Trouble> {
        Server::open(&self.dial.of_sentinels(), address, until).await
    }
}

impl Server {
    async fn open(dial: &Dial, address: &Address, until: Instant) -> Result<Self, Trouble> {
        match Line::open(dial, address, None).await {
            Ok((line, _)) => Ok(Self { address: address.clone(), line: Some(line), until, ended: None }),
            Err(failure) => Err(Trouble::Away(failure.words())),
        }
    }

    /// Why nothing can be asked any more, if the connection broke.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Asks in one go; as many answers.
    pub async fn ask_all(&mut self, questions: &[Question]) -> Vec<Result<Reply, Trouble>> {
        let away = |why: &str| -> Vec<Result<Reply, Trouble>> {
            questions.iter().map(|_| Err(Trouble::Away(why.to_owned()))).collect()
        };
        let Some(line) = &mut self.line else { return away(self.ended.as_deref().unwrap_or("not connected")) };
        if Instant::now() >= self.until {
            return away("no time was left for it");
        }
        let mut request = Request::default();
        for Question { name, args } in questions {
            let request = request.command(name, args.len());
            for arg in args {
                request.arg(arg);
            }
        }
        match line.exchange(request).await {
            Ok(replies) => replies.into_iter().map(|reply| reply.map_err(Trouble::from)).collect(),
            Err(failure) => {
                let why = failure.words();
                self.line = None;
                let answers = away(&why);
                self.ended = Some(why);
                answers
            }
        }
    }

    /// Asks one thing.
    pub async fn ask(&mut self, question: Question) -> Result<Reply, Trouble> {
        let mut answers = self.ask_all(&[question]).await;
        answers.pop().unwrap_or_else(|| Err(Trouble::Away("no reply".to_owned())))
    }

    /// What it answered to CLUSTER SLOTS; `None` if that cannot be read.
    pub fn shares(&self, answer: &Reply) -> Option<Vec<Share>> {
        shares(answer, &self.address)
    }
}

impl Question {
    /// A command of words that are parted by blanks.
    pub fn of(words: &str) -> Self {
        let mut words = words.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        Self { name, args: words.map(|word| Bytes::copy_from_slice(word.as_bytes())).collect() }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<Bytes>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// Of an error of the server itself; the rest of what it said may repeat arguments, and goes no further.
impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let words = failure.words();
        if words == NOT_ALLOWED { Self::NotAllowed } else { Self::Told(words) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed => f.write_str("was refused"),
            Self::Told(word) => write!(f, "was answered with {word}"),
            Self::Away(why) => write!(f, "was not answered: {why}"),
        }
    }
}

/// Without what the servers are told.
impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}
