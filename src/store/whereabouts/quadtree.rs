//! Who is where: a tree of quarters of the map, whose leaves hold driver numbers with their places.
//!
//! A leaf that holds too many is quartered, four that hold few become one: so a leaf has a handful wherever drivers
//! are, in a city's centre as in a desert, and what a search costs follows what it finds, not the size of the fleet.
//! Places are kept here too, 12 bytes with the number: most of what lies in a leaf is then passed over without
//! touching anything else of its driver.
//!
//! A search goes from the nearest quarter outwards ([`Quadtree::nearest`]). How near a quarter can be is said in `h`, the
//! haversine of the angle: it grows with the distance, and costs less to compute.
//!
//! Never here: ids, times, tags (the caller's `candidate` decides), I/O.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::model::{EARTH_RADIUS_M, Nearest, Position};
use crate::store::NearbyQuery;

/// A leaf that would hold more is quartered. Fewer make more leaves to visit, more make more places to look at.
const SPLIT_ABOVE: usize = 24;
/// Four leaves that together hold no more become one: far enough below for one that moves to and fro not to matter.
const MERGE_AT: usize = 8;
/// Steps of 1e-7 degrees fit 32 bits: after so many quarterings a leaf is a single place.
const DEEPEST: u32 = 32;

/// What waits in most searches for ten has room in this.
const FRONTIER: usize = 128;

const ROOT: u32 = 0;
/// Carries steps of 1e-7 degrees from signed to unsigned, order kept.
const MIDDLE: u32 = 1 << 31;
const HALF_TURN: i64 = 1_800_000_000;
const FULL_TURN: i64 = 2 * HALF_TURN;

/// Numbers by place.
#[derive(Debug)]
pub(in crate::store) struct Quadtree {
    nodes: Vec<Node>,
    /// The first of four nodes that nothing uses.
    free: Vec<u32>,
}

#[derive(Debug)]
enum Node {
    Leaf(Vec<Entry>),
    /// The first of its four quarters; south-west, south-east, north-west, north-east.
    Quartered(u32),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u32,
    at: Spot,
}

/// A place in unsigned steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    y: u32,
    x: u32,
}

impl From<Position> for Spot {
    fn from(position: Position) -> Self {
        Self { y: position.lat_e7() as u32 ^ MIDDLE, x: position.lon_e7() as u32 ^ MIDDLE }
    }
}

impl Spot {
    fn position(self) -> Position {
        let steps = |unsigned: u32| (unsigned ^ MIDDLE) as i32;
        Position::from_e7(steps(self.y), steps(self.x)).expect("it came from a position")
    }

    /// In which quarter of a square of `depth` it lies.
    const fn quarter(self, depth: u32) -> u32 {
        let bit = DEEPEST - 1 - depth;
        (self.y >> bit & 1) << 1 | self.x >> bit & 1
    }

    /// Whether both lie in the same square of `depth`.
    const fn shares(self, other: Self, depth: u32) -> bool {
        depth == 0 || (self.y ^ other.y | self.x ^ other.x) >> (DEEPEST - depth) == 0
    }
}

impl Default for Quadtree {
    fn default() -> Self {
        Self { nodes: vec![Node::Leaf(Vec::new())], free: Vec::new() }
    }
}

impl Quadtree {
    pub(in crate::store) fn insert(&mut self, number: u32, at: Position) {
        let at = Spot::from(at);
        let (mut node, mut depth) = self.leaf(at);
        loop {
            let entries = self.entries(node);
            if entries.len() < SPLIT_ABOVE || depth == DEEPEST {
                if entries.len() == entries.capacity() {
                    // By doubling, most of the room would never be used.
                    entries.reserve_exact(4);
                }
                entries.push(Entry { number, at });
                return;
            }
            let first = self.split(node, depth);
            node = first + at.quarter(depth);
            depth += 1;
        }
    }

    pub(in crate::store) fn remove(&mut self, number: u32, at: Position) {
        let at = Spot::from(at);
        let (mut node, mut depth) = (ROOT, 0);
        let mut way = [ROOT; DEEPEST as usize];
        while let Node::Quartered(first) = self.nodes[node as usize] {
            way[depth as usize] = node;
            node = first + at.quarter(depth);
            depth += 1;
        }
        let entries = self.entries(node);
        if let Some(place) = entries.iter().position(|entry| entry.number == number) {
            entries.swap_remove(place);
        }
        for parent in way[..depth as usize].iter().rev() {
            if !self.merge(*parent) {
                break;
            }
        }
    }

    pub(in crate::store) fn moved(&mut self, number: u32, from: Position, to: Position) {
        let (old, new) = (Spot::from(from), Spot::from(to));
        let (leaf, depth) = self.leaf(old);
        if !old.shares(new, depth) {
            self.remove(number, from);
            self.insert(number, to);
        } else if let Some(entry) = self.entries(leaf).iter_mut().find(|entry| entry.number == number) {
            entry.at = new;
        }
    }

    /// The nearest of what `candidate` does not reject, nearest first, and whether there were more than the limit.
    /// `T` decides between candidates at the same distance.
    pub(in crate::store) fn nearest<T: Ord>(
        &self,
        query: &NearbyQuery,
        mut candidate: impl FnMut(u32) -> Option<T>,
    ) -> (Vec<(f64, T)>, bool) {
        let eye = Eye::new(query.centre, query.radius_m);
        let mut nearest = Nearest::new(query.centre, query.radius_m, query.limit);
        let mut bound = h_within(nearest.bound_m());
        let mut frontier = BinaryHeap::with_capacity(FRONTIER);
        let (node, square) = self.first_fork();
        frontier.push(Waiting { h: 0.0, what: What::Node(node, square) });
        while let Some(Waiting { h, what }) = frontier.pop() {
            if h > bound {
                break;
            }
            match what {
                What::Node(node, square) => match &self.nodes[node as usize] {
                    Node::Quartered(first) => {
                        let quarters = square.quarters().zip(eye.h_to_quarters(square));
                        for (node, (square, h)) in (*first..).zip(quarters) {
                            if h <= bound && !self.is_empty(node) {
                                frontier.push(Waiting { h, what: What::Node(node, square) });
                            }
                        }
                    }
                    Node::Leaf(entries) => {
                        for entry in entries {
                            let h = eye.h_to(entry.at);
                            if h <= bound {
                                frontier.push(Waiting { h, what: What::Entry(*entry) });
                            }
                        }
                    }
                },
                What::Entry(entry) => {
                    if let Some(item) = candidate(entry.number) {
                        nearest.offer(entry.at.position(), item);
                        bound = h_within(nearest.bound_m());
                    }
                }
            }
        }
        nearest.finish()
    }

    /// Where the ways to everything part.
    fn first_fork(&self) -> (u32, Square) {
        let (mut node, mut square) = (ROOT, Square::WORLD);
        while let Node::Quartered(first) = self.nodes[node as usize] {
            let mut taken = (first..).zip(square.quarters()).filter(|(quarter, _)| !self.is_empty(*quarter));
            match (taken.next(), taken.next()) {
                (Some(only), None) => (node, square) = only,
                _ => break,
            }
        }
        (node, square)
    }

    /// The leaf around a place, and its depth.
    fn leaf(&self, at: Spot) -> (u32, u32) {
        let (mut node, mut depth) = (ROOT, 0);
        while let Node::Quartered(first) = self.nodes[node as usize] {
            node = first + at.quarter(depth);
            depth += 1;
        }
        (node, depth)
    }

    fn entries(&mut self, leaf: u32) -> &mut Vec<Entry> {
        match &mut self.nodes[leaf as usize] {
            Node::Leaf(entries) => entries,
            Node::Quartered(_) => unreachable!("every way down ends in a leaf"),
        }
    }

    fn is_empty(&self, node: u32) -> bool {
        matches!(&self.nodes[node as usize], Node::Leaf(entries) if entries.is_empty())
    }

    /// Quarters a leaf; the first of its quarters.
    fn split(&mut self, leaf: u32, depth: u32) -> u32 {
        let first = self.free.pop().unwrap_or_else(|| {
            let first = self.nodes.len() as u32;
            self.nodes.resize_with(self.nodes.len() + 4, || Node::Leaf(Vec::new()));
            first
        });
        let Node::Leaf(entries) = std::mem::replace(&mut self.nodes[leaf as usize], Node::Quartered(first)) else {
            unreachable!("only leaves are quartered")
        };
        let mut quarters: [Vec<Entry>; 4] = Default::default();
        for entry in entries {
            quarters[entry.at.quarter(depth) as usize].push(entry);
        }
        for (node, mut quarter) in (first as usize..).zip(quarters) {
            quarter.shrink_to_fit();
            self.nodes[node] = Node::Leaf(quarter);
        }
        first
    }

    /// Makes one leaf of four quarters that hold little; whether it did.
    fn merge(&mut self, parent: u32) -> bool {
        let Node::Quartered(first) = self.nodes[parent as usize] else { return false };
        let quarters = &mut self.nodes[first as usize..first as usize + 4];
        let mut together = 0;
        for quarter in &*quarters {
            match quarter {
                Node::Leaf(entries) => together += entries.len(),
                Node::Quartered(_) => return false,
            }
        }
        if together > MERGE_AT {
            return false;
        }
        let mut all = Vec::with_capacity(together);
        for quarter in quarters {
            if let Node::Leaf(entries) = std::mem::replace(quarter, Node::Leaf(Vec::new())) {
                all.extend(entries);
            }
        }
        self.nodes[parent as usize] = Node::Leaf(all);
        self.free.push(first);
        true
    }
}

/// A square of the map: its south-west corner and how often it was quartered.
#[derive(Clone, Copy, Debug)]
struct Square {
    corner: Spot,
    depth: u32,
}

impl Square {
    const WORLD: Self = Self { corner: Spot { y: 0, x: 0 }, depth: 0 };

    fn quarters(self) -> impl Iterator<Item = Self> {
        let half = 1 << (DEEPEST - 1 - self.depth);
        (0..4).map(move |quarter| {
            let (north, east) = (half * (quarter >> 1), half * (quarter & 1));
            Self { corner: Spot { y: self.corner.y + north, x: self.corner.x + east }, depth: self.depth + 1 }
        })
    }
}

/// The last step of a square of `depth` that begins at `first`.
const fn last(first: u32, depth: u32) -> u32 {
    first + (u32::MAX as u64 >> depth) as u32
}

/// Where a search looks from.
struct Eye {
    lat: i64,
    lon: i64,
    /// The cosine of its latitude, times no more than that of any within the radius.
    cos_cos: f64,
}

impl Eye {
    fn new(centre: Position, radius_m: f64) -> Self {
        let lat = centre.lat().to_radians();
        let farthest = (lat.abs() + radius_m / EARTH_RADIUS_M * (1.0 + 1e-9)).min(std::f64::consts::FRAC_PI_2);
        let cos_cos = lat.cos() * farthest.cos();
        Self { lat: centre.lat_e7().into(), lon: centre.lon_e7().into(), cos_cos }
    }

    /// No more than the haversine to anything in each quarter of `square`, if it is within the radius: each of the terms of
    /// hav(d) = hav(dlat) + cos cos hav(dlon) is the least it can be there.
    fn h_to_quarters(&self, square: Square) -> [f64; 4] {
        let depth = square.depth + 1;
        let half = 1 << (DEEPEST - depth);
        let span = |first: u32| (steps(first), steps(last(first, depth)));
        let [south, north] = [0, half].map(|up| self.h_lat_to(span(square.corner.y + up)));
        let [west, east] = [0, half].map(|right| self.h_lon_to(span(square.corner.x + right)));
        [south + west, south + east, north + west, north + east]
    }

    fn h_lat_to(&self, (south, north): (i64, i64)) -> f64 {
        self.h((south - self.lat).max(self.lat - north).max(0), 0)
    }

    fn h_lon_to(&self, (west, east): (i64, i64)) -> f64 {
        // Squares reach beyond the map; what is in them does not.
        let (west, east) = (west.max(-HALF_TURN), east.min(HALF_TURN - 1));
        if (west..=east).contains(&self.lon) {
            0.0
        } else {
            self.h(0, around(west - self.lon).min(around(self.lon - east)))
        }
    }

    /// No more than the haversine to a place, if that is within the radius.
    fn h_to(&self, at: Spot) -> f64 {
        let dlon = (steps(at.x) - self.lon).abs();
        self.h(steps(at.y) - self.lat, dlon.min(FULL_TURN - dlon))
    }

    /// Of differences within half a turn.
    fn h(&self, dlat: i64, dlon: i64) -> f64 {
        let (a, b) = (least_half_sin(dlat), least_half_sin(dlon));
        a * a + self.cos_cos * b * b
    }
}

/// No farther from 0 than the sine of half of an angle within half a turn: the series cut off behind its second term, which
/// for a few kilometres is all a float holds of it.
fn least_half_sin(steps: i64) -> f64 {
    const HALF_STEP: f64 = 1e-7 * std::f64::consts::PI / 360.0;
    let half = steps as f64 * HALF_STEP;
    half - half * half * half * (1.0 / 6.0)
}

/// The way eastwards, of a difference of two longitudes.
const fn around(difference: i64) -> i64 {
    if difference < 0 { difference + FULL_TURN } else { difference }
}

/// Signed steps of 1e-7 degrees.
const fn steps(unsigned: u32) -> i64 {
    unsigned as i64 - MIDDLE as i64
}

/// The haversine of what lies within so many metres, and a hair more: the exact distance decides, where it is near.
fn h_within(metres: f64) -> f64 {
    let half_angle = (metres / (2.0 * EARTH_RADIUS_M)).min(std::f64::consts::FRAC_PI_2);
    half_angle.sin().powi(2).mul_add(1.0 + 1e-9, 1e-20)
}

/// Something that may be, or hold what is, so near; the nearest is the greatest. Entries wait too, so that hardly any
/// driver is looked at, and no exact distance computed, but for those that are found.
struct Waiting {
    h: f64,
    what: What,
}

enum What {
    Node(u32, Square),
    Entry(Entry),
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.h.total_cmp(&self.h)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;
    use crate::store::{When, Window};

    /// Corners where a search goes wrong most easily, few enough places apart for leaves to fill and empty.
    fn any_place() -> impl Strategy<Value = Position> {
        let near = |lat: i64, lon: i64, reach: i64| {
            (-reach..=reach, -reach..=reach).prop_map(move |(dlat, dlon)| {
                let lat = (lat + dlat).clamp(-850_511_287, 850_511_287) as i32;
                let lon = (lon + dlon + HALF_TURN).rem_euclid(FULL_TURN) - HALF_TURN;
                Position::from_e7(lat, lon as i32).expect("in range")
            })
        };
        prop_oneof![
            4 => near(437_384_000, 74_246_000, 300_000),
            2 => near(437_384_000, 74_246_000, 20),
            2 => near(0, HALF_TURN - 1, 3_000_000),
            1 => near(850_000_000, -HALF_TURN, 9_000_000),
            1 => near(-850_000_000, 0, 9_000_000),
            1 => near(0, 0, HALF_TURN),
        ]
    }

    fn query(centre: Position, radius_m: f64, limit: usize) -> NearbyQuery {
        let when = When::Within(Window { since: Timestamp::from_ms(0), until: Timestamp::from_ms(0) });
        NearbyQuery { centre, radius_m, limit, when, tags: Vec::new() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn finds_what_a_scan_finds_whoever_came_moved_and_left(
            moves in prop::collection::vec((0..120_u32, prop::option::weighted(0.8, any_place())), 0..600),
            asked in prop::collection::vec(
                (any_place(), prop_oneof![0.0..100_000.0_f64, Just(0.0), Just(100_000.0)],
                 prop_oneof![1..20_usize, Just(1_000)]), 1..8),
        ) {
            let mut tree = Quadtree::default();
            let mut fleet: BTreeMap<u32, Position> = BTreeMap::new();
            for (number, to) in moves {
                match (fleet.get(&number).copied(), to) {
                    (None, Some(to)) => tree.insert(number, to),
                    (Some(from), Some(to)) => tree.moved(number, from, to),
                    (Some(from), None) => tree.remove(number, from),
                    (None, None) => {}
                }
                match to {
                    Some(to) => fleet.insert(number, to),
                    None => fleet.remove(&number),
                };
            }
            for (centre, radius_m, limit) in asked {
                let mut all: Vec<(f64, u32)> = fleet
                    .iter()
                    .filter(|(number, _)| *number % 3 != 0)
                    .map(|(number, at)| (centre.distance_m(*at), *number))
                    .filter(|(distance_m, _)| *distance_m <= radius_m)
                    .collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                let is_truncated = all.len() > limit;
                all.truncate(limit);
                let found = tree.nearest(&query(centre, radius_m, limit), |number| (number % 3 != 0).then_some(number));
                prop_assert_eq!(found, (all, is_truncated));
            }
            for (number, at) in fleet {
                tree.remove(number, at);
            }
            prop_assert!(tree.is_empty(ROOT), "an empty tree is one leaf again");
            prop_assert_eq!(tree.free.len() * 4 + 1, tree.nodes.len(), "every quarter can be used again");
        }
    }
}
