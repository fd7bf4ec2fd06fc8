//! Which cells an hour has. They only become more, in an order that Redis keeps, so an instance that knows the first
//! so many asks for the rest alone; together with the last that it knows, to see that it is still the same list.
//!
//! Of an hour that is not sharded there are none: the whole hour is the one place to look.
//!
//! Never here: what lies in a cell.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Index;
use super::link::{Command, Reply};
use super::marks::Attempt;
use super::newest::corrupt;
use super::outage::Lacks;
use super::shard::{Layout, Shard};
use crate::model::{Cell, Disc, Hour, Position, QuadCell, Timestamp};
use crate::store::StoreError;

/// The text of the script that makes cells known.
pub(super) const CELLS: &str = concat!(include_str!("count.lua"), include_str!("cells.lua"));

/// Cells in one reply, and in one call of the script.
const CELLS_PER_COMMAND: usize = 250;
const CELLS_PER_CALL: usize = 50;

/// What is known of the hours.
#[derive(Debug, Default)]
pub(super) struct Atlas {
    hours: Mutex<Hours>,
    /// What this instance has seen to being known to all.
    told: Mutex<HashSet<(Hour, Cell)>>,
}

#[derive(Debug, Default)]
struct Hours {
    cells: BTreeMap<Hour, Vec<(Cell, Disc)>>,
    /// How often any of it changed.
    changes: u64,
}

/// Where to look for who is in a circle.
#[derive(Default)]
pub(super) struct Around {
    /// Shards, each with the number of its hour among those that were asked about, and a few cells of the quadtree that
    /// hold all it has in the circle.
    pub(super) places: Vec<(Shard, usize, Vec<QuadCell>)>,
    changes: u64,
}

impl Atlas {
    /// Drops the hours that ended before `cutoff`.
    pub(super) fn forget_before(&self, cutoff: Timestamp) {
        self.hours.lock().cells.retain(|hour, _| hour.end() >= cutoff);
        self.told.lock().retain(|(hour, _)| hour.end() >= cutoff);
    }

    /// Something in Redis is gone: whatever was told there must be told again.
    pub(super) fn forget(&self) {
        self.hours.lock().cells.clear();
        self.told.lock().clear();
    }

    /// Whether this instance has seen to a cell's being known to all.
    pub(super) fn is_told(&self, hour: Hour, cell: Cell) -> bool {
        self.told.lock().contains(&(hour, cell))
    }

    fn known(&self, hour: Hour) -> (usize, Option<Cell>) {
        let hours = self.hours.lock();
        let known = hours.cells.get(&hour);
        (known.map_or(0, Vec::len), known.and_then(|known| known.last()).map(|(cell, _)| *cell))
    }
}

impl Index {
    /// The shards of the cells of an hour.
    pub(super) async fn places(&self, hour: Hour) -> Result<Vec<Shard>, StoreError> {
        let lacks = Lacks::default();
        self.refresh(&[hour], &lacks).await?;
        lacks.nothing()?;
        let known = self.atlas.hours.lock();
        Ok(known.cells.get(&hour).into_iter().flatten().map(|(cell, _)| Shard::place(hour, *cell)).collect())
    }

    /// Where to look, as far as is known.
    pub(super) fn around(&self, hours: &[Hour], centre: Position, radius_m: f64) -> Around {
        if self.keys.layout() == Layout::Whole {
            let cover = QuadCell::covering(centre, radius_m);
            let whole = |(at, hour): (usize, &Hour)| (Shard::whole(*hour), at, cover.clone());
            return Around { places: hours.iter().enumerate().map(whole).collect(), changes: 0 };
        }
        let known = self.atlas.hours.lock();
        let mut covers: BTreeMap<Cell, Vec<QuadCell>> = BTreeMap::new();
        let mut places = Vec::new();
        for (at, hour) in hours.iter().enumerate() {
            let cells = known.cells.get(hour).into_iter().flatten();
            for (cell, disc) in cells.filter(|(_, disc)| disc.touches(centre, radius_m)) {
                let cover = covers.entry(*cell).or_insert_with(|| disc.common_with(centre, radius_m));
                places.push((Shard::place(*hour, *cell), at, cover.clone()));
            }
        }
        Around { places, changes: known.changes }
    }

    /// Learns what cells the hours have by now, and whether any of it was not known yet when `around` was told.
    pub(super) async fn has_grown(&self, around: &Around, hours: &[Hour], lacks: &Lacks) -> Result<bool, StoreError> {
        self.refresh(hours, lacks).await?;
        Ok(self.keys.layout() != Layout::Whole && self.atlas.hours.lock().changes != around.changes)
    }

    /// Learns what cells the hours have by now. Of one whose list is away, those stand that were known before.
    async fn refresh(&self, hours: &[Hour], lacks: &Lacks) -> Result<(), StoreError> {
        if self.keys.layout() == Layout::Whole {
            return Ok(());
        }
        let mut open: BTreeSet<Hour> = hours.iter().copied().collect();
        while !open.is_empty() {
            let asked: Vec<(Hour, usize, Option<Cell>)> = open
                .iter()
                .map(|hour| {
                    let (count, last) = self.atlas.known(*hour);
                    (*hour, count, last)
                })
                .collect();
            let commands = asked.iter().map(|(hour, count, _)| {
                let from = count.saturating_sub(1);
                Command::on("LRANGE", self.keys.atlas(Shard::whole(*hour)))
                    .number(from)
                    .number(from + CELLS_PER_COMMAND - 1)
            });
            let replies = self.replies(commands.collect(), lacks).await?;
            for ((hour, count, last), reply) in asked.into_iter().zip(replies) {
                let Some(reply) = reply else {
                    open.remove(&hour);
                    continue;
                };
                let mut cells = Vec::new();
                for reply in reply.list()? {
                    cells.push(cell(reply)?);
                }
                let is_cut = cells.len() == CELLS_PER_COMMAND;
                let mut hours = self.atlas.hours.lock();
                let Hours { cells: by_hour, changes } = &mut *hours;
                let known = by_hour.entry(hour).or_default();
                if last.is_some() && cells.first() != last.as_ref() {
                    // Another list than the one that was read before: from its beginning.
                    known.clear();
                    *changes += 1;
                    if cells.is_empty() {
                        open.remove(&hour);
                    }
                    continue;
                }
                // Whoever asked at the same time may have learnt some of it first.
                for (at, cell) in (count.saturating_sub(1)..).zip(cells) {
                    if at == known.len() {
                        known.push((cell, cell.disc()));
                        *changes += 1;
                    }
                }
                if !is_cut && known.len() >= count {
                    open.remove(&hour);
                }
            }
        }
        Ok(())
    }

    /// Makes cells known to all, those that this instance has not told yet.
    pub(super) async fn tell(&self, attempt: &mut Attempt, cells: &BTreeSet<(Hour, Cell)>) -> Result<(), StoreError> {
        let untold: Vec<(Hour, Cell)> = {
            let told = self.atlas.told.lock();
            cells.iter().filter(|cell| !told.contains(cell)).copied().collect()
        };
        let mut telling = Vec::new();
        let mut shards = Vec::new();
        for of_hour in untold.chunk_by(|a, b| a.0 == b.0) {
            let shard = Shard::whole(of_hour[0].0);
            for slice in of_hour.chunks(CELLS_PER_CALL) {
                let keys = [self.keys.cells(shard), self.keys.atlas(shard), self.keys.marks(shard)];
                let expiries = keys.each_ref().map(|key| self.keys.expires_at_s(shard, key));
                let mut call = Command::script(&self.cells, keys.into());
                for expiry in expiries {
                    call = call.number(expiry);
                }
                let cells = slice.iter().map(|(_, cell)| Bytes::from(cell.to_string()));
                telling.push(self.counting(call, attempt, shard).args(cells));
                shards.push(shard);
            }
        }
        for (shard, reply) in shards.into_iter().zip(self.link.run(telling).await?) {
            attempt.called(shard, reply)?;
        }
        self.atlas.told.lock().extend(untold);
        Ok(())
    }
}

fn cell(reply: Reply) -> Result<Cell, StoreError> {
    let bytes = reply.bytes()?;
    let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(Cell::parse).ok_or_else(|| corrupt("an element is no cell"))
}
