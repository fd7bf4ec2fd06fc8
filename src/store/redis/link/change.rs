//! Changes that are made only if nobody else touched what they rest on: what is looked at is watched first (WATCH), and
//! what is written is one transaction (MULTI, EXEC), which Redis drops if anything watched was written meanwhile. Then it
//! is looked at again. A change that is dropped is dropped for another that was made, so somebody always gets on; one
//! that a crash or a lost connection breaks off is made whole or not at all.
//!
//! Nothing else is watched, so that nobody is kept from writing by others' business. A change may turn out to rest on more
//! than was watched: then it writes nothing, and is looked at again. Changes go over several lines at once, so that Redis
//! works for one while another waits for an answer. A server that is far away would be waited for most of the time: to it
//! there are many.
//!
//! A line carries one change after the other; the looks for the next go out with the writes of the one before. MULTI
//! goes with the looks: were it refused after them, what follows would be carried out unwatched. A transaction begins with
//! TIME, and TIME follows it: how long it held Redis, no slow log tells. The second is no part of it, for newer servers stop their
//! clock for as long as a transaction takes.
//!
//! Never here: what a change rests on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future;
use parking_lot::Mutex;
use rand::RngExt as _;

use super::command::{Failure, Reply, slot};
use super::line::Line;
use super::node::Node;
use super::wire::Request;
use super::{Link, PAUSES, ROUNDS, Route, nobody};
use crate::store::StoreError;

/// Lines to one server at once.
const LINES: usize = 4;
/// The same to one that is far away.
pub(super) const LINES_AFAR: usize = 16;

/// What is looked at, and what is then written. All in one slot.
pub(in crate::store::redis) trait Change: Sync {
    /// What is known of it once it is made.
    type Made: Send;

    /// The keys that tell whether anything was written that it rests on; never none.
    fn watched(&self) -> &[Bytes];

    /// Asks what must be known.
    fn look(&self, request: &mut Request);

    /// Writes, given what the looks answered; `None`, and nothing, if it must be looked at again.
    fn write(&self, seen: Vec<Reply>, request: &mut Request) -> Result<Option<Self::Made>, StoreError>;

    /// Hears that it was made, while Redis goes on with others, and for how long it held Redis.
    fn made(&self, took: Duration);
}

/// The changes of one server that no line has taken yet.
#[derive(Debug)]
struct Part {
    node: Arc<Node>,
    asking: bool,
    queue: Mutex<VecDeque<usize>>,
}

/// What became of the changes that a line took.
struct Outcomes<C: Change> {
    made: Vec<(usize, C::Made, Vec<Reply>)>,
    failed: Vec<(usize, Failure)>,
    /// Not tried any more after a failure.
    left: Vec<usize>,
}

impl Link {
    /// Makes changes of which no two rest on the same, in any order, and gives for each what [`Change::write`] returned and
    /// all that Redis answered. After an error any of them may have been made. `connections` is what
    /// [`Link::connections`] said when it was last looked whose data this is.
    pub(in crate::store::redis) async fn change<C: Change>(
        &self,
        changes: &[C],
        connections: u64,
    ) -> Result<Vec<(C::Made, Vec<Reply>)>, StoreError> {
        let begun = Instant::now();
        let mut made: Vec<Option<(C::Made, Vec<Reply>)>> = changes.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Route)> = (0..changes.len()).map(|at| (at, Route::Owner)).collect();
        if !open.is_empty() {
            // Whoever brings the same at the same time should not meet us at each of them.
            open.rotate_left(rand::rng().random_range(0..changes.len()));
        }
        let mut pause = PAUSES.0;
        for round in 0.. {
            let parts = self.parts(std::mem::take(&mut open), changes)?;
            let works = parts.iter().flat_map(|part| {
                let most = if part.node.is_far() { LINES_AFAR } else { LINES };
                let lines = part.queue.lock().len().min(most);
                (0..lines).map(|_| self.work(part, changes, connections))
            });
            let (mut trouble, mut is_later) = (None, false);
            for (part, outcomes) in future::join_all(works).await {
                for (at, done, answers) in outcomes.made {
                    made[at] = Some((done, answers));
                }
                for (at, failure) in outcomes.failed {
                    match self.elsewhere(&part.node, Some(slot_of(&changes[at])), &failure) {
                        Some((route, later)) if round < ROUNDS => {
                            is_later |= later;
                            open.push((at, route));
                        }
                        _ => trouble = trouble.or(Some(failure)),
                    }
                }
                open.extend(outcomes.left.into_iter().map(|at| (at, part.route())));
            }
            if let Some(failure) = trouble {
                return Err(failure.into());
            }
            for part in &parts {
                let left = std::mem::take(&mut *part.queue.lock());
                open.extend(left.into_iter().map(|at| (at, part.route())));
            }
            if open.is_empty() {
                break;
            }
            if is_later {
                if begun.elapsed() >= self.patience {
                    return Err(Failure::Again("not ready in time".into()).into());
                }
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
        made.into_iter().map(|made| made.ok_or_else(|| nobody().into())).collect()
    }

    /// By server.
    fn parts<C: Change>(&self, open: Vec<(usize, Route)>, changes: &[C]) -> Result<Vec<Part>, StoreError> {
        let map = self.territory.map();
        let mut parts: Vec<Part> = Vec::new();
        for (at, route) in open {
            let slot = slot_of(&changes[at]);
            let (node, asking) = match route {
                Route::Owner => (map.owner(slot), false),
                Route::At(node) => (Some(node), false),
                Route::Asking(node) => (Some(node), true),
            };
            let Some(node) = node else {
                self.territory.refresh.notify_one();
                return Err(nobody().into());
            };
            let is_its = |part: &Part| Arc::ptr_eq(&part.node, &node) && part.asking == asking;
            let part = parts.iter().position(is_its).unwrap_or_else(|| {
                parts.push(Part { node, asking, queue: Mutex::default() });
                parts.len() - 1
            });
            parts[part].queue.get_mut().push_back(at);
        }
        Ok(parts)
    }

    /// Makes changes of a part, one after the other, until there are none left or one fails.
    async fn work<'a, C: Change>(&self, part: &'a Part, changes: &[C], connections: u64) -> (&'a Part, Outcomes<C>) {
        let mut outcomes = Outcomes { made: Vec::new(), failed: Vec::new(), left: Vec::new() };
        let (whose, begun) = (self.whose.load(), Instant::now());
        let Some(first) = part.next() else { return (part, outcomes) };
        let carried = match part.node.line(whose.as_deref(), self.is_cluster(), connections).await {
            Ok(line) => part.carry(line, first, changes, &mut outcomes).await,
            Err(failure) => {
                outcomes.failed.push((first, failure));
                Err(begun)
            }
        };
        match carried {
            Ok(line) => part.node.keep(line),
            Err(begun) => part.node.suspect(begun),
        }
        (part, outcomes)
    }
}

impl Part {
    fn route(&self) -> Route {
        if self.asking { Route::Asking(self.node.clone()) } else { Route::Owner }
    }

    /// A change that no line has taken.
    fn next(&self) -> Option<usize> {
        self.queue.lock().pop_front()
    }

    /// Takes `first` and what is in the queue over a line. It is given back if it can be used any more; else, when what
    /// failed was begun: with the line ends what was begun on it.
    async fn carry<C: Change>(
        &self,
        mut line: Line,
        first: usize,
        changes: &[C],
        outcomes: &mut Outcomes<C>,
    ) -> Result<Line, Instant> {
        let (mut first, mut seen): (_, Option<(usize, Vec<Reply>)>) = (Some(first), None);
        let begun = loop {
            let begun = Instant::now();
            let mut request = Request::default();
            request.known = Some(line.known().to_vec());
            let writing = match seen.take() {
                None => None,
                Some((at, replies)) => {
                    request.command("TIME", 0);
                    match changes[at].write(replies, &mut request) {
                        Ok(made) => {
                            request.command("EXEC", 0).command("TIME", 0);
                            let scripts = request.known.take().unwrap_or_default();
                            Some((at, made, request.commands(), scripts))
                        }
                        Err(error) => {
                            outcomes.failed.push((at, error.into()));
                            break begun;
                        }
                    }
                }
            };
            let looking = first.take().or_else(|| self.next());
            if let Some(at) = looking {
                request.asks = self.asking;
                request.command("WATCH", changes[at].watched().len());
                for key in changes[at].watched() {
                    request.arg(key);
                }
                changes[at].look(&mut request);
                request.command("MULTI", 0);
            } else if writing.is_none() {
                return Ok(line);
            }
            let mut replies = match line.exchange(request).await {
                Ok(replies) => replies,
                Err(failure) => {
                    let lost = writing.map(|(at, ..)| at).into_iter().chain(looking);
                    outcomes.failed.extend(lost.map(|at| (at, failure.clone())));
                    break begun;
                }
            };
            let looked = replies.split_off(writing.as_ref().map_or(0, |(_, _, commands, _)| *commands));
            let mut has_failed = false;
            if let Some((at, made, _, scripts)) = writing {
                match executed(replies).map(|answers| answers.zip(made)) {
                    Ok(Some(((answers, took), made))) => {
                        line.has_executed(scripts);
                        // A clock may be set forward.
                        changes[at].made(took.min(begun.elapsed()));
                        outcomes.made.push((at, made, answers));
                    }
                    Ok(None) => self.queue.lock().push_back(at),
                    Err(failure) => {
                        outcomes.failed.push((at, failure));
                        has_failed = true;
                    }
                }
            }
            if let Some(at) = looking {
                match answers(looked, self.asking) {
                    Ok(answers) => seen = Some((at, answers)),
                    Err(failure) => {
                        outcomes.failed.push((at, failure));
                        has_failed = true;
                    }
                }
            }
            if has_failed {
                break begun;
            }
        };
        outcomes.left.extend(seen.map(|(at, _)| at));
        Err(begun)
    }
}

/// All that a change touches lies in one.
fn slot_of<C: Change>(change: &C) -> u16 {
    slot(&change.watched()[0])
}

/// What the looks answered, without what stands for WATCH and for MULTI, and for ASKING before each.
fn answers(replies: Vec<Result<Reply, Failure>>, asking: bool) -> Result<Vec<Reply>, Failure> {
    let step = 1 + usize::from(asking);
    let mut answers = replies.into_iter().skip(step - 1).step_by(step).collect::<Result<Vec<_>, _>>()?;
    answers.pop();
    answers.remove(0);
    Ok(answers)
}

/// What a transaction answered, without the TIME that it begins with, and how long it took by that and the one that follows
/// it, given the replies to what was queued, to EXEC and to that; `None` if it was dropped.
fn executed(mut replies: Vec<Result<Reply, Failure>>) -> Result<Option<(Vec<Reply>, Duration)>, Failure> {
    let mut last = || replies.pop().unwrap_or_else(|| Err(Failure::Down("no reply".into())));
    let (ended, executed) = (last(), last());
    // What could not be queued says why; then EXEC says no more than that nothing was done.
    replies.into_iter().collect::<Result<Vec<_>, _>>()?;
    match executed? {
        Reply::Nil => Ok(None),
        Reply::List(answers) => {
            let mut answers = VecDeque::from(answers);
            let begun = answers.pop_front().unwrap_or(Reply::Nil);
            // A clock may be set back.
            let took = clock(ended?)?.saturating_sub(clock(begun)?);
            Ok(Some((answers.into(), took)))
        }
        _ => Err(Failure::Corrupt("what EXEC answers is no list".into())),
    }
}

/// What a server's clock shows, by what TIME answers: seconds, and µs beyond them.
fn clock(answer: Reply) -> Result<Duration, Failure> {
    let parts = answer.list().unwrap_or_default();
    let parts: Vec<u64> = parts.iter().filter_map(|part| part.text()?.parse().ok()).collect();
    let [seconds, micros] = parts[..] else {
        return Err(Failure::Corrupt("what TIME answers is no time".into()));
    };
    Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: &str, micros: &str) -> Reply {
        Reply::List([seconds, micros].map(|part| Reply::Bytes(part.to_owned().into())).into())
    }

    fn took(begun: Reply, ended: Reply) -> Result<Option<(Vec<Reply>, Duration)>, Failure> {
        let queued = || Ok(Reply::Bytes("QUEUED".into()));
        executed(vec![queued(), queued(), Ok(Reply::List(vec![begun, Reply::Integer(7)])), Ok(ended)])
    }

    #[test]
    fn the_server_says_how_long_a_transaction_held_it() {
        let within = |micros| Ok(Some((vec![Reply::Integer(7)], Duration::from_micros(micros))));
        assert_eq!(took(time("1700000000", "999900"), time("1700000001", "23")), within(123));
        assert_eq!(took(time("1700000001", "0"), time("1700000000", "0")), within(0), "its clock was set back");
        assert!(matches!(took(Reply::Nil, time("1", "2")), Err(Failure::Corrupt(_))));
        assert!(matches!(took(time("x", "2"), time("1", "2")), Err(Failure::Corrupt(_))));
    }
}
