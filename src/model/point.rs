//! A point: who, when, where, and what else the phone knew; and which of two points wins.

use std::cmp::Ordering;

use super::{Accuracy, DriverId, Heading, Position, Speed, Tags, Timestamp};

/// One position report, without its driver. Ordered by time; of two at the same millisecond the greater by content
/// wins, so that every instance and every rebuild picks the same one, whatever the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fix {
    /// When, by the phone's clock.
    pub ts: Timestamp,
    /// Where.
    pub position: Position,
    /// How fast, where known.
    pub speed: Option<Speed>,
    /// Which way, where known.
    pub heading: Option<Heading>,
    /// How sure, where known.
    pub accuracy: Option<Accuracy>,
    /// What kind of driver, at that moment.
    pub tags: Tags,
}

/// One accepted position report.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// Who.
    pub driver: DriverId,
    /// When, where, how.
    pub fix: Fix,
}

impl Fix {
    /// Whether this takes the place of `other` as a driver's newest.
    pub fn supersedes(&self, other: &Self) -> bool {
        self > other
    }
}

impl Ord for Fix {
    fn cmp(&self, other: &Self) -> Ordering {
        self.ts
            .cmp(&other.ts)
            .then_with(|| self.position.cmp(&other.position))
            .then_with(|| self.speed.cmp(&other.speed))
            .then_with(|| self.heading.cmp(&other.heading))
            .then_with(|| self.accuracy.cmp(&other.accuracy))
            .then_with(|| self.tags.cmp(&other.tags))
    }
}

impl PartialOrd for Fix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
