//! What is left of a batch once everything is taken from it that Redis need not see: of each driver in each hour one
//! chunk of a track, and its newest fix.
//!
//! Never here: which shard a driver is in, what Redis already has.

use crate::model::{DriverId, Fix, Hour, Point, Timestamp};
use crate::store::track_codec;

/// One driver's part of a batch in one hour.
#[derive(Debug)]
pub struct Folded<'a> {
    /// The hour.
    pub hour: Hour,
    /// The driver.
    pub driver: &'a DriverId,
    /// Oldest first, each millisecond once; never empty.
    fixes: Vec<Fix>,
}

/// The points that count, by hours, and of an hour by drivers. Of points at the same millisecond the greatest is kept;
/// hours that ended before `forget_before` are left out.
pub fn fold(points: &[Point], forget_before: Timestamp) -> Vec<Folded<'_>> {
    let mut points: Vec<(Hour, &Point)> = points
        .iter()
        .map(|point| (point.fix.ts.hour(), point))
        .filter(|(hour, _)| hour.end() >= forget_before)
        .collect();
    points.sort_unstable_by(|(at, a), (bt, b)| {
        at.cmp(bt).then_with(|| a.driver.cmp(&b.driver)).then_with(|| a.fix.cmp(&b.fix))
    });
    let by_driver = points.chunk_by(|(at, a), (bt, b)| at == bt && a.driver == b.driver);
    by_driver
        .map(|points| {
            let by_ms = points.chunk_by(|(_, a), (_, b)| a.fix.ts == b.fix.ts);
            let fixes = by_ms.map(|same| same[same.len() - 1].1.fix.clone()).collect();
            Folded { hour: points[0].0, driver: &points[0].1.driver, fixes }
        })
        .collect()
}

impl Folded<'_> {
    /// The one that may become the driver's last of the hour.
    pub fn newest(&self) -> &Fix {
        self.fixes.last().expect("a driver is folded for the sake of a fix")
    }

    /// Its fixes, oldest first, each millisecond once.
    pub fn fixes(&self) -> &[Fix] {
        &self.fixes
    }

    /// Its fixes as one chunk of a track.
    pub fn chunk(&self) -> Vec<u8> {
        let mut chunk = Vec::new();
        track_codec::encode_chunk(self.hour, &self.fixes, &mut chunk);
        chunk
    }
}
