//! Answering: what the contract promises of each question, whichever store answers it.
//!
//! Here the words of the contract ("active", "within the retention", "trailing hour") become moments, here it is
//! decided what is out of the retention or not found, and here each answer gets its label: complete, or from less
//! than everything.
//!
//! Never here: HTTP, an adapter, the journal.

mod label;
mod shadow;
mod source;
mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Position, Tag, Timestamp};
use crate::store::{Located, Near, NearbyQuery, Page, Store, StoreError, When, Window};

pub use label::{IndexState, Label, Sight};
pub use shadow::Outcome;
pub use source::Source;
pub use sources::Sources;

use shadow::{Rows, Shadows};
use source::Seen;

/// How many rows are held at a time by whoever goes through the whole fleet. Enough that each of the rosters that an hour
/// has in Redis gives a full page of its own.
pub const PASS_ROWS: usize = 4_000;

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
    sources: Sources,
    shadows: Shadows,
    moments: Moments,
}

/// What the words of the contract mean at a moment.
#[derive(Clone)]
struct Moments {
    clock: Clock,
    retention: Duration,
}

impl Moments {
    fn window(&self, max_age: Duration) -> Window {
        let now = self.clock.now();
        Window { since: now.plus_ms(-millis(max_age)), until: now.plus_ms(MAX_AHEAD_MS) }
    }

    fn retention(&self) -> Window {
        self.window(self.retention)
    }

    fn kept(&self, hour: Hour) -> Result<Hour, QueryError> {
        if hour.end() <= self.retention().since { Err(QueryError::OutOfRetention) } else { Ok(hour) }
    }
}

impl Queries {
    /// Asks `sources`. `compared` is told of the answers that were compared: the name of the store that was asked
    /// beside, the kind of question, and what came out.
    pub fn new(
        sources: Sources,
        clock: Clock,
        retention: Duration,
        compared: impl Fn(&'static str, &'static str, Outcome) + Send + Sync + 'static,
    ) -> Self {
        Self { sources, shadows: Shadows::new(compared), moments: Moments { clock, retention } }
    }

    /// How long points are kept.
    pub const fn retention(&self) -> Duration {
        self.moments.retention
    }

    /// How whole an answer would be at this moment.
    pub fn index_state(&self) -> IndexState {
        let (source, state) = self.sources.state();
        self.as_seen(&source, state)
    }

    /// A driver's newest fix.
    pub async fn latest(&self, driver: &DriverId) -> Result<Answer<Located>, QueryError> {
        let (moments, driver) = (self.moments.clone(), driver.clone());
        self.answer("latest", move |store| {
            let (window, driver) = (moments.retention(), driver.clone());
            async move {
                let fix = store.latest(&driver, window).await?;
                fix.map(|fix| Seen::Held(Located { driver, fix })).ok_or(QueryError::NotFound)
            }
        })
        .await
    }

    /// Who is near, nearest first, and whether the list was cut at the limit.
    pub async fn nearby(&self, ask: &Nearby) -> Result<Answer<(Vec<Near>, bool)>, QueryError> {
        let (moments, ask) = (self.moments.clone(), ask.clone());
        self.answer("nearby", move |store| {
            let (moments, ask) = (moments.clone(), ask.clone());
            async move {
                let when = match ask.moment {
                    Moment::MaxAge(max_age) => When::Within(moments.window(max_age)),
                    Moment::Hour(hour) => When::During(moments.kept(hour)?),
                };
                let Nearby { centre, radius_m, limit, tags, .. } = ask;
                let query = NearbyQuery { centre, radius_m, limit, when, tags };
                if let When::Within(window) = when
                    && let Some(near) = store.memory().and_then(|memory| memory.near(&query, window))
                {
                    return Ok(Seen::InMemory(near));
                }
                Ok(Seen::Held(store.nearby(&query).await?))
            }
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
        let (moments, tags, after) = (self.moments.clone(), tags.to_vec(), after.cloned());
        self.answer("active", move |store| {
            let (window, tags, after) = (moments.window(max_age), tags.clone(), after.clone());
            async move {
                let mut page = Page { items: Vec::new(), next: after };
                let mut is_held = false;
                // A page of the store may lose most of its drivers to the tags; it is filled from the next ones.
                loop {
                    let wanted = limit - page.items.len();
                    let more = active(&*store, window, page.next.as_ref(), wanted).await?;
                    is_held |= matches!(more, Seen::Held(_));
                    let (Seen::Held(more) | Seen::InMemory(more)) = more;
                    page.items.extend(more.items.into_iter().filter(|found| found.fix.tags.contains_all(&tags)));
                    page.next = more.next;
                    if page.next.is_none() || page.items.len() >= limit {
                        return Ok(if is_held { Seen::Held(page) } else { Seen::InMemory(page) });
                    }
                }
            }
        })
        .await
    }

    /// How many drivers reported within `max_age`.
    pub async fn active_count(&self, max_age: Duration) -> Result<Answer<u64>, QueryError> {
        let moments = self.moments.clone();
        self.answer("active_count", move |store| {
            let window = moments.window(max_age);
            async move {
                if let Some(count) = store.memory().and_then(|memory| memory.count(window)) {
                    return Ok(Seen::InMemory(count));
                }
                Ok(Seen::Held(store.active_count(window).await?))
            }
        })
        .await
    }

    /// A driver's fixes with `from <= ts < to`, as far as they are kept; not found if nothing is kept of the driver.
    pub async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Answer<TrackPage>, QueryError> {
        let (moments, driver) = (self.moments.clone(), driver.clone());
        self.answer("track", move |store| {
            let (window, driver) = (moments.retention(), driver.clone());
            async move {
                let (from, to) = (from.max(window.since), to.min(window.until.plus_ms(1)));
                let mut fixes = if from < to { store.track(&driver, from, to, limit + 1).await? } else { vec![] };
                if fixes.is_empty() && store.latest(&driver, window).await?.is_none() {
                    return Err(QueryError::NotFound);
                }
                let next_from = (fixes.len() > limit).then(|| fixes[limit].ts);
                fixes.truncate(limit);
                Ok(Seen::Held(TrackPage { fixes, next_from }))
            }
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
        let (moments, after) = (self.moments.clone(), after.cloned());
        self.answer("hour_drivers", move |store| {
            let (hour, after) = (moments.kept(hour), after.clone());
            async move { Ok(Seen::Held(store.hour_drivers(hour?, after.as_ref(), limit).await?)) }
        })
        .await
    }

    /// Where each driver last was in an hour, in the order of ids.
    pub async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Answer<Page<Located>>, QueryError> {
        let (moments, after) = (self.moments.clone(), after.cloned());
        self.answer("hour_positions", move |store| {
            let (hour, after) = (moments.kept(hour), after.clone());
            async move { Ok(Seen::Held(store.hour_positions(hour?, after.as_ref(), limit).await?)) }
        })
        .await
    }

    /// How many active drivers each H3 cell holds; cells without any are left out.
    pub async fn density(
        &self,
        resolution: h3o::Resolution,
        max_age: Duration,
    ) -> Result<Answer<BTreeMap<h3o::CellIndex, u64>>, QueryError> {
        let moments = self.moments.clone();
        self.answer("density", move |store| {
            let window = moments.window(max_age);
            async move {
                let mut cells = BTreeMap::new();
                let (mut after, mut is_held) = (None, false);
                loop {
                    let page = active(&*store, window, after.as_ref(), PASS_ROWS).await?;
                    is_held |= matches!(page, Seen::Held(_));
                    let (Seen::Held(page) | Seen::InMemory(page)) = page;
                    for located in page.items {
                        *cells.entry(located.fix.position.h3_cell(resolution)).or_insert(0) += 1;
                    }
                    after = page.next;
                    if after.is_none() {
                        return Ok(if is_held { Seen::Held(cells) } else { Seen::InMemory(cells) });
                    }
                }
            }
        })
        .await
    }

    /// Now, as every answer means it.
    pub fn now(&self) -> Timestamp {
        self.moments.clock.now()
    }

    /// What the state of a source makes of an answer. One that has no share of the reads stands in for those that have.
    fn as_seen(&self, source: &Source, state: IndexState) -> IndexState {
        match state {
            state if source.reads_percent() > 0 => state,
            IndexState::Complete => IndexState::Fallback { as_of: Some(self.now().plus_ms(-FALLBACK_AGE_MS)) },
            degraded => IndexState::Fallback { as_of: degraded.as_of() },
        }
    }

    /// Puts a question of some `kind` to one source after the other, until one answers; and maybe to another one
    /// besides, to compare. What one says that can be asked in part alone counts only if no other is whole.
    async fn answer<T, F>(
        &self,
        kind: &'static str,
        question: impl Fn(Arc<dyn Store>) -> F + Send + Sync + 'static,
    ) -> Result<Answer<T>, QueryError>
    where
        T: Rows + Send + 'static,
        F: Future<Output = Result<Seen<T>, QueryError>> + Send + 'static,
    {
        let mut unavailable = None;
        let mut partial = None;
        let mut sources = self.sources.drawn().into_iter().peekable();
        while let Some(source) = sources.next() {
            let (answer, state) = source.ask(question(source.store().clone())).await;
            if let Err(QueryError::Unavailable(error)) = answer {
                unavailable = unavailable.or(Some(error));
                continue;
            }
            let index = self.as_seen(&source, state);
            if matches!(state, IndexState::Partial { .. }) && sources.peek().is_some_and(|next| next.is_whole()) {
                partial = partial.or_else(|| Some(labelled(answer, index)));
                continue;
            }
            if state == IndexState::Complete
                && let Some(shadow) = self.sources.shadow_of(&source)
            {
                self.shadows.compare(kind, &answer, source, shadow, question);
            }
            return labelled(answer, index);
        }
        if let Some(answer) = partial {
            return answer;
        }
        Err(QueryError::Unavailable(unavailable.expect("there is at least one source")))
    }
}

/// A page of the drivers whose newest fix lies in the window.
async fn active(
    store: &dyn Store,
    window: Window,
    after: Option<&DriverId>,
    limit: usize,
) -> Result<Seen<Page<Located>>, QueryError> {
    match store.memory().and_then(|memory| memory.page(window, after, limit)) {
        Some(page) => Ok(Seen::InMemory(page)),
        None => Ok(Seen::Held(store.active(window, after, limit).await?)),
    }
}

/// With how whole the index was that it was found in; or not found in.
fn labelled<T>(answer: Result<T, QueryError>, index: IndexState) -> Result<Answer<T>, QueryError> {
    match answer {
        Ok(value) => Ok(Answer { value, index }),
        Err(QueryError::NotFound) if index.is_degraded() => Err(QueryError::NotFoundYet(index)),
        Err(error) => Err(error),
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
