//! Changes that are made only if nobody else touched what they rest on: what is looked at is watched first (WATCH), and
//! what is written is one transaction (MULTI, EXEC), which Redis drops if anything watched was written meanwhile. Then it
//! is looked at again. A change that is dropped is dropped for another that was made, so somebody always gets on; one
//! that a crash or a lost connection breaks off is made whole or not at all.
//!
//! A line carries one change after the other; the looks for the next go out with the writes of the one before. MULTI
//! goes with the looks: were it refused after them, what follows would be carried out unwatched.
//!
//! Never here: what a change rests on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future;
use parking_lot::Mutex;
use rand::RngExt as _;

use super::command::{Failure, Reply, slot};
use super::line::{Line, Request};
use super::node::Node;
use super::{Link, PAUSES, ROUNDS, Route, nobody};
use crate::store::StoreError;

/// Lines to one server at once: while one waits for an answer, Redis works for another.
const LINES: usize = 4;

/// What is looked at, and what is then written. All in one slot.
pub(in crate::store::redis) trait Change: Sync {
    /// What is known of it once it is made.
    type Made: Send;

    /// A key of its slot.
    fn key(&self) -> &[u8];

    /// Asks what must be known, after watching what must not change until it is written.
    fn look(&self, request: &mut Request);

    /// Writes, given what the looks answered, but for the answer to the watching. Redis answers the last command with
    /// what [`Link::change`] gives beside what this returns.
    fn write(&self, seen: Vec<Reply>, request: &mut Request) -> Result<Self::Made, StoreError>;
}

/// The changes of one server that nobody has taken yet.
#[derive(Debug)]
struct Part {
    node: Arc<Node>,
    asking: bool,
    queue: Mutex<VecDeque<usize>>,
}

type Outcome<C> = (usize, Result<(<C as Change>::Made, Reply), Failure>);

impl Link {
    /// Makes changes of which no two rest on the same, in any order. All that can be made are made, even if there is an
    /// error. `connections` is what [`Link::connections`] said when it was last looked whose data this is.
    pub(in crate::store::redis) async fn change<C: Change>(
        &self,
        changes: &[C],
        connections: u64,
    ) -> Result<Vec<(C::Made, Reply)>, StoreError> {
        let begun = Instant::now();
        let mut made: Vec<Option<(C::Made, Reply)>> = changes.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Route)> = (0..changes.len()).map(|at| (at, Route::Owner)).collect();
        if !open.is_empty() {
            // Whoever brings the same drivers at the same time should not meet us at each of them.
            open.rotate_left(rand::rng().random_range(0..changes.len()));
        }
        let (mut pause, mut trouble) = (PAUSES.0, None);
        for round in 0.. {
            let parts = self.parts(std::mem::take(&mut open), changes)?;
            let works = parts.iter().flat_map(|part| {
                let lines = part.queue.lock().len().min(LINES);
                (0..lines).map(|_| self.work(part, changes, connections))
            });
            let mut is_later = false;
            for (part, outcomes) in future::join_all(works).await {
                for (at, outcome) in outcomes {
                    let failure = match outcome {
                        Ok(done) => {
                            made[at] = Some(done);
                            continue;
                        }
                        Err(failure) if round == ROUNDS => return Err(failure.into()),
                        Err(failure) => failure,
                    };
                    match self.elsewhere(&part.node, Some(slot(changes[at].key())), &failure) {
                        Some((route, later)) => {
                            is_later |= later;
                            open.push((at, route));
                        }
                        None => trouble = trouble.or(Some(failure)),
                    }
                }
            }
            if let Some(failure) = trouble {
                return Err(failure.into());
            }
            // What nobody has taken, since every line was lost that could have.
            for part in parts {
                let route = if part.asking { Route::Asking(part.node) } else { Route::Owner };
                open.extend(part.queue.into_inner().into_iter().map(|at| (at, route.clone())));
            }
            if open.is_empty() {
                break;
            }
            if is_later {
                if begun.elapsed() >= self.patience {
                    return Err(Failure::Again("not ready in time".into()).into());
                }
                tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..1.0))).await;
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
            let (node, asking) = match route {
                Route::Owner => (map.owner(slot(changes[at].key())), false),
                Route::At(node) => (Some(node), false),
                Route::Asking(node) => (Some(node), true),
            };
            let Some(node) = node else {
                self.territory.refresh.notify_one();
                return Err(nobody().into());
            };
            let known = parts.iter_mut().find(|part| Arc::ptr_eq(&part.node, &node) && part.asking == asking);
            match known {
                Some(part) => part.queue.get_mut().push_back(at),
                None => parts.push(Part { node, asking, queue: Mutex::new([at].into()) }),
            }
        }
        Ok(parts)
    }

    /// Makes changes of a part, one after the other, until there are none left or one fails.
    async fn work<'a, C: Change>(
        &self,
        part: &'a Part,
        changes: &[C],
        connections: u64,
    ) -> (&'a Part, Vec<Outcome<C>>) {
        let mut outcomes = Vec::new();
        let Some(first) = part.queue.lock().pop_front() else { return (part, outcomes) };
        let whose = self.whose.load();
        let begun = Instant::now();
        match part.node.line(whose.as_deref(), self.is_cluster(), connections).await {
            Ok(mut line) => match part.carry(&mut line, first, changes, &mut outcomes).await {
                Ok(()) => part.node.keep(line),
                // What was begun on it ends with it.
                Err(()) => part.node.suspect(begun),
            },
            Err(failure) => {
                part.node.suspect(begun);
                outcomes.push((first, Err(failure)));
            }
        }
        (part, outcomes)
    }
}

impl Part {
    /// Takes `first` and what is in the queue over `line`. After an error the line must not be used any more.
    async fn carry<C: Change>(
        &self,
        line: &mut Line,
        first: usize,
        changes: &[C],
        outcomes: &mut Vec<Outcome<C>>,
    ) -> Result<(), ()> {
        let mut next = Some(first);
        let mut seen: Option<(usize, Vec<Reply>)> = None;
        loop {
            let mut request = Request { spells_out: line.is_new(), ..Request::default() };
            let writing = match seen.take() {
                None => None,
                Some((at, replies)) => match changes[at].write(replies, &mut request) {
                    Ok(made) => {
                        request.command("EXEC", 0);
                        Some((at, made, request.commands()))
                    }
                    Err(error) => {
                        outcomes.push((at, Err(error.into())));
                        self.queue.lock().extend(next);
                        return Err(());
                    }
                },
            };
            if let Some(at) = next {
                request.asks = self.asking;
                changes[at].look(&mut request);
                request.command("MULTI", 0);
            }
            if writing.is_none() && next.is_none() {
                return Ok(());
            }
            let mut replies = match line.exchange(request).await {
                Ok(replies) => replies,
                Err(failure) => {
                    let lost = writing.map(|(at, ..)| at).into_iter().chain(next);
                    outcomes.extend(lost.map(|at| (at, Err(failure.clone()))));
                    return Err(());
                }
            };
            let looked = replies.split_off(writing.as_ref().map_or(0, |(.., commands)| *commands));
            let mut is_over = false;
            if let Some((at, made, _)) = writing {
                match executed(replies) {
                    Ok(Some(reply)) => {
                        line.has_executed();
                        outcomes.push((at, Ok((made, reply))));
                    }
                    // Somebody else was faster: all of it anew.
                    Ok(None) => self.queue.lock().push_back(at),
                    Err(failure) => {
                        outcomes.push((at, Err(failure)));
                        is_over = true;
                    }
                }
            }
            if let Some(at) = next {
                let answers = looked.into_iter().skip(usize::from(self.asking));
                let answers = answers.step_by(1 + usize::from(self.asking));
                match answers.collect::<Result<Vec<_>, _>>() {
                    Ok(mut answers) => {
                        // Of WATCH, and of MULTI.
                        answers.pop();
                        answers.remove(0);
                        seen = Some((at, answers));
                    }
                    Err(failure) => {
                        outcomes.push((at, Err(failure)));
                        is_over = true;
                    }
                }
            }
            if is_over {
                self.queue.lock().extend(seen.map(|(at, _)| at));
                return Err(());
            }
            next = self.queue.lock().pop_front();
        }
    }
}

/// What became of a transaction, given the replies to what was queued and to EXEC: the answer to its last command; `None`
/// if it was dropped.
fn executed(mut replies: Vec<Result<Reply, Failure>>) -> Result<Option<Reply>, Failure> {
    let executed = replies.pop().unwrap_or_else(|| Err(Failure::Down("no reply".into())));
    // What could not be queued says why; then EXEC says no more than that nothing was done.
    replies.into_iter().collect::<Result<Vec<_>, _>>()?;
    match executed? {
        Reply::Nil => Ok(None),
        Reply::List(mut answers) => Ok(Some(answers.pop().unwrap_or(Reply::Nil).unwrapped())),
        _ => Err(Failure::Corrupt("what EXEC answers is no list".into())),
    }
}
