//! Who is near: the nearest-first walk over the quadtree, answered by counts and small reads of score ranges.
//!
//! A driver is in the positions of every hour it reported in; while it crosses a border, of two cells. Whoever turns up in any of them is looked up in the
//! newer hours too, and offered once, at its newest fix, wherever that is: so a driver who crosses into a new hour
//! while the walk is on the way is neither lost nor doubled. Exact positions come from the packed fixes; the scores
//! only say where to look.
//!
//! Never here: GEOSEARCH, which pays for all that lies in the circle.

use std::collections::{BTreeMap, HashSet};

use super::Index;
use super::link::{Command, Reply};
use super::newest::{driver, id};
use super::outage::Lacks;
use super::shard::Shard;
use crate::model::{DriverId, Fix, NearestWalk, Probe, QuadCell};
use crate::store::{Located, Near, NearbyQuery, StoreError, When};

/// A cell with so few drivers is read rather than quartered.
const LEAF: u64 = 50;
/// Drivers in one read. Of cells that are read, only one of the finest level can hold more.
const DRIVERS_PER_READ: usize = 250;
/// Cells asked in one pipeline: a few of each shard, within bounds.
const CELLS_PER_SHARD: usize = 4;
const MAX_CELLS: usize = 32;

/// The text of the script that reads on in a cell of the finest level.
pub(super) const CROWD: &str = concat!(include_str!("bytes.lua"), include_str!("crowd.lua"));

impl Index {
    /// The nearest first; and whether there were more.
    pub(super) async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        let hours = match query.when {
            When::Within(window) => self.hours(window),
            When::During(hour) => vec![hour],
        };
        let lacks = Lacks::default();
        let around = self.around(&hours, query.centre, query.radius_m, &lacks).await?;
        let mut probes = Vec::new();
        let mut shards = Vec::with_capacity(around.len());
        let mut hour_of = Vec::with_capacity(around.len());
        for (source, (shard, hour, cells)) in around.into_iter().enumerate() {
            shards.push(shard);
            hour_of.push(hour);
            probes.extend(cells.into_iter().map(|cell| Probe { source, cell }));
        }
        let counts = |fix: &Fix| match query.when {
            When::Within(window) => fix.ts >= window.since,
            When::During(_) => true,
        };
        let width = (CELLS_PER_SHARD * shards.len()).clamp(2 * CELLS_PER_SHARD, MAX_CELLS);
        let mut walk: NearestWalk<(DriverId, Fix)> =
            NearestWalk::from_probes(query.centre, query.radius_m, query.limit, probes, LEAF, width);
        let mut met: HashSet<DriverId> = HashSet::new();
        while let Some(step) = walk.next_step() {
            let count = step.count.iter().map(|probe| self.count(&shards, *probe));
            let read = step.read.iter().map(|probe| self.read(&shards, *probe));
            let mut replies = self.replies(count.chain(read).collect(), &lacks).await?.into_iter();
            for (probe, reply) in step.count.into_iter().zip(replies.by_ref()) {
                walk.counted(probe, reply.map_or(Ok(0), Reply::count)?);
            }
            let mut found: BTreeMap<DriverId, usize> = BTreeMap::new();
            for (probe, reply) in step.read.into_iter().zip(replies) {
                let members = reply.map_or_else(|| Ok(Vec::new()), Reply::list)?;
                let is_cut = members.len() >= DRIVERS_PER_READ;
                if is_cut && probe.cell.level() < QuadCell::MAX_LEVEL {
                    // It filled up since it was counted: it is quartered after all.
                    walk.counted(probe, members.len() as u64);
                    continue;
                }
                let mut members: Vec<DriverId> = members.into_iter().map(driver).collect::<Result<_, _>>()?;
                if is_cut {
                    self.read_on(&shards, probe, &mut members).await?;
                }
                for driver in members {
                    let oldest = found.entry(driver).or_default();
                    *oldest = hour_of[probe.source].max(*oldest);
                }
            }
            found.retain(|driver, _| met.insert(driver.clone()));
            let newer = found.values().max().map_or(0, |oldest| oldest + 1);
            let drivers: Vec<DriverId> = found.into_keys().collect();
            let newest = self.newest_of(&hours[..newer], &drivers, &lacks).await?;
            for (driver, fix) in drivers.into_iter().zip(newest) {
                if let Some(fix) = fix.filter(|fix| counts(fix) && fix.tags.contains_all(&query.tags)) {
                    walk.offer(fix.position, (driver, fix));
                }
            }
        }
        let (found, truncated) = walk.finish();
        let near: Vec<Near> = found
            .into_iter()
            .map(|(distance_m, (driver, fix))| Near { located: Located { driver, fix }, distance_m })
            .collect();
        let is_empty = near.is_empty();
        self.given((near, truncated), is_empty, &lacks)
    }

    fn count(&self, shards: &[Shard], probe: Probe) -> Command {
        within(Command::on("ZCOUNT", self.keys.positions(shards[probe.source])), probe.cell)
    }

    fn read(&self, shards: &[Shard], probe: Probe) -> Command {
        within(Command::on("ZRANGE", self.keys.positions(shards[probe.source])), probe.cell)
            .arg("BYSCORE")
            .arg("LIMIT")
            .number(0)
            .number(DRIVERS_PER_READ)
    }

    /// Adds the rest of a cell of the finest level, where more drivers stand than one read takes.
    async fn read_on(&self, shards: &[Shard], probe: Probe, members: &mut Vec<DriverId>) -> Result<(), StoreError> {
        let key = self.keys.positions(shards[probe.source]);
        let score = probe.cell.scores().start;
        while let Some(last) = members.last() {
            let call = Command::script(&self.crowd, vec![key.clone()]);
            let call = call.number(score).arg(id(last)).number(DRIVERS_PER_READ);
            let page = self.link.run(vec![call]).await?.pop().unwrap_or(Reply::Nil).list()?;
            let is_cut = page.len() >= DRIVERS_PER_READ;
            members.extend(page.into_iter().map(driver).collect::<Result<Vec<_>, _>>()?);
            if !is_cut {
                break;
            }
        }
        Ok(())
    }
}

/// Adds the scores of `cell`, the end excluded.
fn within(command: Command, cell: QuadCell) -> Command {
    let scores = cell.scores();
    command.number(scores.start).arg(format!("({}", scores.end))
}
