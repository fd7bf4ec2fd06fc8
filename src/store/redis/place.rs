//! Who is in a cell: the second half of a write into a sharded hour.
//!
//! The bucket of a driver has decided first: it knows the newest fix, and the cells that the driver has yet to leave
//! for it. Then the cell of that fix is told that the driver is here, then the others that it has left, then the
//! bucket that they were left. Each cell keeps of each driver the newest it was told, here or gone. So writers that
//! come late, or at the same time, or again after a crash in between, leave the same; and whoever reads the bucket
//! beside a cell meets the driver once, wherever the write stands.
//!
//! Never here: which fix is the newest (`apply` says).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::apply::{Move, Moves, Slice, score};
use super::link::Command;
use super::marks::Attempt;
use super::newest::id;
use super::shard::Shard;
use super::{Index, packed};
use crate::store::StoreError;

/// The text of the script that tells a cell.
pub(super) const PLACE: &str = concat!(
    include_str!("bytes.lua"),
    include_str!("newer.lua"),
    include_str!("count.lua"),
    include_str!("place.lua")
);
/// The text of the script that tells a bucket what was left.
pub(super) const LEFT: &str = include_str!("left.lua");

/// Drivers in one call of either script.
const DRIVERS_PER_CALL: usize = 20;

/// What a cell is told of a driver.
struct Visit {
    driver: Bytes,
    /// Where in the cell; `None`: elsewhere.
    score: Option<u64>,
    fix: Bytes,
}

impl Index {
    /// Tells the cells what the buckets answered.
    pub(super) async fn put_in_places(
        &self,
        attempt: &mut Attempt,
        slices: &[Slice<'_, '_>],
        written: Vec<Moves>,
    ) -> Result<(), StoreError> {
        let mut places: BTreeSet<_> = BTreeSet::new();
        let mut here: BTreeMap<Shard, Vec<Visit>> = BTreeMap::new();
        let mut gone: BTreeMap<Shard, Vec<Visit>> = BTreeMap::new();
        let mut left: BTreeMap<Shard, Vec<(Bytes, Bytes)>> = BTreeMap::new();
        for (slice, moves) in slices.iter().zip(written) {
            let hour = slice.bucket.hour();
            for (folded, moved) in slice.drivers.iter().zip(moves) {
                // A driver with a newer fix is whoever's brought that.
                let Some(Move { to, from }) = moved else { continue };
                let newest = folded.newest();
                let (driver, fix) = (id(folded.driver), Bytes::from(packed::pack(hour, newest)));
                if !self.atlas.is_told(hour, to) && !self.owes(attempt, Shard::whole(hour)) {
                    places.insert((hour, to));
                }
                let visit = Visit { driver: driver.clone(), score: Some(score(newest)), fix: fix.clone() };
                let mut owed = self.owes(attempt, Shard::place(hour, to));
                if !owed {
                    here.entry(Shard::place(hour, to)).or_default().push(visit);
                }
                if from.is_empty() {
                    continue;
                }
                for cell in from {
                    if self.owes(attempt, Shard::place(hour, cell)) {
                        owed = true;
                        continue;
                    }
                    let visit = Visit { driver: driver.clone(), score: None, fix: fix.clone() };
                    gone.entry(Shard::place(hour, cell)).or_default().push(visit);
                }
                // What a cell was not told stays in `leaving`, for the repetition to tell.
                if !owed {
                    left.entry(slice.bucket).or_default().push((driver, fix));
                }
            }
        }
        self.tell(attempt, &places).await?;
        for visits in [here, gone] {
            let (mut shards, mut calls) = (Vec::new(), Vec::new());
            for (shard, visits) in visits {
                for visits in visits.chunks(DRIVERS_PER_CALL) {
                    shards.push(shard);
                    calls.push(self.visits(attempt, shard, visits));
                }
            }
            for (shard, reply) in shards.into_iter().zip(self.in_pipelines(calls).await?) {
                attempt.called(shard, reply)?;
            }
        }
        let calls = left.into_iter().flat_map(|(shard, drivers)| {
            let calls = drivers.chunks(DRIVERS_PER_CALL).map(|drivers| {
                let call = Command::script(&self.left, vec![self.keys.fixes(shard), self.keys.leaving(shard)]);
                call.args(drivers.iter().flat_map(|(driver, fix)| [driver.clone(), fix.clone()]))
            });
            calls.collect::<Vec<_>>()
        });
        self.in_pipelines(calls.collect()).await?;
        Ok(())
    }

    fn visits(&self, attempt: &Attempt, shard: Shard, visits: &[Visit]) -> Command {
        let keys =
            [self.keys.positions(shard), self.keys.drivers(shard), self.keys.seen(shard), self.keys.marks(shard)];
        let expiries = keys.each_ref().map(|key| self.keys.expires_at_s(shard, key));
        let mut call = Command::script(&self.place, keys.into());
        for expiry in expiries {
            call = call.number(expiry);
        }
        call = self.counting(call, attempt, shard);
        for Visit { driver, score, fix } in visits {
            let score = score.map_or_else(String::new, |score| score.to_string());
            call = call.arg(driver.clone()).arg(score).arg(fix.clone());
        }
        call
    }
}
