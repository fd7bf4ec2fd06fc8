//! What the store has in memory, all behind one lock that is held for a slice at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layers::Layers;
use super::memtable::Memtable;
use super::number_set::NumberSet;
use super::run::Run;
use crate::model::{Fix, Hour, Offset, Point, Timestamp};
use crate::store::whereabouts::Whereabouts;

/// Everything in memory.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) whereabouts: Whereabouts,
    pub(super) layers: Layers,
    pub(super) hours: BTreeMap<Hour, HourIndex>,
    /// What arrives now.
    pub(super) active: Memtable,
    /// What is being written to disk.
    pub(super) frozen: Option<Frozen>,
    /// How often a frozen memtable turned into runs.
    pub(super) writes: u64,
    /// Everything before this was applied.
    pub(super) applied: Offset,
}

/// What there is of one hour.
#[derive(Debug, Default)]
pub(super) struct HourIndex {
    /// Who reported.
    pub(super) present: NumberSet,
    /// What of it is on disk.
    pub(super) runs: Vec<Arc<Run>>,
}

/// A memtable that takes nothing in any more.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    pub(super) table: Arc<Memtable>,
    /// Everything before this is in it, or on disk already.
    pub(super) checkpoint: Offset,
}

impl State {
    /// Takes points in, but for those of hours that are out of the retention.
    pub(super) fn apply(&mut self, points: &[Point], forget_before: Timestamp) {
        for Point { driver, fix } in points {
            let hour = fix.ts.hour();
            if hour.end() <= forget_before {
                continue;
            }
            let number = self.whereabouts.report(driver, fix);
            self.hours.entry(hour).or_default().present.insert(number);
            self.layers.offer(number, fix);
            self.active.push(number, fix);
        }
    }

    /// Sets the active memtable aside, unless another still waits for the disk.
    pub(super) fn freeze(&mut self) {
        if self.frozen.is_none() {
            let table = Arc::new(std::mem::take(&mut self.active));
            self.frozen = Some(Frozen { table, checkpoint: self.applied });
        }
    }

    /// The last fix of a driver in an hour, as far as memory knows.
    pub(super) fn last_in_memory(&self, hour: Hour, number: u32) -> Option<Fix> {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.table.last(hour, number));
        frozen.max(self.active.last(hour, number))
    }

    /// The fixes of a driver in an hour that are in memory, in no order.
    pub(super) fn fixes_in_memory(&self, hour: Hour, number: u32) -> Vec<Fix> {
        let mut fixes = self.active.fixes(hour, number);
        if let Some(frozen) = &self.frozen {
            fixes.append(&mut frozen.table.fixes(hour, number));
        }
        fixes
    }

    /// Forgets hours that ended before `cutoff`. The drivers stay.
    pub(super) fn forget_hours(&mut self, cutoff: Timestamp) {
        self.hours.retain(|hour, _| hour.end() > cutoff);
        self.layers.forget_before(cutoff);
        self.active.forget_before(cutoff);
        if let Some(frozen) = &mut self.frozen {
            // Whoever writes it out shares it, but never while hours are forgotten.
            let table = Arc::get_mut(&mut frozen.table).expect("one upkeep at a time");
            table.forget_before(cutoff);
        }
    }
}
