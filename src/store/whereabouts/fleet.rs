//! Every driver with anything in the retention: its number, its id, its newest fix.
//!
//! Everything else of the store knows drivers by number, 4 bytes, handed out from 0 and used again once a driver is
//! forgotten. Ids are also kept in order, because that is the order every listing pages in.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::roster::Roster;
use crate::model::{DriverId, Fix, Position, Timestamp};

/// One driver.
#[derive(Debug)]
pub(in crate::store) struct Driver {
    pub(in crate::store) id: DriverId,
    pub(in crate::store) newest: Fix,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change {
    /// The driver is new.
    Joined,
    /// Its newest fix was elsewhere until now.
    MovedFrom(Position),
    /// The report is not its newest.
    Nothing,
}

/// All drivers.
#[derive(Debug, Default)]
pub(in crate::store) struct Fleet {
    slots: Vec<Option<Driver>>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    in_order: Roster,
    hasher: RandomState,
    newest_ts: Option<Timestamp>,
}

impl Fleet {
    pub(in crate::store) fn number(&self, id: &DriverId) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        self.by_id.find(hash, |number| self.get(*number).is_some_and(|driver| driver.id == *id)).copied()
    }

    pub(in crate::store) fn get(&self, number: u32) -> Option<&Driver> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// Takes a report in. Of two fixes the newer stays, whatever the order they come in.
    pub(in crate::store) fn report(&mut self, id: &DriverId, fix: &Fix) -> (u32, Change) {
        self.newest_ts = self.newest_ts.max(Some(fix.ts));
        if let Some(number) = self.number(id) {
            let slot = self.slots[number as usize].as_mut();
            let driver = slot.expect("the table names only taken slots");
            if !fix.supersedes(&driver.newest) {
                return (number, Change::Nothing);
            }
            let from = driver.newest.position;
            driver.newest = fix.clone();
            return (number, Change::MovedFrom(from));
        }
        let number = self.free.pop().unwrap_or(self.slots.len() as u32);
        self.put(number, id.clone(), fix.clone());
        (number, Change::Joined)
    }

    /// Puts a driver at a number that is known to be free; false if it is not, or the id is taken.
    pub(in crate::store) fn restore(&mut self, number: u32, id: DriverId, newest: Fix) -> bool {
        let is_free = self.get(number).is_none() && self.number(&id).is_none();
        if is_free {
            self.newest_ts = self.newest_ts.max(Some(newest.ts));
            self.put(number, id, newest);
        }
        is_free
    }

    /// After the last [`Self::restore`]: every number that was left out is free.
    pub(in crate::store) fn restored(&mut self) {
        self.free = (0..self.slots.len() as u32).rev().filter(|number| self.get(*number).is_none()).collect();
    }

    fn put(&mut self, number: u32, id: DriverId, newest: Fix) {
        let index = number as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        let hash = self.hasher.hash_one(&id);
        let Self { slots, by_id, in_order, hasher, .. } = self;
        in_order.insert(number, &id, |number| id_in(slots, number));
        slots[index] = Some(Driver { id, newest });
        by_id.insert_unique(hash, number, |number| hasher.hash_one(id_in(slots, *number)));
    }

    /// Forgets the driver of a number, and frees it. Says where it last was.
    pub(in crate::store) fn remove(&mut self, number: u32) -> Option<Position> {
        let position = self.vacate(number)?;
        self.free.push(number);
        Some(position)
    }

    /// Forgets the driver of a number, and keeps that from others until it is given to [`Self::free`].
    pub(in crate::store) fn vacate(&mut self, number: u32) -> Option<Position> {
        let Self { slots, by_id, in_order, hasher, .. } = self;
        let id = &slots.get(number as usize)?.as_ref()?.id;
        in_order.remove(number, id, |number| id_in(slots, number));
        if let Ok(entry) = by_id.find_entry(hasher.hash_one(id), |other| *other == number) {
            entry.remove();
        }
        let driver = slots[number as usize].take()?;
        if self.in_order.is_empty() {
            self.newest_ts = None;
        }
        Some(driver.newest.position)
    }

    /// Gives a vacated number back.
    pub(in crate::store) fn free(&mut self, number: u32) {
        self.free.push(number);
    }

    /// One more than the highest number that was ever taken.
    pub(in crate::store) fn numbers(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Drivers after `after` in the order of ids.
    pub(in crate::store) fn after(
        &self,
        after: Option<&DriverId>,
    ) -> impl Iterator<Item = (&DriverId, u32)> + use<'_> {
        let id_of = |number| id_in(&self.slots, number);
        self.in_order.after(after, id_of).map(move |number| (id_of(number), number))
    }

    /// After somebody left who was not the one longest silent.
    pub(in crate::store) fn find_newest_ts(&mut self) {
        self.newest_ts = self.slots.iter().flatten().map(|driver| driver.newest.ts).max();
    }

    /// The `ts` of the newest fix of all. It stays the newest until everybody is forgotten, for drivers leave in the
    /// order of their newest fixes; but for those who are erased.
    pub(in crate::store) fn newest_ts(&self) -> Option<Timestamp> {
        self.newest_ts
    }
}

/// The id of a number that is known to be taken.
fn id_in(slots: &[Option<Driver>], number: u32) -> &DriverId {
    &slots[number as usize].as_ref().expect("tables name only taken slots").id
}
