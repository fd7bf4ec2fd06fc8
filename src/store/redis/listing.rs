//! Listings in the order of driver ids, a page at a time.
//!
//! The rosters are sorted by id, and ids neither move nor leave while an hour is kept. So the last id is all a reader
//! must remember, and moving drivers, late points and a new hour cost it nothing; cursors of SSCAN would be bound to
//! one server and repeat, ranks in `positions` shift with every move. Where several hours count, their rosters are
//! merged.
//!
//! Never here: who wants the listing, what a cursor looks like outside.

use std::collections::BTreeSet;

use super::Index;
use super::keys::Shard;
use super::link::Command;
use super::newest::{driver, id};
use crate::model::DriverId;
use crate::store::{Located, Page, StoreError, Window};

/// Ids in one ZRANGE.
const IDS_PER_COMMAND: usize = 250;
/// Drivers counted at once. With the one that tells of more, four full ZRANGE.
const COUNTED_AT_ONCE: usize = 4 * IDS_PER_COMMAND - 1;

impl Index {
    /// Who is on any of the rosters of `shards`.
    pub(super) async fn drivers(
        &self,
        shards: &[Shard],
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        let mut items: Vec<DriverId> = Vec::new();
        let mut after = after.cloned();
        loop {
            // One more than wanted tells whether there are more.
            let slice = (limit + 1 - items.len()).min(IDS_PER_COMMAND);
            let (ids, is_end) = self.merged(shards, after.as_ref(), slice).await?;
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

    /// The drivers whose newest fix lies in the window, with that fix.
    pub(super) async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let shards = self.shards(window);
        let mut page = self.located(&shards, after, limit).await?;
        page.items.retain(|located| located.fix.ts >= window.since);
        Ok(page)
    }

    /// How many drivers have their newest fix in the window.
    pub(super) async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.active(window, after.as_ref(), COUNTED_AT_ONCE).await?;
            count += page.items.len() as u64;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    /// Whoever is on a roster of `shards`, with the newest fix there.
    pub(super) async fn located(
        &self,
        shards: &[Shard],
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let Page { items: drivers, next } = self.drivers(shards, after, limit).await?;
        let newest = self.newest_of(shards, &drivers).await?;
        let items = drivers.into_iter().zip(newest);
        let items = items.filter_map(|(driver, fix)| fix.map(|fix| Located { driver, fix })).collect();
        Ok(Page { items, next })
    }

    /// The next ids of all rosters, as far as each has said what it has; and whether that was all.
    async fn merged(
        &self,
        shards: &[Shard],
        after: Option<&DriverId>,
        slice: usize,
    ) -> Result<(BTreeSet<DriverId>, bool), StoreError> {
        let commands = shards.iter().map(|shard| self.roster(*shard, after, slice));
        let mut ids = BTreeSet::new();
        let mut horizon: Option<DriverId> = None;
        for reply in self.link.run(commands.collect()).await? {
            let roster: Vec<DriverId> = reply.list()?.into_iter().map(driver).collect::<Result<_, _>>()?;
            if roster.len() >= slice {
                let last = roster.last().cloned();
                horizon = horizon.into_iter().chain(last).min();
            }
            ids.extend(roster);
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
