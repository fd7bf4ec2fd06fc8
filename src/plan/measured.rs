//! What was measured, and what is assumed, for a plan to reckon with: each figure with its unit, its place and its day.
//!
//! All of it comes from one machine, 2 virtual cores that the service shared with whoever drove it, so a plan errs on the
//! side of too much. Never here: arithmetic.

/// A figure and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Where it was measured and when, or that it is assumed.
    pub source: &'static str,
}

const README: &str = "README.md, Measured, 2026-11-23";
const HTTP: &str = "docs/performance.md, What the embedded store costs, `cargo bench --bench http`, 2026-11-23";
const MEMORY: &str = "README.md, Measured, `cargo bench --bench http`, 2026-11-24";
const SCALE: &str = "docs/performance.md, What Redis costs, `make scale`, 2026-11-23";
const SCALE_MEMORY: &str = "docs/performance.md, What Redis costs, `make scale`, 2026-11-30";
const LOAD: &str = "docs/performance.md, Load, open loop, `make loadtest`, 2026-11-23";
const ASSUMED: &str = "assumed, not measured";

const fn figure(value: f64, unit: &'static str, source: &'static str) -> Figure {
    Figure { value, unit, source }
}

/// The most points that one instance was seen to acknowledge, a replay of taxis with its sender on the same two cores.
pub const INTAKE: Figure = figure(393_835.0, "points/s acknowledged by one instance", README);

/// Of whatever was seen at its most this share is planned with: a rush hour, a rebuild, a neighbour want the rest.
pub const SHARE: Figure = figure(0.5, "of the most is planned with", ASSUMED);

/// Processor time of the service with the embedded store, from the socket to the index, in batches of 1,000; the dearest
/// of three fleets.
pub const EMBEDDED_POINT: Figure = figure(4.2, "us of the service a point in batches of 1,000, embedded store", HTTP);

/// Processor time of the service for writing to Redis, whole hours, the dearest of three fleets; of the build for tests, which
/// is slower than that for release. HTTP and journal come on top: [`EMBEDDED_POINT`] stands for them.
pub const REDIS_CLIENT_POINT: Figure = figure(5.1, "us of the service a point written to Redis, whole hours", SCALE);

/// The same where hours are spread over cells of resolution 5.
pub const REDIS_CLIENT_POINT_SHARDED: Figure =
    figure(13.2, "us of the service a point written to Redis, hours by cells of resolution 5", SCALE);

/// What a request costs the service that brings one point, over what the same point costs in a batch included.
pub const SINGLE: Figure = figure(86.0, "us of the service a request of one point, 100,000 drivers", HTTP);

/// Processor time of the service a question, limit 10, the dearest radius, 1,000,000 drivers. With Redis as the store it is
/// answered out of the same memory.
pub const NEARBY: Figure = figure(66.0, "us of the service a nearby, limit 10", HTTP);

/// Resident memory a driver, of 1,000,000, what was on its way to disk included. With Redis as the store every instance has
/// the newest fixes of the whole fleet in memory, which is less.
pub const DRIVER: Figure = figure(201.0, "bytes resident a driver", MEMORY);

/// Resident memory of a service before its first driver.
pub const SERVICE_BASE: Figure = figure(18.0 * 1_048_576.0, "bytes resident of a service without drivers", MEMORY);

/// Of the journal, speed, heading and accuracy included.
pub const JOURNAL_POINT: Figure = figure(21.3, "bytes of the journal a point", README);

/// Of the embedded store's files, with speed, heading and accuracy.
pub const EMBEDDED_POINT_DISK: Figure = figure(11.5, "bytes of the embedded store on disk a point", README);

/// From the journal, with the index deleted.
pub const EMBEDDED_REBUILD: Figure = figure(2_900_000.0, "points/s put into an embedded store again", README);

/// Processor time of Redis a point, whole hours, 1,000,000 drivers.
pub const REDIS_POINT: Figure = figure(20.1, "us of Redis a point, whole hours", SCALE);

/// The same where hours are spread over cells of resolution 5.
pub const REDIS_POINT_SHARDED: Figure = figure(24.0, "us of Redis a point, hours by cells of resolution 5", SCALE);

/// Memory of Redis for a driver that reports in an hour, its first point and the streams of changes included; whole hours,
/// 100,000 drivers.
pub const REDIS_DRIVER_HOUR: Figure = figure(626.0, "bytes of Redis a driver and hour, whole hours", SCALE_MEMORY);

/// The same where hours are spread over cells of resolution 5.
pub const REDIS_DRIVER_HOUR_SHARDED: Figure =
    figure(714.0, "bytes of Redis a driver and hour, hours by cells of resolution 5", SCALE_MEMORY);

/// Memory of Redis for each further point of a track; of 100,000 drivers the dearest.
pub const REDIS_TRACK_POINT: Figure = figure(12.0, "bytes of Redis a track point", SCALE);

/// What one primary has.
pub const PRIMARY_MEMORY: Figure = figure(64.0 * GIB, "bytes of memory of a Redis primary", ASSUMED);

/// How much of it may be data: a copy for a replica, fragments and buffers want the rest.
pub const PRIMARY_FULL: Figure = figure(0.75, "of a primary's memory is filled", ASSUMED);

/// What one instance has.
pub const INSTANCE_DISK: Figure = figure(2e12, "bytes of disk of an instance", ASSUMED);

/// How much of it may be journal and index.
pub const DISK_FULL: Figure = figure(0.75, "of an instance's disk is filled", ASSUMED);

/// A point in JSON in a batch, id, time, place, speed and heading.
pub const JSON_POINT: Figure = figure(115.0, "bytes of JSON a point in a batch", LOAD);

/// What a request of one point has beside the point: its head, and that of the answer, without those of TCP.
pub const SINGLE_HEADS: Figure = figure(250.0, "bytes of heads and answer a request", LOAD);

/// What Redis receives, and what it answers.
pub const REDIS_WIRE_POINT: Figure = figure(224.0, "bytes between the service and Redis a point", LOAD);

/// Bytes of a gibibyte.
const GIB: f64 = 1_073_741_824.0;
