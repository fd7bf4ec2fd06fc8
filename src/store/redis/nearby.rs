//! Who is near: the nearest-first walk over the quadtree, answered by counts and small reads of score ranges, several of
//! a shard in one step of Redis (`look.lua`).
//!
//! A driver is in the positions of every hour it reported in; while it crosses a border, of two cells. Of whatever is
//! read of a driver the newest fix counts; and whoever is to be in the answer is looked up once more, in the hours
//! that are newer than what was read, and in its bucket, which knows before a cell does. So a driver who crosses into
//! a new hour or cell while the walk is on its way is neither doubled nor shown where it no longer is. Exact positions
//! come from the packed fixes; the scores only say where to look.
//!
//! Never here: GEOSEARCH, which pays for all that lies in the circle.

use std::collections::{BTreeMap, HashMap};

use super::Index;
use super::link::{Command, Reply};
use super::newest::{Sighting, driver, fix, id};
use super::outage::Lacks;
use super::shard::{Layout, Part, Shard};
use crate::model::{DriverId, Fix, Hour, NearestWalk, Probe, QuadCell, Step};
use crate::store::{Located, Near, NearbyQuery, StoreError, When};

/// A cell with so few drivers is read rather than quartered.
const LEAF: u64 = 32;
/// Drivers in one call. Of cells that are read, only one of the finest level can hold more.
const DRIVERS_PER_CALL: usize = 125;
/// Cells looked into in one call: with [`LEAF`], some hundred drivers.
const CELLS_PER_CALL: usize = 5;
/// Cells looked into in one step.
const CELLS_PER_STEP: usize = 24;
/// So many times more drivers than are wanted are read at first: the corners of cells lie outside of the circle that
/// the answer fills.
const SPARE: u64 = 3;

/// The text of the script that looks into cells.
pub(super) const LOOK: &str = include_str!("look.lua");
/// The text of the script that reads on in a cell of the finest level.
pub(super) const CROWD: &str = concat!(include_str!("bytes.lua"), include_str!("crowd.lua"));

/// Who was met on the way, each at the newest fix that was read of it.
struct Met<'a> {
    query: &'a NearbyQuery,
    drivers: HashMap<DriverId, Candidate>,
}

struct Candidate {
    fix: Fix,
    /// Metres from the centre; `None` if it does not count: out of the circle or the window, or without a tag.
    distance_m: Option<f64>,
    /// Hours before this, counted from the newest, may know better.
    newer: usize,
}

impl Index {
    /// The nearest first; and whether there were more.
    pub(super) async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        let hours = match query.when {
            When::Within(window) => self.hours(window),
            When::During(hour) => vec![hour],
        };
        let lacks = Lacks::default();
        let around = self.around(&hours, query.centre, query.radius_m, &lacks).await?;
        let (mut probes, mut shards) = (Vec::new(), Vec::with_capacity(around.len()));
        for (source, (shard, hour, cells)) in around.into_iter().enumerate() {
            shards.push((shard, hour));
            probes.extend(cells.into_iter().map(|cell| Probe { source, cell }));
        }
        let mut walk = NearestWalk::from_probes(query.centre, query.radius_m, probes, LEAF, CELLS_PER_STEP);
        let mut met = Met { query, drivers: HashMap::new() };
        loop {
            let (bound_m, lacking) = met.bound_m();
            let wanted = if lacking == 0 { u64::MAX } else { SPARE * lacking as u64 };
            let known = |probe: Probe| self.density.of(shards[probe.source].0, probe.cell);
            if let Some(step) = walk.next_step(bound_m, wanted, known) {
                self.look(&hours, &shards, step, &mut walk, &mut met, &lacks).await?;
            } else if !self.make_sure(&hours, &mut met, &lacks).await? {
                let nearest = met.nearest();
                let is_empty = nearest.0.is_empty();
                return self.given(nearest, is_empty, &lacks);
            }
        }
    }

    /// Takes a step of the walk.
    async fn look(
        &self,
        hours: &[Hour],
        shards: &[(Shard, usize)],
        step: Step,
        walk: &mut NearestWalk,
        met: &mut Met<'_>,
        lacks: &Lacks,
    ) -> Result<(), StoreError> {
        let mut probes: BTreeMap<usize, Vec<(QuadCell, &str)>> = BTreeMap::new();
        for (cells, how) in [(step.count, "ZCOUNT"), (step.read, "ZRANGE")] {
            for Probe { source, cell } in cells {
                probes.entry(source).or_default().push((cell, how));
            }
        }
        let slices =
            probes.iter().flat_map(|(source, cells)| cells.chunks(CELLS_PER_CALL).map(|cells| (*source, cells)));
        let slices: Vec<(usize, &[(QuadCell, &str)])> = slices.collect();
        let calls = slices.iter().map(|(source, cells)| self.looking(shards[*source].0, cells)).collect();
        let replies = self.replies(calls, lacks).await?;
        for ((source, cells), reply) in slices.into_iter().zip(replies) {
            let Some(reply) = reply else { continue };
            let (shard, hour) = shards[source];
            for ((cell, _), reply) in cells.iter().zip(reply.list()?) {
                let probe = Probe { source, cell: *cell };
                let mut parts = match reply {
                    // There was too much before it: it is read next.
                    Reply::Nil => {
                        walk.counted(probe, 1);
                        continue;
                    }
                    Reply::List(parts) => parts.into_iter(),
                    count => {
                        let count = count.count()?;
                        self.density.note(shard, *cell, count);
                        walk.counted(probe, count);
                        continue;
                    }
                };
                let mut part = || parts.next().unwrap_or(Reply::Nil).list();
                let (drivers, fixes) = (part()?, part()?);
                self.density.note(shard, *cell, drivers.len() as u64);
                let is_cut = drivers.len() >= DRIVERS_PER_CALL;
                if is_cut && cell.level() < QuadCell::MAX_LEVEL {
                    walk.counted(probe, drivers.len() as u64);
                    continue;
                }
                let drivers: Vec<DriverId> = drivers.into_iter().map(driver).collect::<Result<_, _>>()?;
                if let Some(last) = drivers.last().filter(|_| is_cut) {
                    self.read_on(&hours[..=hour], shard, *cell, last.clone(), met, lacks).await?;
                }
                let newer = match shard.part() {
                    Part::Whole => hour,
                    Part::Place(_) | Part::Bucket(_) => hour + 1,
                };
                for (driver, reply) in drivers.into_iter().zip(fixes) {
                    if let Some(fix) = fix(shard, reply)? {
                        met.at(driver, fix, newer);
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks up those who would be in the answer, if newer hours or their buckets may know better. False if nobody.
    async fn make_sure(&self, hours: &[Hour], met: &mut Met<'_>, lacks: &Lacks) -> Result<bool, StoreError> {
        let unsure = met.unsure();
        let Some(newer) = unsure.iter().map(|(_, newer)| *newer).max() else { return Ok(false) };
        let drivers: Vec<DriverId> = unsure.into_iter().map(|(driver, _)| driver).collect();
        let newest = self.newest_of(&hours[..newer], &drivers, lacks).await?;
        for (driver, newest) in drivers.into_iter().zip(newest) {
            met.sure(&driver, newest);
        }
        Ok(true)
    }

    fn looking(&self, shard: Shard, cells: &[(QuadCell, &str)]) -> Command {
        let fixes = match self.keys.layout() {
            Layout::Whole => self.keys.fixes(shard),
            Layout::Sharded(_) => self.keys.seen(shard),
        };
        let call = Command::script(&self.look, vec![self.keys.positions(shard), fixes]).number(DRIVERS_PER_CALL);
        cells.iter().fold(call, |call, (cell, how)| {
            let scores = cell.scores();
            call.number(scores.start).number(scores.end).arg((*how).to_owned())
        })
    }

    /// Meets the rest of a cell of the finest level, where more drivers stand than one call reads.
    async fn read_on(
        &self,
        hours: &[Hour],
        shard: Shard,
        cell: QuadCell,
        mut last: DriverId,
        met: &mut Met<'_>,
        lacks: &Lacks,
    ) -> Result<(), StoreError> {
        loop {
            let reading = Command::script(&self.crowd, vec![self.keys.positions(shard)]);
            let reading = reading.number(cell.scores().start).arg(id(&last)).number(DRIVERS_PER_CALL);
            let page = self.link.ask(reading).await?.list()?;
            let drivers: Vec<DriverId> = page.into_iter().map(driver).collect::<Result<_, _>>()?;
            let newest = self.newest_of(hours, &drivers, lacks).await?;
            let is_cut = drivers.len() >= DRIVERS_PER_CALL;
            let next = drivers.last().filter(|_| is_cut).cloned();
            for (driver, newest) in drivers.into_iter().zip(newest) {
                if let Sighting::At(fix) = newest {
                    met.at(driver, fix, 0);
                }
            }
            let Some(next) = next else { return Ok(()) };
            last = next;
        }
    }
}

impl Met<'_> {
    /// Of what is known of a driver, the newest fix holds.
    fn at(&mut self, driver: DriverId, fix: Fix, newer: usize) {
        if self.drivers.get(&driver).is_some_and(|known| known.fix >= fix) {
            return;
        }
        let distance_m = self.distance_m(&fix);
        self.drivers.insert(driver, Candidate { fix, distance_m, newer });
    }

    /// Nothing newer than this is known of a driver. Whose newest is unknown does not count.
    fn sure(&mut self, driver: &DriverId, newest: Sighting) {
        let is_unknown = matches!(newest, Sighting::Unknown);
        if let Sighting::At(fix) = newest {
            self.at(driver.clone(), fix, 0);
        }
        if let Some(known) = self.drivers.get_mut(driver) {
            known.newer = 0;
            known.distance_m = known.distance_m.filter(|_| !is_unknown);
        }
    }

    fn distance_m(&self, fix: &Fix) -> Option<f64> {
        let is_in_time = match self.query.when {
            When::Within(window) => fix.ts >= window.since,
            When::During(_) => true,
        };
        let distance_m = self.query.centre.distance_m(fix.position);
        let counts = is_in_time && distance_m <= self.query.radius_m && fix.tags.contains_all(&self.query.tags);
        counts.then_some(distance_m)
    }

    /// How far away, in metres, a driver may be and still matter; and how many are lacking until only nearer ones do.
    fn bound_m(&self) -> (f64, usize) {
        let mut distances: Vec<f64> = self.drivers.values().filter_map(|met| met.distance_m).collect();
        let limit = self.query.limit;
        if distances.len() <= limit {
            return (self.query.radius_m, limit + 1 - distances.len());
        }
        (*distances.select_nth_unstable_by(limit, f64::total_cmp).1, 0)
    }

    /// Those who count, the nearest first, at the same distance by id.
    fn ranked(&self) -> Vec<(f64, &DriverId, &Candidate)> {
        let counting = self.drivers.iter().filter_map(|(driver, met)| Some((met.distance_m?, driver, met)));
        let mut ranked: Vec<_> = counting.collect();
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        ranked
    }

    /// Who has to be looked up before the answer stands; and then some more, who come in for those that fall out.
    fn unsure(&self) -> Vec<(DriverId, usize)> {
        let ranked = self.ranked();
        let answer = self.query.limit + 1;
        if ranked.iter().take(answer).all(|(.., met)| met.newer == 0) {
            return Vec::new();
        }
        let unsure = ranked.into_iter().take(answer + answer.min(DRIVERS_PER_CALL)).filter(|(.., met)| met.newer > 0);
        unsure.map(|(_, driver, met)| (driver.clone(), met.newer)).collect()
    }

    fn nearest(&self) -> (Vec<Near>, bool) {
        let ranked = self.ranked();
        let near = ranked.iter().take(self.query.limit).map(|(distance_m, driver, met)| Near {
            located: Located { driver: (*driver).clone(), fix: met.fix.clone() },
            distance_m: *distance_m,
        });
        (near.collect(), ranked.len() > self.query.limit)
    }
}
