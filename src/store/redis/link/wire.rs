//! What goes over a connection: commands and replies as the protocol (RESP2) has them.
//!
//! We speak it ourselves. fred's clients connect anew behind one's back, write each command of a pipeline by itself, so
//! that a server is woken for each, and take some µs for it, of which a write has one a driver.
//!
//! Never here: a connection.

use std::fmt;

use bytes::Bytes;

use super::command::{Command, Failure, Reply};

/// Nobody answers with longer lists or strings: not on these connections.
const MOST_BYTES: usize = 64 << 20;
/// How deep lists lie in lists at most: in what EXEC answers, a script's.
pub(super) const MOST_DEPTH: usize = 4;

/// Commands on their way, as the protocol has them.
#[derive(Debug, Default)]
pub(in crate::store::redis) struct Request {
    bytes: Vec<u8>,
    commands: usize,
    /// The hashes of the scripts that the server knows for certain: others go with their texts. `None`: it is told once it says
    /// that it does not know one.
    pub(super) known: Option<Vec<Bytes>>,
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
        let known = self.known.as_mut().zip(command.script_text());
        let text = known.filter(|(known, _)| !known.contains(&command.args[0])).map(|(known, text)| {
            known.push(command.args[0].clone());
            text
        });
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
