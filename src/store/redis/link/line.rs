//! A connection that belongs to one write at a time: what is watched on it is watched for that write alone. It never
//! connects anew, so whatever was begun on one that is lost ends there.
//!
//! It speaks the protocol (RESP2) itself. fred's clients connect anew behind one's back, write each command of a pipeline
//! by itself, so that a server is woken for each, and take some µs for it, of which a write has one a driver.
//!
//! Never here: what is watched or written, which server it is.

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

/// Nobody answers with longer lists or strings: not on these connections.
const MOST_BYTES: usize = 64 << 20;
/// An exchange that never takes less: a slice of a write is half a millisecond of Redis' time.
const FAR: Duration = Duration::from_millis(3);
/// Room for what is read at once.
pub(super) const ROOM: usize = 16 << 10;
/// How deep lists lie in lists at most: in what EXEC answers, a script's.
pub(super) const MOST_DEPTH: usize = 4;

/// A way for bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// The connection.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    received: BytesMut,
    timeout: Duration,
    /// Whether nothing was executed on it yet: the server may not know our scripts.
    is_new: bool,
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

/// Commands on their way, as the protocol has them.
#[derive(Debug, Default)]
pub(in crate::store::redis) struct Request {
    bytes: Vec<u8>,
    commands: usize,
    /// Whether the server may not know scripts yet: they go with their texts.
    pub(super) spells_out: bool,
    /// Whether ASKING goes before each command.
    pub(super) asks: bool,
}

impl Request {
    /// Begins a command; so many arguments must follow.
    pub(in crate::store::redis) fn command(&mut self, name: &str, args: usize) -> &mut Self {
        if self.asks {
            self.begin("ASKING", 0);
        }
        self.begin(name, args)
    }

    /// Adds an argument.
    pub(in crate::store::redis) fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        let arg = arg.as_ref();
        self.head(b'$', arg.len());
        self.bytes.extend_from_slice(arg);
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a number, in decimal.
    pub(in crate::store::redis) fn number(&mut self, number: impl fmt::Display) -> &mut Self {
        self.arg(number.to_string())
    }

    /// Adds a whole command.
    pub(in crate::store::redis) fn add(&mut self, command: &Command) {
        let text = command.script_text().filter(|_| self.spells_out);
        self.command(if text.is_some() { "EVAL" } else { command.name }, command.args.len());
        let args = command.args.iter().skip(usize::from(text.is_some()));
        for arg in text.into_iter().chain(args) {
            self.arg(arg);
        }
    }

    /// As they go out.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many commands there are.
    pub(super) const fn commands(&self) -> usize {
        self.commands
    }

    fn begin(&mut self, name: &str, args: usize) -> &mut Self {
        self.commands += 1;
        self.head(b'*', args + 1);
        self.arg(name)
    }

    fn head(&mut self, kind: u8, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&digits[at..]);
        self.bytes.extend_from_slice(b"\r\n");
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
            let mut line = Self { stream, received, timeout, is_new: true, is_nameless: false, fastest };
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

    /// Whether nothing was executed on it yet.
    pub(super) const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Something was executed on it.
    pub(super) const fn has_executed(&mut self) {
        self.is_new = false;
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
        let (timeout, mut replies) = (self.timeout, Vec::with_capacity(request.commands));
        let conversation = self.converse(request, &mut replies);
        tokio::time::timeout(timeout, conversation).await.unwrap_or_else(|_| Err(silent()))?;
        Ok(replies)
    }

    async fn converse(&mut self, request: Request, replies: &mut Vec<Result<Reply, Failure>>) -> Result<(), Failure> {
        let begun = Instant::now();
        self.stream.write_all(&request.bytes).await.map_err(|error| broken(&error))?;
        self.stream.flush().await.map_err(|error| broken(&error))?;
        while replies.len() < request.commands {
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

/// What Redis answered to one command, in so many bytes.
pub(super) type Parsed = (Result<Reply, Failure>, usize);

/// The reply that `bytes` begin with, and its length; `None` if it is not all there. A list with an error among its
/// elements, which EXEC alone answers, is that error: what else was in the list was done.
pub(super) fn parse(bytes: &[u8], depth: usize) -> Result<Option<Parsed>, Failure> {
    let unreadable = || Failure::Down("a reply cannot be read".into());
    let Some(end) = bytes.iter().position(|byte| *byte == b'\r').filter(|end| end + 1 < bytes.len()) else {
        return if bytes.len() > MOST_BYTES { Err(unreadable()) } else { Ok(None) };
    };
    let (line, head) = (&bytes[1.min(end)..end], end + 2);
    let number = || {
        let text = std::str::from_utf8(line).map_err(|_| unreadable())?;
        text.parse::<i64>().map_err(|_| unreadable())
    };
    let reply = match bytes[0] {
        b'+' => Ok(Reply::Bytes(Bytes::copy_from_slice(line))),
        b'-' => Err(Failure::told(&String::from_utf8_lossy(line))),
        b':' => Ok(Reply::Integer(number()?)),
        b'$' | b'*' if number()? == -1 => Ok(Reply::Nil),
        b'$' => {
            let length = usize::try_from(number()?).ok().filter(|length| *length <= MOST_BYTES);
            let end = head + length.ok_or_else(unreadable)?;
            if bytes.len() < end + 2 {
                return Ok(None);
            }
            return Ok(Some((Ok(Reply::Bytes(Bytes::copy_from_slice(&bytes[head..end]))), end + 2)));
        }
        b'*' if depth > 0 => {
            let (mut at, mut items, mut failed) = (head, Vec::new(), None);
            for _ in 0..number()? {
                let Some((item, length)) = parse(&bytes[at..], depth - 1)? else { return Ok(None) };
                at += length;
                match item {
                    Ok(item) => items.push(item),
                    Err(failure) => failed = failed.or(Some(failure.in_part())),
                }
            }
            return Ok(Some((failed.map_or(Ok(Reply::List(items)), Err), at)));
        }
        _ => return Err(unreadable()),
    };
    Ok(Some((reply, head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Parsed> {
        parse(text.as_bytes(), MOST_DEPTH).expect("it can be read")
    }

    #[test]
    fn commands_go_out_as_the_protocol_has_them() {
        let mut request = Request::default();
        request.command("ZADD", 3).arg("key").number(1_234_567_890_123_456_u64).arg([0xff, b'\r', b'\n']);
        request.add(&Command::keyless("MULTI"));
        let expected =
            b"*4\r\n$4\r\nZADD\r\n$3\r\nkey\r\n$16\r\n1234567890123456\r\n$3\r\n\xff\r\n\r\n*1\r\n$5\r\nMULTI\r\n";
        assert_eq!((request.bytes.as_slice(), request.commands()), (expected.as_slice(), 2));
    }

    #[test]
    fn replies_are_read_when_all_of_them_is_there() {
        let whole = "*5\r\n:-7\r\n$-1\r\n$4\r\na\r\nb\r\n*1\r\n+QUEUED\r\n*-1\r\n";
        let queued = Reply::List(vec![Reply::Bytes("QUEUED".into())]);
        let list = vec![Reply::Integer(-7), Reply::Nil, Reply::Bytes("a\r\nb".into()), queued, Reply::Nil];
        assert_eq!(read(&format!("{whole}+OK")), Some((Ok(Reply::List(list)), whole.len())));
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn an_error_among_what_was_done_is_no_reason_to_do_it_again() {
        let (moved, _) = read("-MOVED 1 h:2\r\n").expect("it is all there");
        assert!(matches!(moved, Err(Failure::Moved(_))));
        let within = "*3\r\n:1\r\n-MOVED 1 h:2\r\n-WRONGTYPE x\r\n";
        let (moved, length) = read(within).expect("it is all there");
        assert!(matches!(moved, Err(Failure::Down(words)) if words.starts_with("MOVED")));
        assert_eq!(length, within.len());
        let (wrong, _) = read("*2\r\n-WRONGTYPE x\r\n:1\r\n").expect("it is all there");
        assert_eq!(wrong, Err(Failure::Refused("WRONGTYPE".into())));
    }

    #[test]
    fn what_is_no_reply_is_a_failure() {
        for text in ["\r\n", "!\r\n", ":x\r\n", "$-2\r\n", "$99999999999\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"]
        {
            assert!(parse(text.as_bytes(), MOST_DEPTH).is_err(), "{text:?}");
        }
    }
}
