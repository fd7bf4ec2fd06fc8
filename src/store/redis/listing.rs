//! Listings in the order of driver ids, a page at a time.
//!
//! The rosters are sorted by id, and ids neither move nor leave while an hour is kept. So the last id is all a reader
//! must remember, and moving drivers, late points and a new hour cost it nothing; cursors of SSCAN would be bound to
//! one server and repeat, ranks in `positions` shift with every move. Where several hours count, or an
//! hour has several rosters, they are merged.
//!
//! Never here: who wants the listing, what a cursor looks like outside.

use std::collections::BTreeSet;

use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Index;
use super::link::Command;
use super::newest::{driver, id};
use super::outage::Lacks;
use super::shard::Shard;
use crate::model::{DriverId, Hour};
use crate::store::{Located, Page, StoreError, Window};

/// Ids in one ZRANGE.
const IDS_PER_COMMAND: usize = 250;
/// Drivers counted at once. With the one that tells of more, four full ZRANGE.
const COUNTED_AT_ONCE: usize = 4 * IDS_PER_COMMAND - 1;
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
        let page = self.listed(hours, after, limit, &lacks).await?;
        let is_empty = is_empty(&page, after);
        self.given(page, is_empty, &lacks)
    }

    async fn listed(
        &self,
        hours: &[Hour],
        after: Option<&DriverId>,
        limit: usize,
        lacks: &Lacks,
    ) -> Result<Page<DriverId>, StoreError> {
        let rosters: Vec<Shard> = hours.iter().flat_map(|hour| self.buckets(*hour)).collect();
        self.on_rosters(&rosters, self.keys.layout().buckets(), after, limit, lacks).await
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
        let page = self.listed(hours, after, limit, &lacks).await?;
        let page = self.locate(hours, page, &lacks).await?;
        let is_empty = is_empty(&page, after);
        self.given(page, is_empty, &lacks)
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
            let page = self.on_rosters(&rosters, 1, after.as_ref(), COUNTED_AT_ONCE, lacks).await?;
            let page = self.locate(hours, page, lacks).await?;
            count += page.items.iter().filter(|located| located.fix.ts >= window.since).count() as u64;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    async fn locate(&self, hours: &[Hour], page: Page<DriverId>, lacks: &Lacks) -> Result<Page<Located>, StoreError> {
        let Page { items: drivers, next } = page;
        let newest = self.newest_of(hours, &drivers, lacks).await?;
        let items = drivers.into_iter().zip(newest);
        let items = items.filter_map(|(driver, fix)| fix.map(|fix| Located { driver, fix })).collect();
        Ok(Page { items, next })
    }

    /// Who is on any of `rosters`, among which the drivers of an hour are spread over `spread`.
    async fn on_rosters(
        &self,
        rosters: &[Shard],
        spread: usize,
        after: Option<&DriverId>,
        limit: usize,
        lacks: &Lacks,
    ) -> Result<Page<DriverId>, StoreError> {
        let mut items: Vec<DriverId> = Vec::new();
        let mut after = after.cloned();
        loop {
            // One more than wanted tells whether there are more.
            let wanted = limit + 1 - items.len();
            // Of many, each is asked for its share and some more, for chance spreads them unevenly.
            let share = if spread == 1 { wanted } else { wanted.div_ceil(spread) * 3 / 2 + UNEVEN };
            let (ids, is_end) = self.merged(rosters, after.as_ref(), share.min(IDS_PER_COMMAND), lacks).await?;
            items.extend(ids);
            if items.len() > limit {
                items.truncate(limit);
                return Ok(Page { next: items.last().cloned(), items });
            }
            if is_end {
                return Ok(Page { items, next: None });
            }
            after = items.last().cloned().or(after);
        }
    }

    /// The next ids of all rosters, as far as each has said what it has; and whether that was all.
    async fn merged(
        &self,
        rosters: &[Shard],
        after: Option<&DriverId>,
        slice: usize,
        lacks: &Lacks,
    ) -> Result<(BTreeSet<DriverId>, bool), StoreError> {
        let mut ids = BTreeSet::new();
        let mut horizon: Option<DriverId> = None;
        for rosters in rosters.chunks(ROSTERS_PER_PIPELINE) {
            let commands = rosters.iter().map(|shard| self.roster(*shard, after, slice));
            for reply in self.replies(commands.collect(), lacks).await?.into_iter().flatten() {
                let roster: Vec<DriverId> = reply.list()?.into_iter().map(driver).collect::<Result<_, _>>()?;
                if roster.len() >= slice {
                    let last = roster.last().cloned();
                    horizon = horizon.into_iter().chain(last).min();
                }
                ids.extend(roster);
            }
        }
        let is_end = horizon.is_none();
        if let Some(horizon) = horizon {
            ids.retain(|id| *id <= horizon);
        }
        Ok((ids, is_end))
    }

    fn roster(&self, shard: Shard, after: Option<&DriverId>, slice: usize) -> Command {
        let from = after.map_or_else(|| b"-".to_vec(), |after| [b"(", id(after).as_ref()].concat());
        Command::on("ZRANGE", self.keys.roster(shard))
            .arg(from)
            .arg("+")
            .arg("BYLEX")
            .arg("LIMIT")
            .number(0)
            .number(slice)
    }
}

/// Whether a listing that begins with this page ends with it, and has nobody.
const fn is_empty<T>(page: &Page<T>, after: Option<&DriverId>) -> bool {
    after.is_none() && page.items.is_empty() && page.next.is_none()
}
