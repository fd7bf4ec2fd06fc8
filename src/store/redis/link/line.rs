//! A connection: who connects, who we say we are, one exchange at a time. What is watched on it is watched for whoever has it
//! alone, so writes have one each (`change`); all questions share one (`pipe`). It never connects anew, so whatever was
//! begun on one that is lost ends there.
//!
//! Never here: what is watched, written or asked, which server it is.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use fred::types::config::TlsConnector;
use futures_util::FutureExt as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::command::{Command, Failure, NOT_ALLOWED, Reply};
use super::place::{Address, Dial};
use super::slowlog;
use super::wire::{MOST_DEPTH, Request, parse};

/// An exchange that never takes less: a slice of a write is a third of a millisecond of Redis' time.
const FAR: Duration = Duration::from_millis(3);
/// Room for what is read at once.
pub(super) const ROOM: usize = 16 << 10;
/// A way for bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// The connection.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    received: BytesMut,
    timeout: Duration,
    /// The hashes of the scripts that were called on it, so that the server knows them.
    known: Vec<Bytes>,
    /// Whether the server does not let it be named.
    is_nameless: bool,
    /// The least that an exchange took.
    fastest: Duration,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// Connects, and says who we are; then asks `question`, if there is one.
    pub(super) async fn open(
        dial: &Dial,
        address: &Address,
        question: Option<&Command>,
    ) -> Result<(Self, Option<Reply>), Failure> {
        let timeout = dial.timeout();
        let opening = async {
            let stream = connect(dial, address).await.map_err(|error| broken(&error))?;
            let (received, fastest) = (BytesMut::new(), Duration::MAX);
            let mut line = Self { stream, received, timeout, known: Vec::new(), is_nameless: false, fastest };
            let answer = line.introduce(dial, question).await?;
            Ok((line, answer))
        };
        tokio::time::timeout(timeout, opening).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Asks a server one thing, over a connection made for that.
    pub(super) async fn ask_once(dial: &Dial, address: &Address, command: &Command) -> Result<Reply, Failure> {
        let (_, answer) = Self::open(dial, address, Some(command)).await?;
        answer.ok_or_else(|| Failure::Down("no reply".into()))
    }

    async fn introduce(&mut self, dial: &Dial, question: Option<&Command>) -> Result<Option<Reply>, Failure> {
        let mut request = Request::default();
        if let Some((user, password)) = dial.credentials() {
            match user {
                Some(user) => request.command("AUTH", 2).arg(user).arg(password),
                None => request.command("AUTH", 1).arg(password),
            };
        }
        if dial.database() > 0 {
            request.command("SELECT", 1).number(dial.database());
        }
        let needed = request.commands();
        request.command("CLIENT", 2).arg("SETNAME").arg(slowlog::CLIENT_NAME);
        if let Some(question) = question {
            request.add(question);
        }
        let mut replies = Vec::new();
        let outcome = self.converse(request, &mut replies).await;
        let answer = question.filter(|_| outcome.is_ok()).and_then(|_| replies.pop()).transpose()?;
        for (at, reply) in replies.into_iter().enumerate() {
            match reply {
                // Without a name it works too.
                Err(Failure::Down(word)) if at == needed && (word == NOT_ALLOWED || word == "ERR") => {
                    self.is_nameless = true;
                }
                // A server that has too many clients, or none from elsewhere, says so and is gone.
                reply => drop(reply?),
            }
        }
        outcome.map(|()| answer)
    }

    /// Whether the server does not let its clients be named.
    pub(super) const fn is_nameless(&self) -> bool {
        self.is_nameless
    }

    /// What it goes over, for who speaks the protocol without it; and how long an answer may take.
    pub(super) fn into_stream(self) -> (Box<dyn Stream>, Duration) {
        (self.stream, self.timeout)
    }

    /// The hashes of the scripts that the server knows.
    pub(super) fn known(&self) -> &[Bytes] {
        &self.known
    }

    /// Something was executed on it: by now the server knows these.
    pub(super) fn has_executed(&mut self, scripts: Vec<Bytes>) {
        self.known = scripts;
    }

    /// Whether the server is so far away that its answers are mostly waited for, whatever it does meanwhile.
    pub(super) fn is_far(&self) -> bool {
        self.fastest >= FAR
    }

    /// Whether nothing has come over it since it was last used, not even its end.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.received.is_empty() && self.stream.read(&mut [0]).now_or_never().is_none()
    }

    /// Sends commands; as many replies. After a failure it must not be used any more.
    pub(super) async fn exchange(&mut self, request: Request) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        let (timeout, mut replies) = (self.timeout, Vec::with_capacity(request.commands()));
        let conversation = self.converse(request, &mut replies);
        tokio::time::timeout(timeout, conversation).await.unwrap_or_else(|_| Err(silent()))?;
        Ok(replies)
    }

    async fn converse(&mut self, request: Request, replies: &mut Vec<Result<Reply, Failure>>) -> Result<(), Failure> {
        let begun = Instant::now();
        self.stream.write_all(request.bytes()).await.map_err(|error| broken(&error))?;
        self.stream.flush().await.map_err(|error| broken(&error))?;
        while replies.len() < request.commands() {
            replies.push(self.reply().await?);
        }
        self.fastest = self.fastest.min(begun.elapsed());
        Ok(())
    }

    async fn reply(&mut self) -> Result<Result<Reply, Failure>, Failure> {
        loop {
            if let Some((reply, length)) = parse(&self.received, MOST_DEPTH)? {
                self.received.advance(length);
                return Ok(reply);
            }
            self.received.reserve(ROOM);
            let read = self.stream.read_buf(&mut self.received).await.map_err(|error| broken(&error))?;
            if read == 0 {
                return Err(Failure::Down("the connection was closed".into()));
            }
        }
    }
}

async fn connect(dial: &Dial, address: &Address) -> std::io::Result<Box<dyn Stream>> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp { host, port } => (host, *port),
    };
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let Some(TlsConnector::Rustls(connector)) = dial.tls() else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}

pub(super) fn broken(error: &std::io::Error) -> Failure {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    Failure::Down(tls.map_or_else(|| format!("IO: {}", error.kind()), |error| format!("TLS: {error}")))
}

pub(super) fn silent() -> Failure {
    Failure::Down("it does not answer".into())
}
