//! What a fleet needs: instances, Redis primaries, memory, disk, network and processors, reckoned from what was measured
//! ([`measured`]), and what is full first while the fleet grows.
//!
//! Straight lines through measured figures: nothing here was measured beyond what its source says. All drivers are taken
//! to report in every hour, day and night. Never here: a running service, the settings of one.

pub mod measured;
mod text;

use std::time::Duration;

use thiserror::Error;

use crate::config::{MAX_RETENTION, MIN_RETENTION};
use measured::{
    DISK_FULL, DRIVER, EMBEDDED_POINT, EMBEDDED_POINT_DISK, EMBEDDED_REBUILD, INSTANCE_DISK, INTAKE, JOURNAL_POINT,
    JSON_POINT, PRIMARY_FULL, PRIMARY_MEMORY, REDIS_CLIENT_POINT, REDIS_CLIENT_POINT_SHARDED, REDIS_DRIVER_HOUR,
    REDIS_DRIVER_HOUR_SHARDED, REDIS_POINT, REDIS_POINT_SHARDED, REDIS_TRACK_POINT, REDIS_WIRE_POINT, SERVICE_BASE,
    SHARE, SINGLE, SINGLE_HEADS,
};

/// The largest fleet that is planned for.
pub const MOST_DRIVERS: u64 = 10_000_000;
/// No phone reports more often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Whoever reports more seldom is not active in between.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// Where the index lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In each instance, of what it took in itself.
    Embedded,
    /// In Redis, shared by all instances.
    Redis,
}

/// What is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// How many drivers.
    pub drivers: u64,
    /// How often each reports.
    pub interval: Duration,
    /// How long points are kept.
    pub retention: Duration,
    /// Where they are asked for.
    pub store: Kind,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Senseless {
    /// Nothing to plan for.
    #[error("--drivers: a fleet has at least one driver")]
    NoDrivers,
    /// Beyond what straight lines from a million measured drivers can say.
    #[error("--drivers: at most 10,000,000; beyond ten times what was measured a plan would be a guess")]
    TooManyDrivers,
    /// Without a pause, or hardly any.
    #[error("--interval: at least 100ms; no phone knows where it is more often")]
    TooOften,
    /// Nobody would be active between two reports.
    #[error("--interval: at most 1h; who reports more seldom is not active in between")]
    TooSeldom,
    /// Less than the service keeps.
    #[error("--retention: at least 2h; the trailing hour spans two clock hours, and the service keeps no less")]
    TooShort,
    /// More than the service keeps.
    #[error("--retention: at most 3660d, the most the service keeps")]
    TooLong,
}

/// What a fleet needs. Bytes, seconds and cores, over all instances or primaries unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is for.
    pub demand: Demand,
    /// Points a second.
    pub points_per_s: f64,
    /// Points within the retention.
    pub points_kept: f64,
    /// Processes of geotrail.
    pub instances: u64,
    /// Cores' worth of work for them, points in batches.
    pub service_cores: f64,
    /// The same if every point is a request of its own.
    pub service_cores_single: f64,
    /// Resident memory of them.
    pub service_memory: f64,
    /// Journals, and embedded stores if that is where the index lives.
    pub disk: f64,
    /// Points in JSON, a second, in batches.
    pub network_in: f64,
    /// The same if every point is a request of its own, heads and answers included.
    pub network_single: f64,
    /// Seconds until an index that was lost has the newest hour again.
    pub newest_hour_again_s: f64,
    /// What Redis needs, if that is where the index lives.
    pub redis: Option<RedisPlan>,
    /// What one of each is full at, the least first.
    pub limits: Vec<Limit>,
}

/// What Redis needs, without replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RedisPlan {
    /// As many as memory or processors want, whichever is more.
    pub primaries: u64,
    /// Primaries that memory wants.
    pub by_memory: u64,
    /// Primaries that processors want: each uses one core for its commands.
    pub by_processor: u64,
    /// Bytes.
    pub memory: f64,
    /// Cores' worth of work.
    pub cores: f64,
    /// Bytes a second between the service and Redis.
    pub network: f64,
}

/// Something that is full at a number of drivers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// How many drivers one of it carries.
    pub drivers: f64,
    /// What it is.
    pub what: &'static str,
    /// What is done about it.
    pub remedy: &'static str,
}

impl Demand {
    fn check(&self) -> Result<(), Senseless> {
        match *self {
            Self { drivers: 0, .. } => Err(Senseless::NoDrivers),
            Self { drivers, .. } if drivers > MOST_DRIVERS => Err(Senseless::TooManyDrivers),
            Self { interval, .. } if interval < SHORTEST_INTERVAL => Err(Senseless::TooOften),
            Self { interval, .. } if interval > LONGEST_INTERVAL => Err(Senseless::TooSeldom),
            Self { retention, .. } if retention < MIN_RETENTION => Err(Senseless::TooShort),
            Self { retention, .. } if retention > MAX_RETENTION => Err(Senseless::TooLong),
            _ => Ok(()),
        }
    }
}

impl Plan {
    /// For a demand that makes sense.
    pub fn new(demand: Demand) -> Result<Self, Senseless> {
        demand.check()?;
        let drivers = demand.drivers as f64;
        let each_per_s = 1.0 / demand.interval.as_secs_f64();
        let points_per_s = drivers * each_per_s;
        let each_keeps = each_per_s * demand.retention.as_secs_f64();
        let points_kept = drivers * each_keeps;
        let redis = (demand.store == Kind::Redis).then(|| RedisPlan::new(drivers, points_per_s, &demand));

        let (disk_point, client_us) = match &redis {
            None => (JOURNAL_POINT.value + EMBEDDED_POINT_DISK.value, 0.0),
            Some(redis) if redis.primaries == 1 => (JOURNAL_POINT.value, REDIS_CLIENT_POINT.value),
            Some(_) => (JOURNAL_POINT.value, REDIS_CLIENT_POINT_SHARDED.value),
        };
        let service_cores = points_per_s * (EMBEDDED_POINT.value + client_us) / 1e6;
        let service_cores_single = points_per_s * (SINGLE.value + client_us) / 1e6;
        let disk = points_kept * disk_point;
        let intake = INTAKE.value * SHARE.value;
        let instance_disk = INSTANCE_DISK.value * DISK_FULL.value;
        let instances = whole(points_per_s / intake).max(whole(disk / instance_disk));
        // With Redis, each has everybody in memory.
        let drivers_in_memory = drivers * if redis.is_none() { 1.0 } else { instances as f64 };
        let newest_hour = points_per_s * 3_600.0;
        let rebuilt_per_s = redis.map_or(EMBEDDED_REBUILD.value * instances as f64, |redis| {
            // Live points take what they take; the rest of the processors that are there may rebuild.
            (redis.primaries as f64 - redis.cores).max(0.0) * 1e6 / redis.point_us()
        });

        let mut limits = vec![
            Limit {
                drivers: intake / each_per_s,
                what: "points that one instance takes in",
                remedy: match demand.store {
                    Kind::Embedded => "with several instances each answers for its own drivers alone: use Redis",
                    Kind::Redis => "more instances",
                },
            },
            Limit {
                drivers: instance_disk / (each_keeps * disk_point),
                what: "disk of one instance",
                remedy: "more disk, more instances, or a shorter retention",
            },
        ];
        if demand.store == Kind::Redis {
            limits.extend([
                Limit {
                    drivers: PRIMARY_MEMORY.value * PRIMARY_FULL.value / redis_bytes_a_driver(&demand, false),
                    what: "memory of one Redis primary",
                    remedy: "a cluster with --shard-resolution 5, or a shorter retention",
                },
                Limit {
                    drivers: SHARE.value / (REDIS_POINT.value / 1e6 * each_per_s),
                    what: "processor of one Redis primary",
                    remedy: "a cluster with --shard-resolution 5",
                },
            ]);
        }
        limits.sort_by(|a, b| a.drivers.total_cmp(&b.drivers));

        Ok(Self {
            demand,
            points_per_s,
            points_kept,
            instances,
            service_cores,
            service_cores_single,
            service_memory: SERVICE_BASE.value * instances as f64 + DRIVER.value * drivers_in_memory,
            disk,
            network_in: points_per_s * JSON_POINT.value,
            network_single: points_per_s * (JSON_POINT.value + SINGLE_HEADS.value),
            newest_hour_again_s: newest_hour / rebuilt_per_s,
            redis,
            limits,
        })
    }
}

impl RedisPlan {
    /// One primary if it carries the fleet; else a cluster, whose hours are spread over cells, which costs more.
    fn new(drivers: f64, points_per_s: f64, demand: &Demand) -> Self {
        let of = |is_sharded| {
            let memory = drivers * redis_bytes_a_driver(demand, is_sharded);
            let point = if is_sharded { REDIS_POINT_SHARDED } else { REDIS_POINT };
            let cores = points_per_s * point.value / 1e6;
            let by_memory = whole(memory / (PRIMARY_MEMORY.value * PRIMARY_FULL.value));
            let by_processor = whole(cores / SHARE.value);
            let primaries = by_memory.max(by_processor);
            Self { primaries, by_memory, by_processor, memory, cores, network: points_per_s * REDIS_WIRE_POINT.value }
        };
        let single = of(false);
        if single.primaries == 1 { single } else { of(true) }
    }

    fn point_us(&self) -> f64 {
        if self.primaries == 1 { REDIS_POINT.value } else { REDIS_POINT_SHARDED.value }
    }
}

/// Of Redis, for all hours that are kept, the one that has begun included.
fn redis_bytes_a_driver(demand: &Demand, is_sharded: bool) -> f64 {
    let hours = (demand.retention.as_secs_f64() / 3_600.0).ceil() + 1.0;
    let hour = if is_sharded { REDIS_DRIVER_HOUR_SHARDED } else { REDIS_DRIVER_HOUR };
    let points = demand.retention.as_secs_f64() / demand.interval.as_secs_f64();
    hours * hour.value + points * REDIS_TRACK_POINT.value
}

/// At least one.
fn whole(share: f64) -> u64 {
    share.ceil().max(1.0) as u64
}

/// A number as people write it: `250000`, `250k`, `1M`, `2.5M`. `None` for anything that is no whole number.
pub fn count(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000.0),
        b'M' => (&text[..text.len() - 1], 1_000_000.0),
        _ => (text, 1.0),
    };
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = digits.parse::<f64>().ok().filter(|_| is_number)? * unit;
    // Beyond 2^53 not every whole number is one.
    (number.fract() == 0.0 && number < 9e15).then_some(number as u64)
}
