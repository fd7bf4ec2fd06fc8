//! What is next of the history, and how much of it at once. While one chunk is put in, the next is read and sorted, so that
//! neither the journal nor the store waits for the other.
//!
//! Never here: a store.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::spawn_blocking;

use super::LIVE_POINTS;
use super::history::{Chunk, History, Stretch};
use crate::journal::Damage;
use crate::model::Offset;

/// The most points in a chunk: the more there are, the more of them are a driver's that is written once.
const MOST_POINTS: usize = 64_000;
/// A store that does not take so many in its time is given fewer, down to this.
const FEWEST_POINTS: usize = 500;
/// A chunk should not take longer than this: a live point waits for one.
const TAKES: Duration = Duration::from_millis(300);

/// What keeps the next chunk from being there.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The journal cannot be read now.
    #[error(transparent)]
    Journal(#[from] io::Error),
    /// Reading ended abnormally, and so has this.
    #[error("reading the journal panicked")]
    Panicked,
}

/// Chunks of the history, one after the other.
#[derive(Debug)]
pub struct Supply {
    /// Lent out while it reads.
    history: Option<History>,
    /// Read, and not given out, or given back; the first is the next.
    chunks: VecDeque<Chunk>,
    /// How many points go in at once at present.
    most: usize,
}

impl Supply {
    /// Of `history`. It begins with chunks of [`LIVE_POINTS`], and finds out what a store takes in its time.
    pub const fn new(history: History) -> Self {
        Self { history: Some(history), chunks: VecDeque::new(), most: LIVE_POINTS }
    }

    /// Adds a stretch that is newer than all there are.
    pub fn add(&mut self, stretch: Stretch) {
        self.history().add(stretch);
    }

    /// Puts one stretch in the place of all there are: from `from`, or from where they begin if that is earlier, to
    /// `to`. Any of it may be in the store.
    pub fn widen(&mut self, from: Offset, to: Offset) {
        let is_news = self.has_news();
        let from = self.from().map_or(from, |own| own.min(from));
        self.chunks.clear();
        self.history().replace(Stretch { from, to, repeated: true, is_news });
    }

    /// Where the oldest begins that was not given out for good; `None` if nothing is left.
    pub fn from(&self) -> Option<Offset> {
        let chunks = self.chunks.iter().map(|chunk| chunk.start);
        chunks.chain(self.history.as_ref().and_then(History::from)).min()
    }

    /// Whether the store was never given some of what is left.
    pub fn has_news(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.is_news) || self.history.as_ref().is_some_and(History::has_news)
    }

    /// All damage met so far.
    pub fn damage(&self) -> Damage {
        self.history.as_ref().map(History::damage).unwrap_or_default()
    }

    /// The next chunk; `None` when nothing is left.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ReadError> {
        if self.chunks.is_empty() {
            self.read_on().await?;
        }
        let Some(mut chunk) = self.chunks.pop_front() else { return Ok(None) };
        if let Some(rest) = chunk.split(self.most) {
            self.chunks.push_front(rest);
        }
        Ok(Some(chunk))
    }

    /// Waits for `putting`, which puts in the chunk of so many `points` that was given out last; sees to it meanwhile that
    /// there is a next one, and learns how large that may be.
    pub async fn while_putting<T, E>(
        &mut self,
        points: usize,
        putting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let putting = async { (putting.await, began.elapsed()) };
        let (outcome, took) = if self.chunks.is_empty() {
            // What cannot be read is tried once more when it is asked for, and told then.
            tokio::join!(putting, self.read_on()).0
        } else {
            putting.await
        };
        if outcome.is_ok() {
            self.most = next_most(self.most, points, took);
        }
        outcome
    }

    /// What was given out last could not be put in: it is the next once more, in smaller parts.
    pub fn give_back(&mut self, mut chunk: Chunk) {
        self.most = (self.most / 2).max(FEWEST_POINTS);
        // Any part of it may have gone in.
        chunk.repeated = true;
        self.chunks.push_front(chunk);
    }

    async fn read_on(&mut self) -> Result<(), ReadError> {
        let (mut history, most) = (self.history.take().ok_or(ReadError::Panicked)?, self.most);
        // Off the runtime's workers, so that a stalled disk stalls nobody else.
        let reading = spawn_blocking(move || {
            let chunk = history.next(most);
            (history, chunk)
        });
        let (history, chunk) = reading.await.map_err(|_| ReadError::Panicked)?;
        self.history = Some(history);
        self.chunks.extend(chunk?);
        Ok(())
    }

    fn history(&mut self) -> &mut History {
        self.history.as_mut().expect("it is lent out only while it reads")
    }
}

/// How many points go in at once, at most, after `points` of `most` took so long. A few say nothing about many.
fn next_most(most: usize, points: usize, took: Duration) -> usize {
    let next = match took {
        _ if took > TAKES => most / 2,
        _ if points < most / 2 => most,
        _ if took > TAKES / 4 => most + most / 4,
        _ => 2 * most,
    };
    next.clamp(FEWEST_POINTS, MOST_POINTS)
}
