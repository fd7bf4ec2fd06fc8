//! How far an applier has come, and what that makes of answers: shared with everyone who must know.
//!
//! Whoever finds that a store lost something says so here, and from that instant on no answer counts as whole; the
//! applier takes the loss over, without a gap, into the pass that makes up for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::journal::{Committed, Reach};
use crate::model::{Offset, Timestamp};

/// An answer is whole if everything acknowledged until this long ago is in the store. It is what a point may take
/// from its acknowledgement into every answer.
pub const FRESHNESS_BOUND: Duration = Duration::from_millis(500);

/// Told by the applier and by audits, read by queries, ingest, metrics and retention.
#[derive(Debug)]
pub struct Progress {
    committed: watch::Receiver<Committed>,
    applied: watch::Sender<Reach>,
    durable: watch::Sender<Offset>,
    points_end: AtomicU64,
    points_applied: AtomicU64,
    restarts: AtomicU64,
    losses: AtomicU64,
    doubts: AtomicU64,
    /// Doubts that a pass has taken care of, or is taking care of.
    met: AtomicU64,
    lost: Notify,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When everything then committed was known to be applied, last; history apart.
    whole: Option<(Instant, Timestamp)>,
    /// When the newest applied batch had been received.
    received: Option<Timestamp>,
    /// How far the live end is in.
    live: Offset,
    /// From where on the store lost what it had; not yet taken over by a pass.
    loss: Option<Offset>,
    pass: Option<Pass>,
    set_aside: SetAside,
}

/// How far the pass through history is that makes a store whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// What was received before this is in already; `None`: nothing is known to be.
    pub as_of: Option<Timestamp>,
    /// Points put in so far.
    pub points_done: u64,
    /// Points there are to put in, the ones done included.
    pub points_total: u64,
    /// Some of them were never in this store: who waits for one to be applied goes on waiting.
    pub has_news: bool,
}

/// What a store refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// How many points lie in the file of dead letters.
    pub points: u64,
    /// When the journal had received the first of them.
    pub since: Option<Timestamp>,
}

/// Whether a store is whole, and since when not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wholeness {
    /// Everything acknowledged before the freshness bound is in.
    Whole,
    /// What was received up to this moment is in.
    Behind(Option<Timestamp>),
    /// All but what the store refused is in; what was received up to this moment is in without exception.
    Lacking(Option<Timestamp>),
}

impl Progress {
    /// Nothing applied yet of what `committed` tells.
    pub fn new(committed: watch::Receiver<Committed>) -> Self {
        Self {
            committed,
            applied: watch::Sender::default(),
            durable: watch::Sender::new(Offset::START),
            points_end: AtomicU64::new(0),
            points_applied: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            met: AtomicU64::new(0),
            lost: Notify::new(),
            state: Mutex::default(),
        }
    }

    /// Tells up to where whoever waits for the store may rely on it.
    pub fn watch_applied(&self) -> watch::Receiver<Reach> {
        self.applied.subscribe()
    }

    /// How far the store holds the journal for good: what lies before may be dropped from the journal.
    pub fn durable_offset(&self) -> Offset {
        *self.durable.borrow()
    }

    /// Points applied since the start of the process.
    pub fn points_applied(&self) -> u64 {
        self.points_applied.load(Ordering::Relaxed)
    }

    /// How often the applier had to be started again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Points in the journal that the store does not hold yet.
    pub fn backlog_points(&self) -> u64 {
        let live = self.committed.borrow().points.saturating_sub(self.points_end.load(Ordering::Relaxed));
        let pass = self.state.lock().pass.unwrap_or_default();
        live + pass.points_total.saturating_sub(pass.points_done)
    }

    /// The pass under way, if there is one.
    pub fn pass(&self) -> Option<Pass> {
        self.state.lock().pass
    }

    /// What the store refused and does not have.
    pub fn set_aside(&self) -> SetAside {
        self.state.lock().set_aside
    }

    /// How often the store was found to have lost something. An answer that began and ended at the same number, with
    /// an audit after it, was made from a store that had lost nothing.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Whether answers from the store are whole at this moment.
    pub fn wholeness(&self) -> Wholeness {
        let State { whole, received, live, loss, pass, set_aside } = *self.state.lock();
        if self.is_doubted() {
            return Wholeness::Behind(None);
        }
        if loss.is_some() || pass.is_some() {
            return Wholeness::Behind(pass.and_then(|pass| pass.as_of).filter(|_| loss.is_none()));
        }
        let behind = match whole {
            None => Some(received),
            Some((at, _)) if at.elapsed() <= FRESHNESS_BOUND => None,
            Some(_) if live >= self.committed.borrow().end => None,
            Some((_, ts)) => Some(Some(ts)),
        };
        match behind {
            Some(as_of) => Wholeness::Behind(as_of),
            None if set_aside.points > 0 => Wholeness::Lacking(set_aside.since),
            None => Wholeness::Whole,
        }
    }

    /// The store lost what it had from `offset` on, or cannot tell.
    pub fn lost(&self, offset: Offset) {
        let mut state = self.state.lock();
        state.loss = Some(state.loss.map_or(offset, |known| known.min(offset)));
        self.losses.fetch_add(1, Ordering::Release);
        drop(state);
        self.lost.notify_one();
    }

    /// The store may have lost anything. What a pass under way has put in may be gone as well, so another follows; but
    /// it is not begun anew each time, or it would never end while a store goes on losing.
    pub(super) fn doubted(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
        self.losses.fetch_add(1, Ordering::Release);
        self.lost.notify_one();
    }

    /// How often it may have lost anything.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// Whether a pass from the beginning has to follow.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubts() > self.met.load(Ordering::Acquire)
    }

    /// A pass from the beginning began after so many doubts.
    pub(super) fn met(&self, doubts: u64) {
        self.met.fetch_max(doubts, Ordering::AcqRel);
    }

    /// Returns when something may have been lost.
    pub(super) async fn something_lost(&self) {
        self.lost.notified().await;
    }

    /// From where on the store lost what it had, if it did.
    pub(super) fn loss(&self) -> Option<Offset> {
        self.state.lock().loss
    }

    /// This pass is under way, or none; a loss from `taken` on, or later, is being made up for by it.
    pub(super) fn set_pass(&self, pass: Option<Pass>, taken: Option<Offset>) {
        let mut state = self.state.lock();
        state.pass = pass;
        state.loss = state.loss.filter(|loss| taken.is_none_or(|taken| *loss < taken));
        self.publish(&state);
    }

    pub(super) fn set_set_aside(&self, set_aside: SetAside) {
        self.state.lock().set_aside = set_aside;
    }

    /// Some of what lies between these was not put in. Told before it counts as applied.
    pub(super) fn left_out(&self, start: Offset, end: Offset) {
        self.applied.send_if_modified(|reach| {
            reach.leave_out(start, end);
            false
        });
    }

    pub(super) fn applied(&self, end: Offset, points_end: u64, points: usize, received: Timestamp) {
        self.points_end.store(points_end, Ordering::Relaxed);
        self.put_in(points);
        let mut state = self.state.lock();
        state.received = Some(received);
        state.live = end;
        self.publish(&state);
    }

    pub(super) fn put_in(&self, points: usize) {
        self.points_applied.fetch_add(points as u64, Ordering::Relaxed);
    }

    /// Everything that was committed `at` that moment is in, by this run or an earlier one, or is lost, or is in the
    /// hands of a pass.
    pub(super) fn caught_up(&self, all: Committed, at: Instant, ts: Timestamp) {
        self.points_end.fetch_max(all.points, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.live = state.live.max(all.end);
        state.whole = Some((at, ts));
        self.publish(&state);
    }

    pub(super) fn durable(&self, durable: Offset) {
        self.durable.send_replace(durable);
    }

    /// Nothing is known any more: an applier begins anew.
    pub(super) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        (state.whole, state.received, state.pass) = (None, None, None);
    }

    /// Whoever waits for a point that is in a pass for the first time goes on waiting.
    fn publish(&self, state: &State) {
        if !state.pass.is_some_and(|pass| pass.has_news) {
            self.applied.send_if_modified(|reach| reach.extend(state.live));
        }
    }
}
