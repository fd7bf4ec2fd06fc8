//! Comparing a journal with a store, point by point: each point in its driver's track, the newest of each driver in
//! each hour and altogether, and who reported in each hour. Only what the store lacks, or has older than the journal,
//! counts; it may hold more, for other instances bring theirs.
//!
//! It reads, and writes nothing. Points received within the last seconds before it began are on their way and do not
//! count; neither do hours that leave the retention while it runs.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::journal::{Damage, Reader};
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Offset, Point, Timestamp};
use crate::store::{Store, StoreError, Window};

/// What was received so shortly before the beginning is on its way.
pub const ON_THEIR_WAY_MS: i64 = 5_000;

/// Points compared in one turn: some hundred megabytes.
const POINTS_PER_TURN: usize = 500_000;
/// Questions on their way at once.
const AT_ONCE: usize = 32;
/// Rows of a page.
const ROWS: usize = 1_000;
/// Fixes asked for at once.
const FIXES: usize = 10_000;
/// A question that fails is asked so often.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Points of the journal that were looked for.
    pub points: Count,
    /// Drivers of hours whose last position was looked for.
    pub positions: Count,
    /// Drivers of hours who were looked for among those who reported.
    pub rosters: Count,
    /// Drivers whose newest position was looked for.
    pub newest: Count,
    /// Points that were on their way and do not count.
    pub on_their_way: u64,
    /// What of the journal could not be read.
    pub damage: Damage,
}

/// How many were looked for, and with what success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Looked for.
    pub compared: u64,
    /// Not there.
    pub missing: u64,
    /// There, but older or of less content than the journal has it.
    pub differing: u64,
}

impl Findings {
    /// Whether the store has everything.
    pub fn is_whole(&self) -> bool {
        [self.points, self.positions, self.rosters, self.newest]
            .iter()
            .all(|count| count.missing + count.differing == 0)
    }
}

impl Count {
    fn judge(&mut self, expected: &Fix, found: Option<&Fix>) {
        self.compared += 1;
        match found {
            None => self.missing += 1,
            Some(found) if found < expected => self.differing += 1,
            Some(_) => {}
        }
    }

    fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.missing += other.missing;
        self.differing += other.differing;
    }
}

/// What kept the comparison from its end.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The journal cannot be read.
    #[error("journal: {0}")]
    Journal(#[from] io::Error),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading ended abnormally.
    #[error("reading the journal panicked")]
    Panicked,
}

/// Compares the journal of the data directory `dir`, up to `until` or its end, with `store`. `tell` hears how many
/// bytes of the journal are done, and of how many.
pub async fn verify(
    dir: &Path,
    until: Option<Offset>,
    store: Arc<dyn Store>,
    clock: &Clock,
    retention: Duration,
    mut tell: impl FnMut(u64, u64),
) -> Result<Findings, VerifyError> {
    let began = clock.now();
    let mut reader = Reader::open(dir, Offset::START);
    let (first, end) = (reader.segments()?.first().copied().unwrap_or_default(), reader.end()?);
    let end = until.map_or(end, |until| until.min(end));
    let comparing =
        Comparing { store, clock, retention_ms: i64::try_from(retention.as_millis()).unwrap_or(i64::MAX) };
    let mut findings = Findings::default();
    let mut last: BTreeMap<Hour, HashMap<DriverId, Fix>> = BTreeMap::new();
    while reader.position() < end {
        let (back, points) = spawn_blocking(move || {
            let points = turn(&mut reader, end, began);
            (reader, points)
        })
        .await
        .map_err(|_| VerifyError::Panicked)?;
        reader = back;
        let (points, on_their_way) = points?;
        findings.on_their_way += on_their_way;
        if points.is_empty() {
            break;
        }
        let kept = points.into_iter().filter(|point| comparing.is_kept(point.fix.ts.hour()));
        findings.points.add(comparing.tracks(kept.collect(), &mut last).await?);
        tell(reader.position().get().min(end.get()) - first.get(), end.get() - first.get());
    }
    findings.damage = reader.damage();
    let mut newest: HashMap<DriverId, Fix> = HashMap::new();
    for (hour, drivers) in last {
        for (driver, fix) in &drivers {
            let known = newest.entry(driver.clone()).or_insert_with(|| fix.clone());
            if fix > known {
                *known = fix.clone();
            }
        }
        let (positions, rosters) = comparing.hour(hour, drivers).await?;
        findings.positions.add(positions);
        findings.rosters.add(rosters);
    }
    findings.newest = comparing.newest(newest).await?;
    if comparing.store.omissions() > 0 {
        return Err(StoreError::Unavailable("a part of the store cannot be asked".into()).into());
    }
    Ok(findings)
}

/// The next points before `end`, without those on their way when it `began`, and how many of those there were. Empty
/// at the end.
fn turn(reader: &mut Reader, end: Offset, began: Timestamp) -> io::Result<(Vec<Point>, u64)> {
    let (mut points, mut on_their_way) = (Vec::new(), 0);
    while points.len() < POINTS_PER_TURN && reader.position() < end {
        let records = reader.read(POINTS_PER_TURN / 10)?;
        if records.is_empty() {
            break;
        }
        for record in records.into_iter().filter(|record| record.start < end) {
            if began.ms_since(record.received) < ON_THEIR_WAY_MS {
                on_their_way += record.points.len() as u64;
            } else {
                points.extend(record.points);
            }
        }
    }
    Ok((points, on_their_way))
}

/// A store under comparison.
struct Comparing<'a> {
    store: Arc<dyn Store>,
    clock: &'a Clock,
    retention_ms: i64,
}

impl Comparing<'_> {
    /// Asked before a question, so that nothing is looked for in vain, and after it.
    fn is_kept(&self, hour: Hour) -> bool {
        hour.end() > self.clock.now().plus_ms(-self.retention_ms)
    }

    /// Each point in its driver's track; notes the newest of each driver in each hour in `last`.
    async fn tracks(
        &self,
        mut points: Vec<Point>,
        last: &mut BTreeMap<Hour, HashMap<DriverId, Fix>>,
    ) -> Result<Count, VerifyError> {
        points.sort_unstable_by(|a, b| {
            let (hour_a, hour_b) = (a.fix.ts.hour(), b.fix.ts.hour());
            hour_a.cmp(&hour_b).then_with(|| a.driver.cmp(&b.driver)).then_with(|| a.fix.cmp(&b.fix))
        });
        let same = |a: &Point, b: &Point| a.driver == b.driver && a.fix.ts.hour() == b.fix.ts.hour();
        for points in points.chunk_by(same) {
            let Some(Point { driver, fix }) = points.last() else { continue };
            let known = last.entry(fix.ts.hour()).or_default().entry(driver.clone()).or_insert_with(|| fix.clone());
            if fix > known {
                *known = fix.clone();
            }
        }
        stream::iter(points.chunk_by(same).map(|points| self.track(points)))
            .buffer_unordered(AT_ONCE)
            .try_fold(Count::default(), |mut sum, count| async move {
                sum.add(count);
                Ok(sum)
            })
            .await
    }

    /// The points of one driver in one hour, oldest first.
    async fn track(&self, points: &[Point]) -> Result<Count, VerifyError> {
        let (Some(first), Some(newest)) = (points.first(), points.last()) else { return Ok(Count::default()) };
        let to = newest.fix.ts.plus_ms(1);
        let mut found: HashMap<Timestamp, Fix> = HashMap::new();
        let mut from = first.fix.ts;
        loop {
            let fixes = self.ask(|| self.store.track(&first.driver, from, to, FIXES)).await?;
            let is_more = fixes.len() == FIXES;
            from = fixes.last().map_or(to, |fix| fix.ts.plus_ms(1));
            found.extend(fixes.into_iter().map(|fix| (fix.ts, fix)));
            if !is_more {
                break;
            }
        }
        let mut count = Count::default();
        if self.is_kept(first.fix.ts.hour()) {
            for point in points {
                count.judge(&point.fix, found.get(&point.fix.ts));
            }
        }
        Ok(count)
    }

    /// The last position of each driver in an hour, and whether the driver is among those who reported.
    async fn hour(&self, hour: Hour, drivers: HashMap<DriverId, Fix>) -> Result<(Count, Count), VerifyError> {
        let (mut positions, mut rosters) = (Count::default(), Count::default());
        let mut lasts: HashMap<DriverId, Fix> = HashMap::new();
        let mut after = None;
        loop {
            let page = self.ask(|| self.store.hour_positions(hour, after.as_ref(), ROWS)).await?;
            lasts.extend(page.items.into_iter().map(|located| (located.driver, located.fix)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut roster = Vec::new();
        loop {
            let page = self.ask(|| self.store.hour_drivers(hour, after.as_ref(), ROWS)).await?;
            roster.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        roster.sort_unstable();
        if self.is_kept(hour) {
            for (driver, fix) in drivers {
                positions.judge(&fix, lasts.get(&driver));
                rosters.compared += 1;
                rosters.missing += u64::from(roster.binary_search(&driver).is_err());
            }
        }
        Ok((positions, rosters))
    }

    /// The newest position of each driver.
    async fn newest(&self, newest: HashMap<DriverId, Fix>) -> Result<Count, VerifyError> {
        stream::iter(newest)
            .map(|(driver, fix)| async move {
                let now = self.clock.now();
                let window = Window { since: now.plus_ms(-self.retention_ms), until: now.plus_ms(MAX_AHEAD_MS) };
                let found = self.ask(|| self.store.latest(&driver, window)).await?;
                let mut count = Count::default();
                // One that is older than the retention to the millisecond need not be found, though its hour is kept.
                if fix.ts >= self.clock.now().plus_ms(-self.retention_ms) {
                    count.judge(&fix, found.as_ref());
                }
                Ok(count)
            })
            .buffer_unordered(AT_ONCE)
            .try_fold(Count::default(), |mut sum, count| async move {
                sum.add(count);
                Ok(sum)
            })
            .await
    }

    /// Asks again where asking again may help.
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<T, VerifyError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for _ in 1..TRIES {
            match question().await {
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(PAUSE).await,
                outcome => return Ok(outcome?),
            }
        }
        Ok(question().await?)
    }
}
