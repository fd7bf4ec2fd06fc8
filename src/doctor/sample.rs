//! A sample of the keys of a server: so many calls of SCAN and no more, each of a hundred keys, and of each key its type,
//! its expiry and its size. SCAN goes by the hashes of keys, so the first that it gives are as good as any.
//!
//! Sizes are counts that Redis keeps (STRLEN, HLEN and their like); bytes are MEMORY USAGE of five elements. Never here:
//! KEYS, a value, an element, a command whose cost grows with what it looks at. A key that is over is let go of by whoever
//! looks at it, as it would have been without that.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::node::text;
use crate::store::redis::{Question, Reply, Server, Trouble};

/// Calls of SCAN for one server.
const SCANS: usize = 20;
/// Keys a call: 0.1 ms of Redis' time.
const COUNT: usize = 100;
/// Keys whose questions go in one pipeline, two each.
const AT_ONCE: usize = 25;
/// However far away the server is.
const LONGEST: Duration = Duration::from_secs(4);
/// What EXPIRETIME answers of a key that is not there any more.
const GONE: i64 = -2;

/// A key, as far as it was looked at.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: Bytes,
    pub(super) kind: String,
    /// Seconds since 1970; `None`: it never expires.
    pub(super) expires_at_s: Option<i64>,
    /// Of a string its bytes, of a collection its elements.
    pub(super) length: u64,
    /// What it takes, where the server tells.
    pub(super) bytes: Option<u64>,
}

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) keys: Vec<Key>,
    /// Whether these are all there are.
    pub(super) is_whole: bool,
    /// What was not shown, by what was asked.
    pub(super) refused: Vec<(&'static str, Trouble)>,
}

impl Sample {
    /// Takes one, of the database of the URL.
    pub(super) async fn take(server: &mut Server) -> Self {
        let (mut sample, begun) = (Self::default(), Instant::now());
        let (mut cursor, mut seen) = (Bytes::from_static(b"0"), HashSet::new());
        for _ in 0..SCANS {
            let scan = Question::of("SCAN").arg(cursor.clone()).arg("COUNT").arg(COUNT.to_string());
            let (next, mut names) = match server.ask(scan).await.and_then(|reply| scanned(&reply)) {
                Ok(scanned) => scanned,
                Err(trouble) => {
                    sample.refuse("SCAN", trouble);
                    break;
                }
            };
            names.retain(|name| seen.insert(name.clone()));
            for names in names.chunks(AT_ONCE) {
                sample.look_at(server, names).await;
            }
            cursor = next;
            sample.is_whole = cursor.as_ref() == b"0";
            if sample.is_whole || begun.elapsed() >= LONGEST {
                break;
            }
        }
        sample
    }

    /// What became of a question.
    pub(super) fn refusal(&self, asked: &str) -> Option<&Trouble> {
        self.refused.iter().find(|(refused, _)| *refused == asked).map(|(_, trouble)| trouble)
    }

    /// The first refusal counts: others of the same are the same.
    fn refuse(&mut self, asked: &'static str, trouble: Trouble) {
        if self.refusal(asked).is_none() {
            self.refused.push((asked, trouble));
        }
    }

    async fn look_at(&mut self, server: &mut Server, names: &[Bytes]) {
        let questions: Vec<Question> = names
            .iter()
            .flat_map(|name| ["TYPE", "EXPIRETIME"].map(|word| Question::of(word).arg(name.clone())))
            .collect();
        let answers = server.ask_all(&questions).await;
        let mut there: Vec<Key> = Vec::with_capacity(names.len());
        for (name, answers) in names.iter().zip(answers.chunks(2)) {
            let [kind, expiry] = answers else { continue };
            let kind = match kind.clone().and_then(|reply| text(&reply)) {
                Ok(kind) => kind,
                Err(trouble) => {
                    self.refuse("TYPE", trouble);
                    String::new()
                }
            };
            match expiry {
                Ok(Reply::Integer(at)) if *at != GONE => there.push(Key {
                    name: name.clone(),
                    kind,
                    expires_at_s: (*at >= 0).then_some(*at),
                    length: 0,
                    bytes: None,
                }),
                Ok(_) => {}
                Err(trouble) => self.refuse("EXPIRETIME", trouble.clone()),
            }
        }
        self.measure(server, &mut there).await;
        self.keys.append(&mut there);
    }

    async fn measure(&mut self, server: &mut Server, keys: &mut [Key]) {
        let asks_for_bytes = self.refusal("MEMORY USAGE").is_none();
        let (mut questions, mut places) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            // The kinds that modules bring have no length.
            let Some(word) = length_of(&key.kind) else { continue };
            questions.push(Question::of(word).arg(key.name.clone()));
            places.push((at, word));
            if asks_for_bytes {
                questions.push(Question::of("MEMORY USAGE").arg(key.name.clone()).arg("SAMPLES").arg("5"));
                places.push((at, "MEMORY USAGE"));
            }
        }
        let answers = server.ask_all(&questions).await;
        for ((at, word), answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(Reply::Integer(number)) => {
                    let number = u64::try_from(number).unwrap_or_default();
                    if word == "MEMORY USAGE" {
                        keys[at].bytes = Some(number);
                    } else {
                        keys[at].length = number;
                    }
                }
                // It has gone meanwhile, or is another's now.
                Ok(_) => {}
                Err(Trouble::Told(word)) if word == "WRONGTYPE" => {}
                Err(trouble) => self.refuse(word, trouble),
            }
        }
    }
}

/// The command that tells how long it is.
pub(super) fn length_of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "string" => "STRLEN",
        "list" => "LLEN",
        "set" => "SCARD",
        "zset" => "ZCARD",
        "hash" => "HLEN",
        "stream" => "XLEN",
        _ => return None,
    })
}

/// The next cursor, and names.
fn scanned(reply: &Reply) -> Result<(Bytes, Vec<Bytes>), Trouble> {
    let odd = || Trouble::Told("no cursor".to_owned());
    let Reply::List(parts) = reply else { return Err(odd()) };
    let [Reply::Bytes(cursor), Reply::List(names)] = parts.as_slice() else { return Err(odd()) };
    let name = |name: &Reply| if let Reply::Bytes(name) = name { Some(name.clone()) } else { None };
    Ok((cursor.clone(), names.iter().filter_map(name).collect()))
}
