//! The domain: what a point is, what hour it belongs to, how far two places are apart, which of two points wins.
//!
//! Everything here is pure. A value of one of these types is the proof that it was checked: the constructors refuse
//! what the contract refuses, and nothing behind the HTTP edge checks again.
//!
//! Never here: I/O, a clock, an encoding (HTTP, journal, stores each own theirs), a Redis word, a serde derive.

mod cell;
mod defect;
mod driver_id;
mod measure;
mod nearest;
mod offset;
mod point;
mod position;
mod quad;
mod tags;
mod time;
mod tombstone;

pub use cell::{Cell, Disc, Resolution};
pub use defect::Defect;
pub use driver_id::DriverId;
pub use measure::{Accuracy, Heading, Speed};
pub use nearest::{Nearest, NearestWalk, Probe, Step};
pub use offset::Offset;
pub use point::{Fix, Point};
pub use position::{EARTH_RADIUS_M, MAX_LAT, Position};
pub use quad::QuadCell;
pub use tags::{Tag, Tags};
pub use time::{Hour, InvalidHour, InvalidTime, MAX_AHEAD_MS, Timestamp};
pub use tombstone::Tombstone;
