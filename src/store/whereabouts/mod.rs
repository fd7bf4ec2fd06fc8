//! Who is where now: the newest fix of every driver, in the memory of this process. The embedded store answers from it,
//! and so does the mirror of one in Redis.
//!
//! `fleet` numbers the drivers and knows the newest fix of each, `roster` keeps their order; `quadtree` finds the nearest.
//!
//! Never here: locks, history, where a fix comes from.

mod fleet;
mod quadtree;
mod roster;

use std::cmp::Ordering;
use std::ops::Range;

pub(super) use self::fleet::Fleet;
pub(super) use self::quadtree::Quadtree;

use self::fleet::Change;
use super::{Located, Near, NearbyQuery, Page, Window};
use crate::model::{DriverId, Fix, Timestamp};

/// All drivers and their places.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    pub(super) fleet: Fleet,
    places: Quadtree,
}

impl Whereabouts {
    /// Takes a report in: of two fixes the newer stays. The driver's number.
    pub(super) fn report(&mut self, driver: &DriverId, fix: &Fix) -> u32 {
        let (number, change) = self.fleet.report(driver, fix);
        match change {
            Change::Joined => self.places.insert(number, fix.position),
            Change::MovedFrom(from) => self.places.moved(number, from, fix.position),
            Change::Nothing => {}
        }
        number
    }

    /// Puts a driver at a number that is known to be free; false if it is not, or the id is taken.
    pub(super) fn restore(&mut self, number: u32, id: DriverId, newest: Fix) -> bool {
        let position = newest.position;
        let is_free = self.fleet.restore(number, id, newest);
        if is_free {
            self.places.insert(number, position);
        }
        is_free
    }

    /// Forgets a driver, and keeps its number from others until that is given to [`Fleet::free`].
    pub(super) fn vacate(&mut self, number: u32) {
        if let Some(position) = self.fleet.vacate(number) {
            self.places.remove(number, position);
        }
    }

    /// Forgets those drivers among `numbers` whose newest fix is of an hour that ended before `cutoff`.
    pub(super) fn forget_before(&mut self, cutoff: Timestamp, numbers: Range<u32>) {
        for number in numbers {
            let is_gone = self.fleet.get(number).is_some_and(|driver| driver.newest.ts.hour().end() <= cutoff);
            if is_gone && let Some(position) = self.fleet.remove(number) {
                self.places.remove(number, position);
            }
        }
    }

    /// Who is near, the nearest first, with the newest fix in the window; and whether there were more than the limit.
    pub(super) fn nearby(&self, query: &NearbyQuery, window: Window) -> (Vec<Near>, bool) {
        near(self.places.nearest(query, |number| {
            let driver = self.fleet.get(number)?;
            window.has(&driver.newest).then(|| Candidate::of(query, &driver.id, &driver.newest))?
        }))
    }

    /// The drivers among the next `limit` after `after` in the order of ids whose newest fix lies in the window.
    pub(super) fn active(&self, window: Window, after: Option<&DriverId>, limit: usize) -> Page<Located> {
        let (mut items, mut last) = (Vec::new(), None);
        let mut drivers = self.fleet.after(after);
        for (id, number) in drivers.by_ref().take(limit) {
            last = Some(id);
            let newest = self.fleet.get(number).map(|driver| &driver.newest);
            if let Some(fix) = newest.filter(|fix| window.has(fix)) {
                items.push(Located { driver: id.clone(), fix: fix.clone() });
            }
        }
        let next = drivers.next().and(last.cloned());
        Page { items, next }
    }

    /// How many among `numbers` have their newest fix in the window.
    pub(super) fn active_count(&self, window: Window, numbers: Range<u32>) -> u64 {
        let drivers = numbers.filter_map(|number| self.fleet.get(number));
        drivers.filter(|driver| window.has(&driver.newest)).count() as u64
    }
}

/// A driver that may be among the nearest. At the same distance the id decides.
pub(super) struct Candidate<'a> {
    driver: &'a DriverId,
    fix: &'a Fix,
}

impl<'a> Candidate<'a> {
    /// `None` if the fix has not all that is asked for.
    pub(super) fn of(query: &NearbyQuery, driver: &'a DriverId, fix: &'a Fix) -> Option<Self> {
        fix.tags.contains_all(&query.tags).then_some(Self { driver, fix })
    }
}

/// Those who were found, as an answer has them.
pub(super) fn near((found, is_truncated): (Vec<(f64, Candidate<'_>)>, bool)) -> (Vec<Near>, bool) {
    let near = |(distance_m, Candidate { driver, fix }): (f64, Candidate<'_>)| Near {
        located: Located { driver: driver.clone(), fix: fix.clone() },
        distance_m,
    };
    (found.into_iter().map(near).collect(), is_truncated)
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.driver.cmp(other.driver)
    }
}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.driver == other.driver
    }
}

impl Eq for Candidate<'_> {}
