//! The walk that finds the nearest without looking at the whole circle: best first over the quadtree.
//!
//! Cells wait in a queue by the least distance anything in them can have. The nearest cell is asked how many it
//! holds; with few it is read, with many it is quartered (more than once if need be), with none dropped. It ends when the
//! nearest cell left is farther than the worst that is wanted. So the work follows the answer's size, not the circle's: ten drivers out of
//! a million cost a handful of counts and one or two small reads.
//!
//! The walk does no I/O: it says which cells to count and to read ([`Step`]), and is told what was counted. Whoever reads
//! keeps what was found, and says how far away something may be and still matter.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{Position, QuadCell};

/// A cell that would hold more than so many leaves if its items were spread evenly is quartered uncounted: of those
/// that are then counted in vain there are never more than a few dozen.
const SKEW: u64 = 4;

/// Room is made for so many at once; of more when they come.
const MOST_AT_ONCE: usize = 64;

/// A cell of one of the sources that are searched together (the hours of a trailing window, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which source, from 0.
    pub source: usize,
    /// Which cell.
    pub cell: QuadCell,
}

/// What to ask next. All of it may be asked at once.
#[derive(Debug, Default)]
pub struct Step {
    /// Ask how many each holds, and tell [`NearestWalk::counted`].
    pub count: Vec<Probe>,
    /// Read what each holds.
    pub read: Vec<Probe>,
}

/// A search for what is nearest to a place, within a radius.
#[derive(Debug)]
pub struct NearestWalk {
    centre: Position,
    radius_m: f64,
    leaf: u64,
    width: usize,
    frontier: BinaryHeap<Reverse<Waiting>>,
}

/// Keeps the `limit` nearest to a place of what it is offered, within a radius. `T` tells items at the same distance
/// apart.
#[derive(Debug)]
pub struct Nearest<T> {
    centre: Position,
    radius_m: f64,
    limit: usize,
    /// One more than wanted, so that [`Nearest::finish`] can tell whether there are more.
    found: BinaryHeap<Found<T>>,
}

#[derive(Debug)]
struct Waiting {
    min_distance_m: f64,
    probe: Probe,
    held: Held,
}

/// How many items a cell holds.
#[derive(Clone, Copy, Debug)]
enum Held {
    Unknown,
    /// So many if those of a larger cell are spread evenly.
    Perhaps(u64),
    Counted(u64),
}

#[derive(Debug)]
struct Found<T> {
    distance_m: f64,
    item: T,
}

impl NearestWalk {
    /// A search of nothing yet. A cell of at most `leaf` items is read rather than quartered; at most `width` cells are asked
    /// at once.
    pub const fn new(centre: Position, radius_m: f64, leaf: u64, width: usize) -> Self {
        Self { centre, radius_m, leaf, width, frontier: BinaryHeap::new() }
    }

    /// What `probes` hold is to be searched too: all of them together have what is in the circle.
    pub fn add(&mut self, probes: impl IntoIterator<Item = Probe>) {
        let waiting = |probe: Probe| {
            let min_distance_m = probe.cell.min_distance_m(self.centre);
            Reverse(Waiting { min_distance_m, probe, held: Held::Unknown })
        };
        self.frontier.extend(probes.into_iter().map(waiting));
    }

    /// What to ask next; `None` if nothing nearer than `bound_m` is left, which may change when the bound does. About
    /// `wanted` items are to be read at once. `known` may say how many a cell holds, about, which spares counting it.
    pub fn next_step(&mut self, bound_m: f64, wanted: u64, known: impl Fn(Probe) -> Option<u64>) -> Option<Step> {
        let mut step = Step::default();
        let mut reading = 0;
        while step.count.len() + step.read.len() < self.width && reading < wanted {
            if self.frontier.peek().is_none_or(|Reverse(next)| next.min_distance_m > bound_m) {
                break;
            }
            let Some(Reverse(next)) = self.frontier.pop() else { break };
            let held = match next.held {
                Held::Counted(count) => Held::Counted(count),
                held => known(next.probe).map_or(held, Held::Counted),
            };
            let is_finest = next.probe.cell.level() >= QuadCell::MAX_LEVEL;
            match held {
                Held::Counted(count) | Held::Perhaps(count) if count <= self.leaf || is_finest => {
                    reading += count;
                    step.read.push(next.probe);
                }
                Held::Counted(count) => self.quarter(next.probe, count),
                Held::Perhaps(count) if count > SKEW * self.leaf => self.quarter(next.probe, count),
                Held::Unknown | Held::Perhaps(_) => step.count.push(next.probe),
            }
        }
        (!step.count.is_empty() || !step.read.is_empty()).then_some(step)
    }

    /// `probe` holds `count` items.
    pub fn counted(&mut self, probe: Probe, count: u64) {
        if count > 0 {
            let min_distance_m = probe.cell.min_distance_m(self.centre);
            self.frontier.push(Reverse(Waiting { min_distance_m, probe, held: Held::Counted(count) }));
        }
    }

    /// A cell that holds about `count`.
    fn quarter(&mut self, probe: Probe, count: u64) {
        for cell in probe.cell.children() {
            let min_distance_m = cell.min_distance_m(self.centre);
            if min_distance_m <= self.radius_m {
                let probe = Probe { cell, ..probe };
                self.frontier.push(Reverse(Waiting { min_distance_m, probe, held: Held::Perhaps(count / 4) }));
            }
        }
    }
}

impl<T: Ord> Nearest<T> {
    /// Nothing yet. The radius is in metres, its edge included.
    pub fn new(centre: Position, radius_m: f64, limit: usize) -> Self {
        Self { centre, radius_m, limit, found: BinaryHeap::with_capacity(limit.min(MOST_AT_ONCE) + 2) }
    }

    /// `item` is at `position`. The caller offers an item once.
    pub fn offer(&mut self, position: Position, item: T) {
        let distance_m = self.centre.distance_m(position);
        if distance_m <= self.radius_m {
            self.found.push(Found { distance_m, item });
            if self.found.len() > self.limit + 1 {
                self.found.pop();
            }
        }
    }

    /// How far away those are that are kept, in metres, in no order.
    pub fn distances_m(&self) -> impl Iterator<Item = f64> {
        self.found.iter().map(|found| found.distance_m)
    }

    /// How far away, in metres, an item may be and still matter.
    pub fn bound_m(&self) -> f64 {
        match self.found.peek() {
            Some(worst) if self.found.len() > self.limit => worst.distance_m,
            _ => self.radius_m,
        }
    }

    /// The nearest first, at most `limit`, each with its distance in metres; and whether there were more.
    pub fn finish(self) -> (Vec<(f64, T)>, bool) {
        let truncated = self.found.len() > self.limit;
        let mut found = self.found.into_sorted_vec();
        found.truncate(self.limit);
        (found.into_iter().map(|found| (found.distance_m, found.item)).collect(), truncated)
    }

    /// How many more it takes until only nearer ones count; 1 from then on.
    pub fn wanted(&self) -> usize {
        self.limit + 1 - self.found.len().min(self.limit)
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.min_distance_m.total_cmp(&other.min_distance_m)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl<T: Ord> Ord for Found<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance_m.total_cmp(&other.distance_m).then_with(|| self.item.cmp(&other.item))
    }
}

impl<T: Ord> PartialOrd for Found<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Found<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Found<T> {}
