//! How many drivers cells of the quadtree held when they were last looked into: where a search may read at once, without
//! counting its way down first. A fleet is spread as it was some minutes ago; where it is not, a read is
//! cut short and the cell is quartered after all. So what is remembered here decides what an answer costs, never what
//! it says.
//!
//! Never here: who is where.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::shard::Shard;
use crate::model::QuadCell;

/// For so long a count is believed.
const BELIEVED: Duration = Duration::from_mins(10);
/// So many are remembered: the leaves of a million drivers.
const MOST: usize = 1 << 18;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Density(Mutex<HashMap<(Shard, QuadCell), (u64, Instant)>>);

impl Density {
    /// How many there were, if that was not long ago.
    pub(super) fn of(&self, shard: Shard, cell: QuadCell) -> Option<u64> {
        let (count, at) = self.0.lock().get(&(shard, cell)).copied()?;
        (at.elapsed() < BELIEVED).then_some(count)
    }

    /// There are so many now.
    pub(super) fn note(&self, shard: Shard, cell: QuadCell, count: u64) {
        let mut counts = self.0.lock();
        if counts.len() >= MOST {
            counts.retain(|_, (_, at)| at.elapsed() < BELIEVED);
            if counts.len() >= MOST {
                counts.clear();
            }
        }
        counts.insert((shard, cell), (count, Instant::now()));
    }
}
