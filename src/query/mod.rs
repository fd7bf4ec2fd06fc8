//! Answering: what the contract promises of each question, whichever store answers it.
//!
//! Here the words of the contract ("active", "within the retention", "trailing hour") become moments, here it is
//! decided what is out of the retention or not found, and here each answer gets its label: complete, or from less
//! than everything.
//!
//! Never here: HTTP, an adapter, the journal.

mod label;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Position, Tag, Timestamp};
use crate::store::{Located, Near, NearbyQuery, Page, Store, StoreError, When, Window};

pub use label::{IndexState, Label, Sight};
pub use source::Source;

/// How many rows an inner page of a whole-fleet pass has.
const PASS_ROWS: usize = 1_000;

/// What another store than the first has in is said to be whole up to so long ago.
const FALLBACK_AGE_MS: i64 = 500;

/// A value, and from how much it was answered: from everything only if that was so all the while.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// From how much.
    pub index: IndexState,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// No such driver within the retention.
    #[error("not found")]
    NotFound,
    /// No such driver in an index that is less than whole.
    #[error("not found in what there is")]
    NotFoundYet(IndexState),
    /// The hour is no longer kept.
    #[error("out of retention")]
    OutOfRetention,
    /// There is nothing to answer from.
    #[error("index unavailable")]
    Unavailable(#[source] StoreError),
}

/// Which fix of each driver a nearby question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The newest, if no older than this.
    MaxAge(Duration),
    /// The last of an hour.
    Hour(Hour),
}

/// A question for who is near.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearby {
    /// Near what.
    pub centre: Position,
    /// Metres; at most 100,000.
    pub radius_m: f64,
    /// 1 to 1,000.
    pub limit: usize,
    /// Which fix.
    pub moment: Moment,
    /// Only drivers with all of these.
    pub tags: Vec<Tag>,
}

/// A page of a driver's track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackPage {
    /// Oldest first.
    pub fixes: Vec<Fix>,
    /// Go on from this moment, itself included; `None` at the end.
    pub next_from: Option<Timestamp>,
}

/// All questions there are. Clones ask the same stores.
#[derive(Clone)]
pub struct Queries {
    /// The first is the one that should answer.
    sources: Arc<[Arc<Source>]>,
    clock: Clock,
    retention: Duration,
}

impl Queries {
    /// Asks the first of `sources`; another, where the first is not whole or cannot be asked. There is at least one.
    pub fn new(sources: Vec<Arc<Source>>, clock: Clock, retention: Duration) -> Self {
        assert!(!sources.is_empty(), "somebody has to answer");
        Self { sources: sources.into(), clock, retention }
    }

    /// How long points are kept.
    pub const fn retention(&self) -> Duration {
        self.retention
    }

    /// How whole an answer would be at this moment.
    pub fn index_state(&self) -> IndexState {
        let (number, source) = self.in_order()[0];
        self.as_seen(number, source.state())
    }

    /// A driver's newest fix.
    pub async fn latest(&self, driver: &DriverId) -> Result<Answer<Located>, QueryError> {
        self.answer(|store| async move {
            let fix = store.latest(driver, self.window(self.retention)).await?;
            fix.map(|fix| Located { driver: driver.clone(), fix }).ok_or(QueryError::NotFound)
        })
        .await
    }

    /// Who is near, nearest first, and whether the list was cut at the limit.
    pub async fn nearby(&self, ask: &Nearby) -> Result<Answer<(Vec<Near>, bool)>, QueryError> {
        self.answer(|store| async move {
            let when = match ask.moment {
                Moment::MaxAge(max_age) => When::Within(self.window(max_age)),
                Moment::Hour(hour) => When::During(self.kept(hour)?),
            };
            let Nearby { centre, radius_m, limit, ref tags, .. } = *ask;
            Ok(store.nearby(&NearbyQuery { centre, radius_m, limit, when, tags: tags.clone() }).await?)
        })
        .await
    }

    /// The drivers who reported within `max_age` and have all of `tags`, in the order of ids.
    pub async fn active(
        &self,
        max_age: Duration,
        tags: &[Tag],
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Page<Located>>, QueryError> {
        self.answer(|store| async move {
            let window = self.window(max_age);
            let mut page = Page { items: Vec::new(), next: after.cloned() };
            // A page of the store may lose most of its drivers to the tags; it is filled from the next ones.
            loop {
                let wanted = limit - page.items.len();
                let more = store.active(window, page.next.as_ref(), wanted).await?;
                page.items.extend(more.items.into_iter().filter(|found| found.fix.tags.contains_all(tags)));
                page.next = more.next;
                if page.next.is_none() || page.items.len() >= limit {
                    return Ok(page);
                }
            }
        })
        .await
    }

    /// How many drivers reported within `max_age`.
    pub async fn active_count(&self, max_age: Duration) -> Result<Answer<u64>, QueryError> {
        self.answer(|store| async move { Ok(store.active_count(self.window(max_age)).await?) }).await
    }

    /// A driver's fixes with `from <= ts < to`, as far as they are kept; not found if nothing is kept of the driver.
    pub async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Answer<TrackPage>, QueryError> {
        self.answer(|store| async move {
            let window = self.window(self.retention);
            let (from, to) = (from.max(window.since), to.min(window.until.plus_ms(1)));
            let mut fixes = if from < to { store.track(driver, from, to, limit + 1).await? } else { vec![] };
            if fixes.is_empty() && store.latest(driver, window).await?.is_none() {
                return Err(QueryError::NotFound);
            }
            let next_from = (fixes.len() > limit).then(|| fixes[limit].ts);
            fixes.truncate(limit);
            Ok(TrackPage { fixes, next_from })
        })
        .await
    }

    /// Who reported in an hour, in the order of ids.
    pub async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Page<DriverId>>, QueryError> {
        self.answer(|store| async move { Ok(store.hour_drivers(self.kept(hour)?, after, limit).await?) }).await
    }

    /// Where each driver last was in an hour, in the order of ids.
    pub async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Page<Located>>, QueryError> {
        self.answer(|store| async move { Ok(store.hour_positions(self.kept(hour)?, after, limit).await?) }).await
    }

    /// How many active drivers each H3 cell holds; cells without any are left out.
    pub async fn density(
        &self,
        resolution: h3o::Resolution,
        max_age: Duration,
    ) -> Result<Answer<BTreeMap<h3o::CellIndex, u64>>, QueryError> {
        self.answer(|store| async move {
            let window = self.window(max_age);
            let mut cells = BTreeMap::new();
            let mut after = None;
            loop {
                let page = store.active(window, after.as_ref(), PASS_ROWS).await?;
                for located in page.items {
                    *cells.entry(located.fix.position.h3_cell(resolution)).or_insert(0) += 1;
                }
                after = page.next;
                if after.is_none() {
                    return Ok(cells);
                }
            }
        })
        .await
    }

    /// Now, as every answer means it.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The sources with their numbers, in the order in which they are to be asked.
    fn in_order(&self) -> Vec<(usize, &Arc<Source>)> {
        let mut sources: Vec<_> = self.sources.iter().enumerate().collect();
        sources.sort_by_cached_key(|(_, source)| source.rank());
        sources
    }

    /// What the state of source `number` makes of an answer.
    fn as_seen(&self, number: usize, state: IndexState) -> IndexState {
        match (number, state) {
            (0, state) => state,
            (_, IndexState::Complete) => {
                IndexState::Fallback { as_of: Some(self.clock.now().plus_ms(-FALLBACK_AGE_MS)) }
            }
            (_, degraded) => IndexState::Fallback { as_of: degraded.as_of() },
        }
    }

    /// Puts the question to one source after the other, until one answers.
    async fn answer<T, F>(&self, question: impl Fn(Arc<dyn Store>) -> F) -> Result<Answer<T>, QueryError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        let mut unavailable = None;
        for (number, source) in self.in_order() {
            match source.ask(question(source.store().clone())).await {
                (Ok(value), state) => return Ok(Answer { value, index: self.as_seen(number, state) }),
                (Err(QueryError::Unavailable(error)), _) => unavailable = unavailable.or(Some(error)),
                (Err(QueryError::NotFound), state) if self.as_seen(number, state).is_degraded() => {
                    return Err(QueryError::NotFoundYet(self.as_seen(number, state)));
                }
                (Err(error), _) => return Err(error),
            }
        }
        Err(QueryError::Unavailable(unavailable.expect("there is at least one source")))
    }

    fn window(&self, max_age: Duration) -> Window {
        let now = self.clock.now();
        Window { since: now.plus_ms(-millis(max_age)), until: now.plus_ms(MAX_AHEAD_MS) }
    }

    fn kept(&self, hour: Hour) -> Result<Hour, QueryError> {
        if hour.end() <= self.window(self.retention).since { Err(QueryError::OutOfRetention) } else { Ok(hour) }
    }
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
