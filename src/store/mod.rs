//! The contract of a store: an index of the journal that answers queries. It speaks the domain, in batches; no word of
//! Redis, of files or of HTTP passes through it. `tests/it/store_contract.rs` holds every store to these sentences.
//!
//! - **Idempotent, order-free.** Applying the same points again, in another order, in other batches, or after an
//!   instance applied them elsewhere leaves the same answers. A point is known by driver and millisecond; of two that
//!   differ, the greater [`Fix`] wins.
//! - **Newest wins.** No late point moves a driver back.
//! - **All, or said otherwise.** `apply` returns once every point is in the store and visible to its readers. After an
//!   error any part may have been applied; the caller applies the whole batch again. A store that is spread over servers
//!   of which some cannot be asked puts in what belongs to the others and owes the rest: it says [`Applied::Partly`],
//!   is not durable beyond the batch's start, and a later audit asks for that part of the journal again.
//! - **Bounded.** No call holds the store up for longer than a slice of at most 1,000 elements takes; every call ends
//!   within the deadline the store was built with, as [`StoreError::Unavailable`] if need be. One that goes through everything
//!   there is (opening, audits, counts, erasing, forgetting) takes as many steps as that takes, each within the deadline.
//! - **Within the retention.** A store need answer only about fixes within its retention; what is older may be gone, or
//!   still be there: forgetting may be lazy (tracks in Redis are left to their TTL).
//! - **Erased is erased.** After `erase` no answer shows what was applied of the driver before, and no file of the store
//!   holds a byte of it. Points applied later are new. Erasing again, or somebody unknown, is no error.
//! - **Never empty for lack of knowledge.** A store that cannot be asked says so; it never answers "nobody". Where some of
//!   its servers cannot be asked, what they have is left out of answers about many drivers, and `omissions` tells; what
//!   such an answer has is true. One that would be empty for that reason, or is about one driver, is an error instead.
//!
//! Never here: the journal (an applier brings the points), the clock (callers pass moments), retention policy
//! (callers pass what to forget), labels such as degraded (the query layer knows them).

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::model::{DriverId, Fix, Hour, Offset, Point, Position, Tag, Timestamp};

pub mod audited;
pub mod embedded;
pub mod measured;
pub mod redis;
pub mod track_codec;
mod whereabouts;

/// A driver and one of its fixes: its newest, or its last in an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Who.
    pub driver: DriverId,
    /// When, where, how.
    pub fix: Fix,
}

/// A driver found near a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    /// Who, when, where, how.
    pub located: Located,
    /// Metres from the place asked about.
    pub distance_m: f64,
}

/// A stretch of time that ends now. No fix lies beyond `until`: now, and how far phones may be ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The oldest moment that counts.
    pub since: Timestamp,
    /// The latest moment a fix can have.
    pub until: Timestamp,
}

impl Window {
    /// Whether a fix lies in it.
    pub fn has(self, fix: &Fix) -> bool {
        (self.since..=self.until).contains(&fix.ts)
    }
}

/// Which fix of a driver a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Its newest, if that lies in the window.
    Within(Window),
    /// Its last in this hour.
    During(Hour),
}

/// Who is near, nearest first; at the same distance by id.
#[derive(Clone, Debug, PartialEq)]
pub struct NearbyQuery {
    /// Near what.
    pub centre: Position,
    /// Metres, the edge included; at most 100,000.
    pub radius_m: f64,
    /// At most this many; 1 to 1,000.
    pub limit: usize,
    /// Which fix.
    pub when: When,
    /// Only drivers whose fix has all of these.
    pub tags: Vec<Tag>,
}

/// One page of a listing in the order of driver ids. Following `next` meets every driver who is there from beginning
/// to end exactly once, however they move, and across restarts and stores: the id is all there is to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// At most as many as asked for. May be fewer, even none, before the end.
    pub items: Vec<T>,
    /// Go on after this driver; `None` at the end.
    pub next: Option<DriverId>,
}

/// What went wrong in a store. The details are for the log, never for a caller of the service.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be asked now: down, stopped, still loading, past its deadline. Asking again may help.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// It refuses these very points for ever.
    #[error("store refused: {0}")]
    Refused(String),
    /// What it holds cannot be read.
    #[error("store corrupt: {0}")]
    Corrupt(String),
}

/// A batch on its way into a store: consecutive points of the journal, up to an offset.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The points, in any order. By hours, drivers and time is the quickest.
    pub points: &'a [Point],
    /// From where on the journal would bring them again, none excepted.
    pub start: Offset,
    /// Where the journal stands after them.
    pub end: Offset,
    /// Points whose hour ended before this are already out of the retention: counted, never written.
    pub forget_before: Timestamp,
    /// The store may hold some of these already: from a run that ended before it noted them, or from before a loss.
    /// The outcome is the same either way; a store to which repetition costs something looks first.
    pub repeated: bool,
}

/// How much of a batch was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it.
    Whole,
    /// All but what belongs where the store cannot be asked. The store owes it: see [`Store::audit`].
    Partly,
}

/// A line on the board that all instances on one store share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Of no meaning to the store; no line breaks.
    pub text: String,
    /// When what it tells of began: it may go when that is longer ago than boards are kept.
    pub at: Timestamp,
}

/// How much of what an instance accepted is in the store, as the instance says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that it acknowledged before the freshness bound.
    Whole,
    /// All, and it is gone: it accepts nothing any more.
    Left,
    /// What it received up to this moment, if that is known; the rest is on its way.
    Behind(Option<Timestamp>),
    /// What it received up to this moment, if that is known; of the rest, all but what was refused.
    Lacking(Option<Timestamp>),
}

/// What an instance brings to the board.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// To be written, if they are not there.
    pub lines: &'a [Line],
    /// For how long each is kept, from its own moment.
    pub keep: Duration,
    /// How it stands; `None`: it only reads.
    pub standing: Option<Standing>,
}

/// What an instance said when it was at the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendance {
    /// The id of its journal.
    pub instance: String,
    /// How long ago that was.
    pub ago: Duration,
    /// As it said; [`Standing::Behind`] if the store lost something since, and the instance has not been seen to know.
    pub standing: Standing,
}

/// What an instance reads off the board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// Every line there is, those just written included.
    pub lines: Vec<Line>,
    /// The ids of the journals of all instances that wrote or read within [`BOARD_LAPSE`], this one included.
    pub instances: Vec<String>,
    /// Of every instance that ever said how it stands, what it said last, as far as the store still has that.
    pub roll: Vec<Attendance>,
}

/// An instance that was not at the board for this long is away. Whoever applies points makes sure that it was there
/// recently enough for this, and its longest call, to be over when others take it for away.
pub const BOARD_LAPSE: Duration = Duration::from_secs(4);

/// The trouble of a store that holds another fleet's data: it is left alone.
pub const FOREIGN: &str = "it holds another fleet's data, and is left alone";

/// The newest fixes of the fleet in the memory of this process. What is given is all that the store has, or had a moment ago,
/// whatever becomes of the store: it needs no glance after it. `None`: the store has to be asked.
pub trait Memory {
    /// As [`Store::nearby`], of newest fixes in the window.
    fn near(&self, query: &NearbyQuery, window: Window) -> Option<(Vec<Near>, bool)>;

    /// As [`Store::active`].
    fn page(&self, window: Window, after: Option<&DriverId>, limit: usize) -> Option<Page<Located>>;

    /// As [`Store::active_count`].
    fn count(&self, window: Window) -> Option<u64>;
}

/// An index of the journal.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// `embedded` or `redis`, as in metrics.
    fn name(&self) -> &'static str;

    /// Makes ready whatever must be loaded before the first `apply`, and says from where the journal must be applied:
    /// everything before that offset is in the store for good. `None`: the store keeps no such note, the applier's
    /// own checkpoint holds. `marks` is what [`Store::marks`] said when that checkpoint was written, or empty.
    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError>;

    /// What the store must be told at its next opening to know what it should hold: kept beside the checkpoint, of no
    /// meaning to anyone else. One line.
    fn marks(&self) -> String;

    /// Looks whether the store still holds what was put into it, and whether it can now be given what it owes. If so:
    /// the offset from which the journal must be applied again. Told once; the store then expects what follows to come
    /// again.
    async fn audit(&self) -> Result<Option<Offset>, StoreError>;

    /// Whether the store still holds what it held when it was last written to or audited, as far as one look tells.
    /// So cheap that it follows every answer: a store that comes back empty answers before the next audit. False from
    /// the moment when a loss is found, and until the audit after the one that told it: whoever was told is on the way.
    async fn glance(&self) -> Result<bool, StoreError>;

    /// Puts a batch in.
    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError>;

    /// Everything before this offset would survive the end of this process (of the embedded store: is on disk; of
    /// Redis: was applied).
    fn durable(&self) -> Offset;

    /// Makes durable what was applied. At shutdown, and when the applier has caught up after a long way.
    async fn flush(&self) -> Result<(), StoreError>;

    /// Forgets what belongs to hours that ended before `cutoff`, a step at a time.
    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError>;

    /// Forgets all that was applied of a driver so far, in memory and on disk; done when this returns. The caller sees to
    /// it that nothing of that is applied again.
    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError>;

    /// Goes to the board that all instances on this store share, and reads what is there. `None`: nobody else uses this
    /// store.
    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError>;

    /// What it keeps in memory beside, if it does.
    fn memory(&self) -> Option<&dyn Memory> {
        None
    }

    /// The newest fix of a driver, if it lies in the window.
    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError>;

    /// Who is near; and whether there were more than the limit.
    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError>;

    /// The drivers whose newest fix lies in the window, with that fix, after `after` in the order of ids.
    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError>;

    /// How many `active` would list.
    async fn active_count(&self, window: Window) -> Result<u64, StoreError>;

    /// The fixes of a driver with `from <= ts < to`, oldest first, at most `limit`, each millisecond once.
    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError>;

    /// Who reported in an hour, after `after` in the order of ids.
    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError>;

    /// The last fix of each driver in an hour, after `after` in the order of ids.
    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError>;

    /// The `ts` of the newest fix of the whole fleet, of all instances, within the window; `None` if there is none.
    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError>;

    /// What time it is for the store, which lets things expire by that; `None` if it has no clock of its own.
    async fn now(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Whether some of its servers cannot be asked, or could not and what they have has not been looked at since, or it
    /// owes anything: answers may then be less than everything.
    fn is_partial(&self) -> bool;

    /// How many keys it let go of by itself since this process began: anything may be gone.
    fn evictions(&self) -> u64;

    /// How often something was left out of an answer. What was answered while this stayed the same is all there was.
    fn omissions(&self) -> u64;

    /// What keeps it from doing all that it should, in words for an operator; `None` if nothing is known to.
    fn trouble(&self) -> Option<String>;

    /// Whether it can be asked, be it in part, quickly.
    async fn ping(&self) -> Result<(), StoreError>;
}
