//! The newest fixes of the whole fleet in the memory of this instance: of the last hours, read once from Redis, and kept
//! from then on by what this instance puts in and by what others say that they did (`changes`). A question that finds
//! what it needs here costs no round trip and no time of Redis.
//!
//! **What it has is never less than what Redis has**, as of a moment ago. It began with all that was there, when Redis was
//! whole as far as anybody knew, and has missed nothing since, or it would be read anew; and nothing counts that was read
//! before an instance became whole. So it needs no look at Redis after an answer, whatever Redis lost meanwhile; what
//! instances have yet to put in, the labels know, as of any answer.
//!
//! It answers for [`LEASE`] after it was last seen to have everything, and over the same connections. So whoever erases a
//! driver waits for that long, and nobody answers with it any more.
//!
//! It is kept while somebody asks, and begins with the first question. Until it has everything, Redis is asked.
//!
//! Never here: tracks, and hours before the last.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::Index;
use super::changes::At;
use super::shard::Shard;
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Timestamp};
use crate::store::whereabouts::Whereabouts;
use crate::store::{Attendance, Located, Memory, Near, NearbyQuery, Page, Standing, StoreError, Window};

/// How often it reads what is new.
const EVERY: Duration = Duration::from_millis(100);
/// For so long after Redis was last read, an instance answers out of its memory, whatever has become of Redis since.
pub const LEASE: Duration = Duration::from_millis(250);
/// It is given up when nobody asked for so long.
const IDLE: Duration = Duration::from_mins(10);
/// Pauses before it is read anew: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A read that takes longer counts for nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far back it goes: questions are about the trailing hour, unless they say otherwise.
const REACH_MS: i64 = 3_600_000;
/// Drivers in one page.
const PAGE: usize = 4_000;
/// Drivers per hold of the lock.
const SLICE: usize = 500;

/// What is in memory.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    whereabouts: RwLock<Whereabouts>,
    lease: RwLock<Lease>,
    asked: Mutex<Asked>,
    /// The instances that were whole when they were last heard of.
    whole: Mutex<BTreeSet<String>>,
}

/// Until when what is in memory has everything that there is, and of which hours.
#[derive(Debug, Default)]
struct Lease {
    granted: Option<Granted>,
    /// A reading that began before this grants nothing.
    not_before: Option<Instant>,
    /// How often what was in memory was given up.
    ended: u64,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    oldest: Hour,
    newest: Hour,
    /// When the last reading began.
    begun: Instant,
    /// How many connections had been made or lost: with another, Redis may be another.
    connections: u64,
}

#[derive(Debug, Default)]
struct Asked {
    /// The last question: when it came, and up to when a fix could lie by its clock.
    last: Option<(Instant, Timestamp)>,
    /// Somebody keeps what is in memory.
    is_kept: bool,
}

/// What is in memory, and how far it was followed.
#[derive(Default)]
struct Followed {
    hours: BTreeMap<Hour, Vec<(Shard, At)>>,
    /// An hour was read, and Redis has not been seen to be whole since.
    is_unsure: bool,
}

impl Mirror {
    /// Notes a question. True if nobody keeps what is in memory: whoever hears that has to.
    fn asked(&self, window: Window) -> bool {
        let mut asked = self.asked.lock();
        asked.last = Some((Instant::now(), window.until));
        !std::mem::replace(&mut asked.is_kept, true)
    }

    /// Up to when a fix could lie when it was last asked; `None` if that is long ago. Then nobody keeps it any more.
    fn wanted(&self) -> Option<Timestamp> {
        let mut asked = self.asked.lock();
        let wanted = asked.last.filter(|(at, _)| at.elapsed() < IDLE).map(|(_, until)| until);
        if wanted.is_none() {
            asked.is_kept = false;
            self.clear();
        }
        wanted
    }

    /// Takes in what this process has put into an hour in Redis.
    pub(super) fn put_in<'a>(&self, hour: Hour, fixes: impl Iterator<Item = (&'a DriverId, &'a Fix)>) {
        let is_wanted = |asked: &Asked| {
            let hours = asked.last.filter(|_| asked.is_kept).map(|(_, until)| reach(until));
            hours.is_some_and(|(oldest, newest)| (oldest..=newest).contains(&hour))
        };
        if is_wanted(&self.asked.lock()) {
            let mut whereabouts = self.whereabouts.write();
            for (driver, fix) in fixes {
                whereabouts.report(driver, fix);
            }
        }
    }

    fn take_in(&self, fixes: &[(DriverId, Fix)]) {
        for fixes in fixes.chunks(SLICE) {
            let mut whereabouts = self.whereabouts.write();
            for (driver, fix) in fixes {
                whereabouts.report(driver, fix);
            }
        }
    }

    /// How all instances stand. What one has put in that is whole from now on may have been long on its way: nothing is
    /// answered that was read before that.
    pub(super) fn heard(&self, roll: &[Attendance]) {
        let is_whole = |said: &&Attendance| matches!(said.standing, Standing::Whole | Standing::Left);
        let whole: BTreeSet<String> = roll.iter().filter(is_whole).map(|said| said.instance.clone()).collect();
        let mut known = self.whole.lock();
        if !whole.is_subset(&known) {
            self.lease.write().not_before = Some(Instant::now());
        }
        *known = whole;
    }

    fn clear(&self) {
        {
            let mut lease = self.lease.write();
            *lease = Lease { granted: None, ended: lease.ended + 1, ..*lease };
        }
        let given_up = std::mem::take(&mut *self.whereabouts.write());
        // That takes a while, and needs no lock.
        drop(given_up);
    }

    /// Forgets who was last seen before `cutoff`.
    fn forget_before(&self, cutoff: Timestamp) {
        for numbers in slices(&self.whereabouts) {
            self.whereabouts.write().forget_before(cutoff, numbers);
        }
    }
}

/// The numbers of all drivers, in slices for which the lock may be held.
fn slices(whereabouts: &RwLock<Whereabouts>) -> impl Iterator<Item = Range<u32>> + use<> {
    let numbers = whereabouts.read().fleet.numbers();
    (0..numbers).step_by(SLICE).map(move |first| first..numbers.min(first + SLICE as u32))
}

impl Memory for Arc<Index> {
    fn near(&self, query: &NearbyQuery, window: Window) -> Option<(Vec<Near>, bool)> {
        remembered(self, window, |whereabouts, window| whereabouts.read().nearby(query, window))
    }

    fn page(&self, window: Window, after: Option<&DriverId>, limit: usize) -> Option<Page<Located>> {
        remembered(self, window, |whereabouts, window| whereabouts.read().active(window, after, limit))
    }

    fn count(&self, window: Window) -> Option<u64> {
        remembered(self, window, |whereabouts, window| {
            slices(whereabouts).map(|numbers| whereabouts.read().active_count(window, numbers)).sum()
        })
    }
}

/// What `look` finds in memory, if that was all there was in the window until it came back. It is kept from now on, if it
/// was not, where the window is within its reach. As in Redis, the last hour of the window counts to its end: an instance
/// whose clock is ahead accepts what lies beyond the window of the others.
fn remembered<T>(
    index: &Arc<Index>,
    window: Window,
    look: impl FnOnce(&RwLock<Whereabouts>, Window) -> T,
) -> Option<T> {
    let (oldest, _) = reach(window.until);
    if window.since.hour() < oldest {
        return None;
    }
    if index.mirror.asked(window) {
        tokio::spawn(keep(Arc::downgrade(index)));
    }
    let before = index.lease(window)?;
    let to_the_end = Window { until: window.until.hour().end().plus_ms(-1), ..window };
    let found = look(&index.mirror.whereabouts, to_the_end);
    (index.lease(window)? == before).then_some(found)
}

impl Index {
    /// Which lease covers the window, if one does.
    fn lease(&self, window: Window) -> Option<u64> {
        let lease = self.mirror.lease.read();
        let granted = lease.granted?;
        let is_covered = granted.oldest <= window.since.hour() && window.until.hour() <= granted.newest;
        let is_late = granted.begun.elapsed() >= LEASE || lease.not_before.is_some_and(|first| granted.begun < first);
        let is_valid = !is_late && self.link.connections() == granted.connections;
        (is_covered && is_valid).then_some(lease.ended)
    }

    /// Brings what is in memory up to what Redis has of the last hours before `until`. False if something may have been
    /// missed: it is to be read anew.
    async fn follow_all(&self, followed: &mut Followed, until: Timestamp) -> Result<bool, StoreError> {
        let (begun, connections) = (Instant::now(), self.link.connections());
        in_time(self.recognised(false)).await?;
        let (oldest, newest) = reach(until);
        if followed.hours.keys().any(|hour| *hour < oldest) {
            followed.hours.retain(|hour, _| *hour >= oldest);
            self.mirror.forget_before(oldest.start());
        }
        for hour in oldest.newest_first(newest) {
            if followed.hours.contains_key(&hour) {
                continue;
            }
            followed.is_unsure = true;
            // Whatever is written while the hour is read comes after these.
            let shards: Vec<Shard> = self.buckets(hour).collect();
            let ends = in_time(self.changes_end(&shards)).await?;
            self.mirror_hour(hour).await?;
            followed.hours.insert(hour, shards.into_iter().zip(ends).collect());
        }
        // What Redis had lost by the time it was read is missing here too, until whoever lost it has put it in again.
        if followed.is_unsure && !in_time(self.glance()).await? {
            return Err(StoreError::Unavailable("it has lost something".into()));
        }
        followed.is_unsure = false;
        let mut open: Vec<&mut (Shard, At)> = followed.hours.values_mut().flatten().collect();
        while !open.is_empty() {
            let asked: Vec<(Shard, At)> = open.iter().map(|followed| (**followed).clone()).collect();
            let news = in_time(self.changes_since(&asked)).await?;
            let mut still_open = Vec::new();
            for (followed, news) in open.into_iter().zip(news) {
                let Some(news) = news else { return Ok(false) };
                self.mirror.take_in(&news.fixes);
                followed.1 = news.at;
                if news.is_cut {
                    still_open.push(followed);
                }
            }
            open = still_open;
        }
        let granted = Granted { oldest, newest, begun, connections };
        self.mirror.lease.write().granted = Some(granted);
        Ok(true)
    }

    /// Reads everybody of an hour.
    async fn mirror_hour(&self, hour: Hour) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = in_time(self.everybody(hour, after.as_ref(), PAGE)).await?;
            let fixes: Vec<(DriverId, Fix)> =
                page.items.into_iter().map(|Located { driver, fix }| (driver, fix)).collect();
            self.mirror.take_in(&fixes);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// Keeps what is in memory, until nobody asks any more or the store is gone.
async fn keep(index: Weak<Index>) {
    let mut followed = Followed::default();
    let mut pause = PAUSES.0;
    while let Some(index) = index.upgrade() {
        let Some(until) = index.mirror.wanted() else { return };
        let next = match index.follow_all(&mut followed, until).await {
            Ok(true) => {
                pause = PAUSES.0;
                EVERY
            }
            Ok(false) => {
                followed = Followed::default();
                index.mirror.clear();
                pause = (2 * pause).min(PAUSES.1);
                pause
            }
            // What is known still is, and is followed on; without a lease it answers nothing.
            Err(_) => EVERY,
        };
        drop(index);
        tokio::time::sleep(next).await;
    }
}

/// The oldest and the newest hour in memory, where no fix lies beyond `until`.
fn reach(until: Timestamp) -> (Hour, Hour) {
    (until.plus_ms(-MAX_AHEAD_MS - REACH_MS).hour(), until.hour())
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable("past the deadline".into());
    tokio::time::timeout(PATIENCE, call).await.map_err(late)?
}
