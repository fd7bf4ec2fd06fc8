//! Who is where: driver numbers in the order of the quadtree cells they are in.
//!
//! One ordered set of (cell of level 16, number) is the whole index: a coarser cell is a range of it, and counting
//! stops as soon as there are more than a walk wants to read. So a driver that stays in its cell (600 m by 300 m at
//! the equator) costs nothing, one that leaves costs a removal and an insertion, and no counts need upkeep. It takes
//! about 12 bytes a driver, however far apart they are.
//!
//! Never here: the positions themselves; the caller holds them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::model::{NearestWalk, Position, QuadCell};
use crate::store::NearbyQuery;

/// 32 bits name a cell of this level, so that it and a number fit one word.
const LEVEL: u8 = 16;
const BELOW_LEVEL_BITS: u32 = 2 * (QuadCell::MAX_LEVEL - LEVEL) as u32;

/// A cell with at most this many is read rather than quartered.
const LEAF: u64 = 32;

/// Driver numbers by cell.
#[derive(Debug, Default)]
pub(super) struct Cells(BTreeSet<u64>);

impl Cells {
    pub(super) fn insert(&mut self, number: u32, at: Position) {
        self.0.insert(key(number, at));
    }

    pub(super) fn remove(&mut self, number: u32, at: Position) {
        self.0.remove(&key(number, at));
    }

    pub(super) fn moved(&mut self, number: u32, from: Position, to: Position) {
        let (from, to) = (key(number, from), key(number, to));
        if from != to {
            self.0.remove(&from);
            self.0.insert(to);
        }
    }

    /// The nearest of what `candidate` does not reject, nearest first, and whether there were more than the limit.
    /// `T` decides between candidates at the same distance.
    pub(super) fn nearest<T: Ord>(
        &self,
        query: &NearbyQuery,
        candidate: impl Fn(u32) -> Option<(Position, T)>,
    ) -> (Vec<(f64, T)>, bool) {
        let mut walk =
            NearestWalk::new(query.centre, query.radius_m, query.limit, 1, LEAF, 1).quartering_down_to(LEVEL);
        while let Some(step) = walk.next_step() {
            for probe in step.count {
                let count = self.0.range(keys(probe.cell)).take(LEAF as usize + 1).count();
                walk.counted(probe, count as u64);
            }
            for probe in step.read {
                for key in self.0.range(keys(probe.cell)) {
                    if let Some((position, item)) = candidate(*key as u32)
                        && (probe.cell.level() <= LEVEL || is_in(probe.cell, position))
                    {
                        walk.offer(position, item);
                    }
                }
            }
        }
        walk.finish()
    }
}

fn is_in(cell: QuadCell, position: Position) -> bool {
    QuadCell::containing(position, cell.level()) == cell
}

fn key(number: u32, at: Position) -> u64 {
    let cell = QuadCell::containing(at, LEVEL).scores().start >> BELOW_LEVEL_BITS;
    cell << 32 | u64::from(number)
}

/// The keys in `cell`; of a finer cell than are kept, those in the kept cell around it.
fn keys(cell: QuadCell) -> RangeInclusive<u64> {
    let scores = cell.scores();
    let first = scores.start >> BELOW_LEVEL_BITS;
    let last = (scores.end - 1) >> BELOW_LEVEL_BITS;
    first << 32..=(last << 32 | u64::from(u32::MAX))
}
