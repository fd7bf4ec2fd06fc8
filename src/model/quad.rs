//! The quadtree that Redis' geohash scores walk in: 26 halvings of the longitude, 26 of the latitude, interleaved
//! into 52 bits. A cell of it is one contiguous range of scores, so the same cell serves a sorted set in Redis and a
//! map in memory. Cells nest exactly, which H3's do not; H3 is for what people look at (density).
//!
//! Bit layout and ranges: Redis, `src/geohash.h` and `geohashEncode`.

use super::{EARTH_RADIUS_M, MAX_LAT, Position};

/// A square of the quadtree. Level 0 is the whole map, level 26 about 0.6 m by 0.3 m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuadCell {
    level: u8,
    bits: u64,
}

impl QuadCell {
    /// The whole map.
    pub const WORLD: Self = Self { level: 0, bits: 0 };
    /// The finest level: a cell is one score.
    pub const MAX_LEVEL: u8 = 26;

    /// The cell of `level` (0 to 26) that `position` lies in.
    pub fn containing(position: Position, level: u8) -> Self {
        debug_assert!(level <= Self::MAX_LEVEL);
        Self { level, bits: score(position) >> Self::shift(level) }
    }

    /// The cell of the finest level that a score stands for; `None` if it is none.
    pub const fn of_score(score: u64) -> Option<Self> {
        if score >> (2 * Self::MAX_LEVEL) == 0 { Some(Self { level: Self::MAX_LEVEL, bits: score }) } else { None }
    }

    /// 0 to 26.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The first score in it, and the first beyond it. A cell of the finest level is the score itself.
    pub const fn scores(self) -> std::ops::Range<u64> {
        let shift = Self::shift(self.level);
        self.bits << shift..(self.bits + 1) << shift
    }

    /// Its four quarters; none at the finest level.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let quarters = if self.level < Self::MAX_LEVEL { 4 } else { 0 };
        (0..quarters).map(move |quarter| Self { level: self.level + 1, bits: self.bits << 2 | quarter })
    }

    /// At most 8 or so cells that together hold the whole circle.
    pub fn covering(centre: Position, radius_m: f64) -> Vec<Self> {
        const FEW: usize = 8;
        let mut cells = vec![Self::WORLD];
        loop {
            let finer: Vec<Self> = cells
                .iter()
                .flat_map(|cell| cell.children())
                .filter(|cell| cell.min_distance_m(centre) <= radius_m)
                .collect();
            if finer.is_empty() || finer.len() > FEW {
                return cells;
            }
            cells = finer;
        }
    }

    /// Metres from `from` to the nearest place in the cell, never more than the truth: 0 inside it. At most 1 cm
    /// less than the truth for cells within 90 degrees of longitude.
    pub fn min_distance_m(self, from: Position) -> f64 {
        let (lats, lons) = self.bounds_deg();
        let west_by = (lons.0 - from.lon()).rem_euclid(360.0);
        let east_by = (from.lon() - lons.1).rem_euclid(360.0);
        let lat = from.lat();
        let metres = if (lons.0..=lons.1).contains(&from.lon()) {
            // On a meridian of the cell: straight north or south.
            (lats.0 - lat).max(lat - lats.1).max(0.0).to_radians() * EARTH_RADIUS_M
        } else {
            to_meridian_m(lat, west_by.min(east_by), lats)
        };
        (metres - 0.01).max(0.0)
    }

    /// South and north, west and east, in degrees.
    fn bounds_deg(self) -> ((f64, f64), (f64, f64)) {
        let side = f64::from(1_u32 << self.level);
        let (lat, lon) = (f64::from(squeeze(self.bits)), f64::from(squeeze(self.bits >> 1)));
        let lat_at = |step: f64| MAX_LAT.mul_add(2.0 * step / side, -MAX_LAT);
        let lon_at = |step: f64| (360.0 * step / side) - 180.0;
        ((lat_at(lat), lat_at(lat + 1.0)), (lon_at(lon), lon_at(lon + 1.0)))
    }

    const fn shift(level: u8) -> u32 {
        52 - 2 * level as u32
    }
}

/// Metres from a place at `lat` to the piece `lats` of a meridian `dlon_deg` away. The nearest point of the whole
/// meridian lies at `atan(tan(lat) / cos(dlon))`, poleward of `lat`; where the piece does not reach it, the piece's
/// nearer end is nearest.
fn to_meridian_m(lat: f64, dlon_deg: f64, lats: (f64, f64)) -> f64 {
    let (lat, dlon) = (lat.to_radians(), dlon_deg.to_radians());
    let (south, north) = (lats.0.to_radians(), lats.1.to_radians());
    let to = |there: f64| {
        let (a, b) = (((there - lat) / 2.0).sin(), (dlon / 2.0).sin());
        let h = a.mul_add(a, lat.cos() * there.cos() * b * b);
        2.0 * EARTH_RADIUS_M * h.sqrt().min(1.0).asin()
    };
    let nearest = (lat.tan() / dlon.cos()).atan();
    if dlon.cos() > 0.0 && (south..=north).contains(&nearest) { to(nearest) } else { to(south).min(to(north)) }
}

/// The 52-bit score of GEOADD: latitude in the even bits, longitude in the odd ones.
fn score(position: Position) -> u64 {
    let steps = f64::from(1_u32 << QuadCell::MAX_LEVEL);
    let lat = (position.lat() + MAX_LAT) / (2.0 * MAX_LAT) * steps;
    let lon = (position.lon() + 180.0) / 360.0 * steps;
    spread(lat as u32) | spread(lon as u32) << 1
}

/// Puts a zero before each bit.
fn spread(bits: u32) -> u64 {
    let mut spread = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread
}

/// Keeps every second bit, from the lowest: undoes [`spread`].
fn squeeze(bits: u64) -> u32 {
    let mut squeezed = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0F0F_0F0F_0F0F_0F0F),
        (4, 0x00FF_00FF_00FF_00FF),
        (8, 0x0000_FFFF_0000_FFFF),
        (16, 0x0000_0000_FFFF_FFFF),
    ] {
        squeezed = (squeezed | squeezed >> shift) & mask;
    }
    squeezed as u32
}
