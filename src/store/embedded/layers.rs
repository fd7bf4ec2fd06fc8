//! Where everybody last was in hours of the past, for those few hours that somebody asks about.
//!
//! A layer is filled from disk and memory while reports go on flowing into it; either way the greater fix stays, so
//! the order does not matter. It answers once it is whole. The least used make room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::model::{Fix, Hour, Timestamp};
use crate::store::whereabouts::Quadtree;

/// As many fixes all layers together may hold; about 100 bytes each. One layer is always kept.
const MAX_FIXES: usize = 500_000;

/// The last fix of every driver in one hour.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) fixes: HashMap<u32, Fix, RandomState>,
    pub(super) places: Quadtree,
    is_whole: bool,
    used: AtomicU64,
}

/// The layers in memory.
#[derive(Debug, Default)]
pub(super) struct Layers {
    by_hour: BTreeMap<Hour, Layer>,
    clock: AtomicU64,
}

impl Layers {
    /// The layer of an hour, if it is whole.
    pub(super) fn get(&self, hour: Hour) -> Option<&Layer> {
        let layer = self.by_hour.get(&hour).filter(|layer| layer.is_whole)?;
        layer.used.store(self.clock.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(layer)
    }

    /// From now on [`Self::offer`] is kept.
    pub(super) fn begin(&mut self, hour: Hour) {
        self.by_hour.entry(hour).or_default();
    }

    /// A fix that may be a driver's last in its hour.
    pub(super) fn offer(&mut self, number: u32, fix: &Fix) {
        let Some(layer) = self.by_hour.get_mut(&fix.ts.hour()) else { return };
        let last = layer.fixes.entry(number).or_insert_with(|| {
            layer.places.insert(number, fix.position);
            fix.clone()
        });
        if fix.supersedes(last) {
            layer.places.moved(number, last.position, fix.position);
            *last = fix.clone();
        }
    }

    /// The layer of an hour holds all there is. Others make room for it.
    pub(super) fn complete(&mut self, hour: Hour) {
        if let Some(layer) = self.by_hour.get_mut(&hour) {
            layer.is_whole = true;
        }
        while self.by_hour.values().map(|layer| layer.fixes.len()).sum::<usize>() > MAX_FIXES {
            let others = self.by_hour.iter().filter(|(other, _)| **other != hour);
            let Some(least) = others.min_by_key(|(_, layer)| layer.used.load(Ordering::Relaxed)) else { break };
            let least = *least.0;
            self.by_hour.remove(&least);
        }
    }

    /// Lets go of all of them; they are filled anew when somebody asks.
    pub(super) fn clear(&mut self) {
        self.by_hour.clear();
    }

    /// Forgets hours that ended before `cutoff`.
    pub(super) fn forget_before(&mut self, cutoff: Timestamp) {
        self.by_hour.retain(|hour, _| hour.end() > cutoff);
    }
}
