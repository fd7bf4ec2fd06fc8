//! Who is near: the nearest-first walk over the quadtree, answered by counts and small reads of score ranges.
//!
//! A driver is in the positions of every hour it reported in; while it crosses a border, of two cells. A score tells a
//! square of 0.6 m by 0.3 m, so whoever turns up has a least distance; in the order of that they are looked up, in the
//! hour where they turned up and the newer ones, until nobody is left who could be nearer than the worst that is
//! wanted. So a driver who crosses into a new hour or cell while the walk is on its way is neither doubled nor shown
//! where it no longer is; exact positions come from the packed fixes, and of the many that are read to find the nearest
//! only a few are looked up.
//!
//! Never here: GEOSEARCH, which pays for all that lies in the circle; a script, which would pay for every member twice.

use std::collections::{HashMap, HashSet};

use super::Index;
use super::atlas::Around;
use super::link::{Command, Reply};
use super::newest::{Sighting, corrupt, driver, id};
use super::outage::Lacks;
use super::shard::Shard;
use crate::model::{DriverId, Fix, Hour, Nearest, NearestWalk, Probe, QuadCell, Step};
use crate::store::{Located, Near, NearbyQuery, StoreError, When};

/// A cell with so few drivers is read rather than quartered.
const LEAF: u64 = 16;
/// Drivers in one read. Of cells that are read, only one of the finest level can hold more.
const DRIVERS_PER_READ: usize = 125;
/// Cells looked into in one step.
const CELLS_PER_STEP: usize = 24;
/// So many times more drivers than are wanted are read at first: the corners of cells lie outside of the circle that
/// the answer fills.
const SPARE: u64 = 3;
/// Drivers looked up at once, at most.
const LOOKED_UP_AT_ONCE: usize = 2_000;

/// The text of the script that reads on in a cell of the finest level.
pub(super) const CROWD: &str = concat!(include_str!("bytes.lua"), include_str!("crowd.lua"));

/// A question on its way.
struct Search<'a> {
    index: &'a Index,
    hours: &'a [Hour],
    lacks: &'a Lacks,
    /// The sources of the walk, each with the number of its hour.
    shards: Vec<(Shard, usize)>,
    walk: NearestWalk,
    met: Met<'a>,
}

/// Who was met on the way.
struct Met<'a> {
    query: &'a NearbyQuery,
    /// Not looked up yet: the least distance in metres, and the oldest hour where it turned up, counted from the newest.
    unsure: HashMap<DriverId, (f64, usize)>,
    looked_up: HashSet<DriverId>,
    /// Those who count, at their newest fixes.
    nearest: Nearest<(DriverId, Fix)>,
    /// So many are looked up next: more each time, for whoever asks for a rare tag.
    next: usize,
}

impl Index {
    /// The nearest first; and whether there were more.
    pub(super) async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        let hours = match query.when {
            When::Within(window) => self.hours(window),
            When::During(hour) => vec![hour],
        };
        let lacks = Lacks::default();
        let mut search = Search::new(self, query, &hours, &lacks);
        search.run().await?;
        let (found, truncated) = search.met.nearest.finish();
        let near = found
            .into_iter()
            .map(|(distance_m, (driver, fix))| Near { located: Located { driver, fix }, distance_m });
        let near: Vec<Near> = near.collect();
        let is_empty = near.is_empty();
        self.given((near, truncated), is_empty, &lacks)
    }
}

impl<'a> Search<'a> {
    fn new(index: &'a Index, query: &'a NearbyQuery, hours: &'a [Hour], lacks: &'a Lacks) -> Self {
        let walk = NearestWalk::new(query.centre, query.radius_m, LEAF, CELLS_PER_STEP);
        Self { index, hours, lacks, shards: Vec::new(), walk, met: Met::nobody(query) }
    }

    /// The places `around` are to be searched too, but for those that were `before`.
    fn add(&mut self, around: &Around, before: &Around) {
        let before: HashSet<Shard> = before.places.iter().map(|(shard, ..)| *shard).collect();
        for (shard, hour, cells) in around.places.iter().filter(|(shard, ..)| !before.contains(shard)) {
            let source = self.shards.len();
            self.shards.push((*shard, *hour));
            self.walk.add(cells.iter().map(|cell| Probe { source, cell: *cell }));
        }
    }

    /// Until nobody is left who could be nearer than the worst that is wanted.
    async fn run(&mut self) -> Result<(), StoreError> {
        let (index, hours, lacks, query) = (self.index, self.hours, self.lacks, self.met.query);
        let mut around = index.around(hours, query.centre, query.radius_m);
        self.add(&around, &Around::default());
        // Who had left a cell before it was read is in another, perhaps a new one. So where to look is asked behind the
        // reading, beside the looking up; mostly there is nothing new.
        let mut is_confirmed = false;
        loop {
            while let Some(step) = self.next_step() {
                is_confirmed = false;
                self.look(step).await?;
            }
            let growing =
                async { if is_confirmed { Ok(false) } else { index.has_grown(&around, hours, lacks).await } };
            let (has_more, has_grown) = tokio::join!(self.look_up(), growing);
            let (has_more, has_grown) = (has_more?, has_grown?);
            is_confirmed = true;
            if has_grown {
                let more = index.around(hours, query.centre, query.radius_m);
                self.add(&more, &around);
                around = more;
            } else if !has_more {
                return Ok(());
            }
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        let (bound_m, lacking) = self.met.bound_m();
        let wanted = if lacking == 0 { u64::MAX } else { SPARE * lacking as u64 };
        let Self { index, shards, walk, .. } = self;
        walk.next_step(bound_m, wanted, |probe| index.density.of(shards[probe.source].0, probe.cell))
    }

    /// Takes a step of the walk.
    async fn look(&mut self, step: Step) -> Result<(), StoreError> {
        let Self { index, lacks, shards, walk, met, .. } = self;
        let count = step.count.iter().map(|probe| index.count(shards, *probe));
        let read = step.read.iter().map(|probe| index.read(shards, *probe));
        let mut replies = index.replies(count.chain(read).collect(), lacks).await?.into_iter();
        for (probe, reply) in step.count.into_iter().zip(replies.by_ref()) {
            let Some(reply) = reply else { continue };
            let count = reply.count()?;
            index.density.note(shards[probe.source].0, probe.cell, count);
            walk.counted(probe, count);
        }
        for (probe, reply) in step.read.into_iter().zip(replies) {
            let Some(reply) = reply else { continue };
            let (shard, hour) = shards[probe.source];
            // Each with its score.
            let members = reply.list()?;
            let count = members.len() / 2;
            index.density.note(shard, probe.cell, count as u64);
            let is_cut = count >= DRIVERS_PER_READ;
            if is_cut && probe.cell.level() < QuadCell::MAX_LEVEL {
                // There are more than was believed: it is quartered after all.
                walk.counted(probe, count as u64);
                continue;
            }
            let (mut members, mut last) = (members.into_iter(), None);
            while let (Some(member), Some(score)) = (members.next(), members.next()) {
                let (driver, cell) = (driver(member)?, square(score)?);
                last = Some(driver.clone());
                met.at(driver, cell, hour);
            }
            if let Some(last) = last.filter(|_| is_cut) {
                index.read_on(shard, hour, probe.cell, last, met).await?;
            }
        }
        Ok(())
    }

    /// Looks up those who may be in the answer, the nearest first. False if there is nobody left.
    async fn look_up(&mut self) -> Result<bool, StoreError> {
        let drivers = self.met.next();
        let Some(oldest) = drivers.iter().map(|(_, hour)| *hour).max() else { return Ok(false) };
        let drivers: Vec<DriverId> = drivers.into_iter().map(|(driver, _)| driver).collect();
        let sightings = self.index.newest_of(&self.hours[..=oldest], &drivers, self.lacks).await?;
        for (driver, sighting) in drivers.into_iter().zip(sightings) {
            // Whose newest fix cannot be known is left out, and the answer lacks it.
            self.met.found(driver, if let Sighting::At(fix) = sighting { Some(fix) } else { None });
        }
        Ok(true)
    }
}

impl Index {
    fn count(&self, shards: &[(Shard, usize)], probe: Probe) -> Command {
        within(Command::on("ZCOUNT", self.keys.positions(shards[probe.source].0)), probe.cell)
    }

    fn read(&self, shards: &[(Shard, usize)], probe: Probe) -> Command {
        within(Command::on("ZRANGE", self.keys.positions(shards[probe.source].0)), probe.cell)
            .arg("BYSCORE")
            .arg("LIMIT")
            .number(0)
            .number(DRIVERS_PER_READ)
            .arg("WITHSCORES")
    }

    /// Meets the rest of a cell of the finest level, where more drivers stand than one read takes.
    async fn read_on(
        &self,
        shard: Shard,
        hour: usize,
        cell: QuadCell,
        mut last: DriverId,
        met: &mut Met<'_>,
    ) -> Result<(), StoreError> {
        loop {
            let reading = Command::script(&self.crowd, vec![self.keys.positions(shard)]);
            let reading = reading.number(cell.scores().start).arg(id(&last)).number(DRIVERS_PER_READ);
            let page = self.link.ask(reading).await?.list()?;
            let is_cut = page.len() >= DRIVERS_PER_READ;
            let mut next = None;
            for member in page {
                let driver = driver(member)?;
                next = Some(driver.clone());
                met.at(driver, cell, hour);
            }
            let Some(next) = next.filter(|_| is_cut) else { return Ok(()) };
            last = next;
        }
    }
}

impl<'a> Met<'a> {
    fn nobody(query: &'a NearbyQuery) -> Self {
        let nearest = Nearest::new(query.centre, query.radius_m, query.limit);
        let next = query.limit + query.limit / 4 + 1;
        Self { query, unsure: HashMap::new(), looked_up: HashSet::new(), nearest, next }
    }

    /// A driver turned up in `cell`.
    fn at(&mut self, driver: DriverId, cell: QuadCell, hour: usize) {
        if self.looked_up.contains(&driver) {
            return;
        }
        let least_m = cell.min_distance_m(self.query.centre);
        if least_m > self.query.radius_m {
            return;
        }
        let known = self.unsure.entry(driver).or_insert((least_m, hour));
        *known = (known.0.min(least_m), known.1.max(hour));
    }

    /// The newest fix of a driver.
    fn found(&mut self, driver: DriverId, newest: Option<Fix>) {
        self.unsure.remove(&driver);
        self.looked_up.insert(driver.clone());
        let is_in_time = |fix: &Fix| match self.query.when {
            When::Within(window) => fix.ts >= window.since,
            When::During(_) => true,
        };
        let counts = |fix: &Fix| is_in_time(fix) && fix.tags.contains_all(&self.query.tags);
        if let Some(fix) = newest.filter(counts) {
            self.nearest.offer(fix.position, (driver, fix));
        }
    }

    /// How far away, in metres, a driver may be and still matter, if all count who were met; and how many are lacking
    /// until only nearer ones do.
    fn bound_m(&self) -> (f64, usize) {
        let wanted = self.query.limit + 1;
        let mut distances: Vec<f64> = self.nearest.distances_m().collect();
        distances.extend(self.unsure.values().map(|(least_m, _)| *least_m));
        if distances.len() < wanted {
            return (self.query.radius_m, wanted - distances.len());
        }
        let nth_m = *distances.select_nth_unstable_by(wanted - 1, f64::total_cmp).1;
        (nth_m.min(self.nearest.bound_m()), 0)
    }

    /// Who is to be looked up next, the nearest first.
    fn next(&mut self) -> Vec<(DriverId, usize)> {
        let bound_m = self.nearest.bound_m();
        let near = self.unsure.iter().filter(|(_, (least_m, _))| *least_m <= bound_m);
        let mut near: Vec<(f64, &DriverId, usize)> =
            near.map(|(driver, (least_m, hour))| (*least_m, driver, *hour)).collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        near.truncate(self.next);
        self.next = (2 * self.next).min(LOOKED_UP_AT_ONCE);
        near.into_iter().map(|(_, driver, hour)| (driver.clone(), hour)).collect()
    }
}

/// Adds the scores of `cell`, the end excluded.
fn within(command: Command, cell: QuadCell) -> Command {
    let scores = cell.scores();
    command.number(scores.start).arg(format!("({}", scores.end))
}

/// The square that a score stands for.
fn square(score: Reply) -> Result<QuadCell, StoreError> {
    let score = score.decimal()?.and_then(|score| u64::try_from(score).ok());
    score.and_then(QuadCell::of_score).ok_or_else(|| corrupt("a score is no place"))
}
