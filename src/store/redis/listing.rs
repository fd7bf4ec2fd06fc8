//! Listings in the order of driver ids, a page at a time.
//!
//! The rosters are sorted by id, and ids neither move nor leave while an hour is kept. So the last id is all a reader
//! must remember, and moving drivers, late points and a new hour cost it nothing; cursors of SSCAN would be bound to
//! one server and repeat, ranks in `positions` shift with every move. Where several hours count, or an
//! hour has several rosters, they are merged, and of a driver who is on several the newest fix holds. First the ids are
//! read, then the fixes of those that the page has: a driver who leaves in between is left out.
//!
//! Never here: who wants the listing, what a cursor looks like outside.

use std::collections::BTreeMap;

use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Index;
use super::link::Command;
use super::newest::{driver, fix, id};
use super::outage::Lacks;
use super::shard::Shard;
use crate::model::{DriverId, Fix, Hour};
use crate::store::{Located, Page, StoreError, Window};

/// Drivers in one command.
const DRIVERS_PER_COMMAND: usize = 250;
/// Drivers counted at once. With the one that tells of more, four full commands.
const COUNTED_AT_ONCE: usize = 4 * DRIVERS_PER_COMMAND - 1;
/// Buckets counted side by side.
const BUCKETS_AT_ONCE: usize = 8;
/// Rosters asked in one pipeline.
const ROSTERS_PER_PIPELINE: usize = 256;
/// Ids asked of a roster beyond its share.
const UNEVEN: usize = 4;

impl Index {
    /// Who is on any roster of `hours`.
    pub(super) async fn drivers(
        &self,
        hours: &[Hour],
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        let lacks = Lacks::default();
        let rosters: Vec<Shard> = hours.iter().flat_map(|hour| self.buckets(*hour)).collect();
        let Page { items, next } =
            self.on_rosters(&rosters, self.keys.layout().buckets(), after, limit, Rows::Ids, &lacks).await?;
        let page = Page { items: items.into_iter().map(|(driver, _)| driver).collect(), next };
        let is_empty = is_empty(&page, after);
        self.given(page, is_empty, &lacks)
    }

    /// The drivers whose newest fix lies in the window, with that fix.
    pub(super) async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let mut page = self.located(&self.hours(window), after, limit).await?;
        page.items.retain(|located| located.fix.ts >= window.since);
        Ok(page)
    }

    /// Whoever is on a roster of `hours`, with the newest fix there.
    pub(super) async fn located(
        &self,
        hours: &[Hour],
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let lacks = Lacks::default();
        let rosters: Vec<Shard> = hours.iter().flat_map(|hour| self.buckets(*hour)).collect();
        let page =
            self.on_rosters(&rosters, self.keys.layout().buckets(), after, limit, Rows::Located, &lacks).await?;
        let page = located(page);
        let is_empty = is_empty(&page, after);
        self.given(page, is_empty, &lacks)
    }

    /// The same of one hour, nobody excepted: an error if somebody has to be left out.
    pub(super) async fn everybody(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let (rosters, lacks): (Vec<Shard>, _) = (self.buckets(hour).collect(), Lacks::default());
        let page = self.on_rosters(&rosters, rosters.len(), after, limit, Rows::Located, &lacks).await?;
        lacks.nothing()?;
        Ok(located(page))
    }

    /// How many drivers have their newest fix in the window. A driver is in one bucket, whatever the hour, so each
    /// bucket is counted by itself.
    pub(super) async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        let (hours, lacks) = (self.hours(window), Lacks::default());
        let count = stream::iter(0..self.keys.layout().buckets())
            .map(|bucket| self.count_bucket(&hours, bucket, window, &lacks))
            .buffer_unordered(BUCKETS_AT_ONCE)
            .try_fold(0, |sum, count| future::ready(Ok(sum + count)))
            .await?;
        self.given(count, count == 0, &lacks)
    }

    async fn count_bucket(
        &self,
        hours: &[Hour],
        bucket: usize,
        window: Window,
        lacks: &Lacks,
    ) -> Result<u64, StoreError> {
        let rosters: Vec<Shard> = hours.iter().map(|hour| self.keys.layout().bucket_number(*hour, bucket)).collect();
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.on_rosters(&rosters, 1, after.as_ref(), COUNTED_AT_ONCE, Rows::Located, lacks).await?;
            let page = located(page);
            count += page.items.iter().filter(|located| located.fix.ts >= window.since).count() as u64;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    /// Who is on any of `rosters`, among which the drivers of an hour are spread over `spread`.
    async fn on_rosters(
        &self,
        rosters: &[Shard],
        spread: usize,
        after: Option<&DriverId>,
        limit: usize,
        rows: Rows,
        lacks: &Lacks,
    ) -> Result<Page<Row>, StoreError> {
        let mut items: Vec<Row> = Vec::new();
        let mut after = after.cloned();
        loop {
            // One more than wanted tells whether there are more.
            let wanted = limit + 1 - items.len();
            // Of many, each is asked for its share and some more, for chance spreads them unevenly.
            let share = if spread == 1 { wanted } else { wanted.div_ceil(spread) * 3 / 2 + UNEVEN };
            let slice = share.min(DRIVERS_PER_COMMAND);
            let (more, horizon) = self.merged(rosters, after.as_ref(), slice, rows, lacks).await?;
            items.extend(more);
            if items.len() > limit {
                items.truncate(limit);
                return Ok(Page { next: items.last().map(|(driver, _)| driver.clone()), items });
            }
            if horizon.is_none() {
                return Ok(Page { items, next: None });
            }
            after = horizon;
        }
    }

    /// The next rows of all rosters, as far as each has said what it has; and up to whom that is, `None` if it was all.
    /// Who is seen in an hour, and may have been in a later one where nobody can be asked, is left out.
    async fn merged(
        &self,
        rosters: &[Shard],
        after: Option<&DriverId>,
        slice: usize,
        rows: Rows,
        lacks: &Lacks,
    ) -> Result<(BTreeMap<DriverId, Option<Fix>>, Option<DriverId>), StoreError> {
        let mut silent: Vec<Shard> = Vec::new();
        let (read, horizon) = self.ids_on(rosters, after, slice, lacks, &mut silent).await?;
        let mut merged: BTreeMap<DriverId, Option<Fix>> = BTreeMap::new();
        match rows {
            Rows::Ids => merged.extend(read.into_iter().flat_map(|(_, ids)| ids).map(|id| (id, None))),
            Rows::Located => {
                for read in read.chunks(ROSTERS_PER_PIPELINE) {
                    let fixes = read.iter().map(|(shard, ids)| self.fixes_of(*shard, ids));
                    for ((shard, ids), reply) in read.iter().zip(self.replies(fixes.collect(), lacks).await?) {
                        let Some(reply) = reply else {
                            silent.push(*shard);
                            continue;
                        };
                        for (id, packed) in ids.iter().zip(reply.list()?) {
                            let newest = merged.entry(id.clone()).or_default();
                            *newest = newest.take().max(fix(*shard, packed)?);
                        }
                    }
                }
            }
        }
        if !silent.is_empty() {
            merged.retain(|driver, fix| {
                let hour = fix.as_ref().map(|fix| fix.ts.hour());
                let bucket = hour.map(|hour| self.keys.layout().bucket(hour, driver));
                let may_hide = |shard: &Shard| {
                    hour.is_some_and(|hour| shard.hour() > hour && bucket == Some(shard.in_hour(hour)))
                };
                !silent.iter().any(may_hide)
            });
        }
        Ok((merged, horizon))
    }

    /// The next ids of each roster, as far as all have said what they have; and up to whom that is, `None` if it was all.
    async fn ids_on(
        &self,
        rosters: &[Shard],
        after: Option<&DriverId>,
        slice: usize,
        lacks: &Lacks,
        silent: &mut Vec<Shard>,
    ) -> Result<(Vec<(Shard, Vec<DriverId>)>, Option<DriverId>), StoreError> {
        let (mut read, mut horizon) = (Vec::with_capacity(rosters.len()), None);
        for rosters in rosters.chunks(ROSTERS_PER_PIPELINE) {
            let ids = rosters.iter().map(|shard| self.ids(*shard, after, slice));
            for (shard, reply) in rosters.iter().zip(self.replies(ids.collect(), lacks).await?) {
                let Some(reply) = reply else {
                    silent.push(*shard);
                    continue;
                };
                let ids = reply.list()?.into_iter().map(driver).collect::<Result<Vec<DriverId>, _>>()?;
                if ids.len() >= slice {
                    horizon = horizon.into_iter().chain(ids.last().cloned()).min();
                }
                read.push((*shard, ids));
            }
        }
        if let Some(horizon) = &horizon {
            for (_, ids) in &mut read {
                ids.truncate(ids.partition_point(|id| id <= horizon));
            }
        }
        read.retain(|(_, ids)| !ids.is_empty());
        Ok((read, horizon))
    }

    fn ids(&self, shard: Shard, after: Option<&DriverId>, slice: usize) -> Command {
        let from = after.map_or_else(|| b"-".to_vec(), |after| [b"(", id(after).as_ref()].concat());
        let ids = Command::on("ZRANGE", self.keys.roster(shard)).arg(from).arg("+").arg("BYLEX");
        ids.arg("LIMIT").number(0).number(slice)
    }

    fn fixes_of(&self, shard: Shard, ids: &[DriverId]) -> Command {
        Command::on("HMGET", self.keys.fixes(shard)).args(ids.iter().map(id))
    }
}

/// A driver on a roster; and its fix, where that was asked for and is there.
type Row = (DriverId, Option<Fix>);

/// What is wanted of who is on a roster.
#[derive(Clone, Copy, Debug)]
enum Rows {
    Ids,
    Located,
}

fn located(page: Page<Row>) -> Page<Located> {
    let Page { items, next } = page;
    let items = items.into_iter().filter_map(|(driver, fix)| fix.map(|fix| Located { driver, fix })).collect();
    Page { items, next }
}

/// Whether a listing that begins with this page ends with it, and has nobody.
const fn is_empty<T>(page: &Page<T>, after: Option<&DriverId>) -> bool {
    after.is_none() && page.items.is_empty() && page.next.is_none()
}
