//! What is left of hours that were divided otherwise, before `--shard-resolution` was changed: the journal has brought all of it
//! anew, and nobody reads or writes it any more. But who is erased is erased from it too, and it goes with its hour.
//!
//! Cells of another size are not left over: they are on the list of their hour.
//!
//! Never here: what is there by today's division (`erase`, `forget`).

use bytes::Bytes;
use futures_util::future;

use super::Index;
use super::link::{Command, Reply};
use super::newest::{corrupt, id};
use super::shard::{Layout, Shard};
use crate::model::{Cell, DriverId, Hour};
use crate::store::StoreError;

/// Cells of an hour read at once.
const CELLS_PER_COMMAND: usize = 250;

impl Index {
    /// Takes a driver out of what is left of `hours`. One that comes late meets nobody new.
    pub(super) async fn erase_left_over(
        &self,
        hours: impl Iterator<Item = Hour>,
        driver: &DriverId,
    ) -> Result<(), StoreError> {
        let mut removals = Vec::new();
        let places_of = async |hour| Ok::<_, StoreError>((hour, self.places_left_over(hour).await?));
        for (hour, places) in future::try_join_all(hours.map(places_of)).await? {
            let bucket = self.keys.layout().other().bucket(hour, driver);
            let of_bucket = [
                ("HDEL", self.keys.fixes(bucket)),
                ("ZREM", self.keys.roster(bucket)),
                ("HDEL", self.keys.leaving(bucket)),
            ];
            let of_places = places.into_iter().flat_map(|place| {
                let (positions, drivers) = (self.keys.positions(place), self.keys.drivers(place));
                [("ZREM", positions), ("SREM", drivers), ("HDEL", self.keys.seen(place))]
            });
            let members = of_bucket.into_iter().chain(of_places);
            removals.extend(members.map(|(name, key)| Command::on(name, key).arg(id(driver))));
            let whole = [self.keys.track(bucket, driver), self.keys.changes(bucket)];
            removals.extend(whole.into_iter().map(|key| Command::on("UNLINK", key)));
        }
        self.in_pipelines(removals).await.map(drop)
    }

    /// Every key that is left of an hour, but for tracks; and the lists of its cells, which go last.
    pub(super) async fn left_over(&self, hour: Hour) -> Result<Vec<Bytes>, StoreError> {
        let layout = self.keys.layout().other();
        let buckets = (0..layout.buckets()).map(|number| layout.bucket_number(hour, number));
        let keys = &self.keys;
        let of_buckets = buckets.flat_map(|bucket| {
            let rest = [keys.last(bucket), keys.changes(bucket), keys.marks(bucket), keys.writer(bucket)];
            [keys.fixes(bucket), keys.roster(bucket), keys.leaving(bucket)].into_iter().chain(rest)
        });
        let of_places = self.places_left_over(hour).await?.into_iter().flat_map(|place| {
            let rest = [keys.marks(place), keys.writer(place)];
            [keys.positions(place), keys.drivers(place), keys.seen(place)].into_iter().chain(rest)
        });
        let lists = [keys.cells(Shard::whole(hour)), keys.atlas(Shard::whole(hour))];
        Ok(of_buckets.chain(of_places).chain(lists).collect())
    }

    async fn places_left_over(&self, hour: Hour) -> Result<Vec<Shard>, StoreError> {
        let whole = Shard::whole(hour);
        if self.keys.layout() != Layout::Whole {
            return Ok(vec![whole]);
        }
        let mut places = Vec::new();
        loop {
            let from = places.len();
            let cells =
                Command::on("LRANGE", self.keys.atlas(whole)).number(from).number(from + CELLS_PER_COMMAND - 1);
            let cells = self.link.ask(cells).await?.list()?;
            let is_end = cells.len() < CELLS_PER_COMMAND;
            for name in cells.into_iter().map(Reply::bytes) {
                let cell = name?.and_then(|name| Cell::parse(std::str::from_utf8(&name).ok()?));
                places.push(Shard::place(hour, cell.ok_or_else(|| corrupt("an element is no cell"))?));
            }
            if is_end {
                return Ok(places);
            }
        }
    }
}
