//! A plan as people read it: a line for each thing that is needed, the figures it was reckoned from, numbered, and their
//! sources at the end.

use std::fmt::{self, Write as _};

use super::measured::{
    DISK_FULL, DRIVER, EMBEDDED_POINT, EMBEDDED_POINT_DISK, EMBEDDED_REBUILD, Figure, INSTANCE_DISK, INTAKE,
    JOURNAL_POINT, JSON_POINT, NEARBY, PRIMARY_FULL, PRIMARY_MEMORY, REDIS_CLIENT_POINT, REDIS_CLIENT_POINT_SHARDED,
    REDIS_DRIVER_HOUR, REDIS_DRIVER_HOUR_SHARDED, REDIS_POINT, REDIS_POINT_SHARDED, REDIS_TRACK_POINT,
    REDIS_WIRE_POINT, SERVICE_BASE, SHARE, SINGLE, SINGLE_HEADS,
};
use super::{Kind, Limit, Plan, RedisPlan};

/// Larger fleets were not measured.
const MEASURED: u64 = 1_000_000;

/// A line: what is needed, how much, and what to know about it.
struct Row {
    name: &'static str,
    amount: String,
    note: String,
    from: Vec<Figure>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let demand = &self.demand;
        let store = if demand.store == Kind::Redis { "Redis" } else { "the embedded store" };
        writeln!(
            f,
            "{} drivers, a point every {} s each, kept for {} h, in {store}",
            grouped(demand.drivers as f64),
            demand.interval.as_secs_f64(),
            demand.retention.as_secs_f64() / 3_600.0,
        )?;
        writeln!(f, "{} points/s, {} kept\n", grouped(self.points_per_s), grouped(self.points_kept))?;

        let mut sources: Vec<Figure> = Vec::new();
        for Row { name, amount, note, from } in self.rows() {
            let mut marks = String::new();
            for figure in from {
                let known = sources.iter().position(|source| source.unit == figure.unit);
                let number = known.unwrap_or_else(|| {
                    sources.push(figure);
                    sources.len() - 1
                });
                write!(marks, " [{}]", number + 1)?;
            }
            let note = if note.is_empty() { note } else { format!(" {note}") };
            writeln!(f, "{name:<20}{amount:>14} {note}{marks}")?;
        }

        writeln!(f, "\none of each is full, at this interval and retention, with")?;
        for (number, Limit { drivers, what, remedy }) in self.limits.iter().enumerate() {
            let breaks = if number == 0 { "breaks first: " } else { "" };
            writeln!(f, "{:>14} drivers  {breaks}{what}; then {remedy}", grouped(drivers.floor()))?;
        }
        for warning in self.warnings() {
            writeln!(f, "note: {warning}")?;
        }

        writeln!(f, "\nsources")?;
        for (number, Figure { value, unit, source }) in sources.iter().enumerate() {
            let value = if value.fract() == 0.0 { grouped(*value) } else { value.to_string() };
            writeln!(f, "{:>4} {value} {unit}: {source}", format!("[{}]", number + 1))?;
        }
        Ok(())
    }
}

impl Plan {
    fn rows(&self) -> Vec<Row> {
        let is_embedded = self.demand.store == Kind::Embedded;
        let row = |name, amount, note: &str, from: &[Figure]| Row {
            name,
            amount,
            note: note.to_owned(),
            from: from.to_vec(),
        };
        let per_instance = |bytes: f64| bytes / self.instances as f64;
        let is_sharded = self.redis.is_some_and(|redis| redis.primaries > 1);
        let client = if is_sharded { REDIS_CLIENT_POINT_SHARDED } else { REDIS_CLIENT_POINT };
        let point_from = if is_embedded { vec![EMBEDDED_POINT] } else { vec![EMBEDDED_POINT, client] };
        let single_from = if is_embedded { vec![SINGLE] } else { vec![SINGLE, client] };
        let disk_from: &[Figure] = if is_embedded { &[JOURNAL_POINT, EMBEDDED_POINT_DISK] } else { &[JOURNAL_POINT] };

        let mut rows = vec![
            row("instances", grouped(self.instances as f64), "", &[INTAKE, SHARE, INSTANCE_DISK, DISK_FULL]),
            row("service CPU", cores(self.service_cores), "points in batches of 1,000", &point_from),
            row("", cores(self.service_cores_single), "if every point is a request", &single_from),
            row("service memory", bytes(self.service_memory), "", &[SERVICE_BASE, DRIVER]),
            row("disk", bytes(self.disk), &format!("{} an instance", bytes(per_instance(self.disk))), disk_from),
            row("disk writes", format!("{}/s", bytes(self.disk_per_s())), "", disk_from),
            row("network in", format!("{}/s", bytes(self.network_in)), "JSON, not packed, in batches", &[JSON_POINT]),
            row("", format!("{}/s", bytes(self.network_single)), "if every point is a request", &[SINGLE_HEADS]),
        ];
        if let Some(redis) = &self.redis {
            rows.extend(redis.rows());
        }
        let rebuild = match (is_embedded, is_sharded) {
            (true, _) => EMBEDDED_REBUILD,
            (false, true) => REDIS_POINT_SHARDED,
            (false, false) => REDIS_POINT,
        };
        rows.extend([
            row("newest hour again", time(self.newest_hour_again_s), "once the index is lost", &[rebuild]),
            row("each nearby", format!("{} us", NEARBY.value), "of CPU, on top of all this", &[NEARBY]),
        ]);
        rows
    }

    fn disk_per_s(&self) -> f64 {
        self.disk / self.demand.retention.as_secs_f64()
    }

    fn warnings(&self) -> Vec<String> {
        let (drivers, store) = (self.demand.drivers, self.demand.store);
        let mut warnings = Vec::new();
        if drivers > MEASURED {
            warnings.push(format!(
                "not measured beyond {} drivers: the rest is a straight line",
                grouped(MEASURED as f64)
            ));
        }
        if store == Kind::Embedded && self.instances > 1 {
            warnings.push(format!(
                "{} instances, each of which answers for its own drivers alone; for one answer over all use Redis",
                self.instances
            ));
        }
        if store == Kind::Redis {
            warnings.push("replicas come on top: each has the memory of its primary".to_owned());
        }
        warnings
    }
}

impl RedisPlan {
    fn rows(&self) -> Vec<Row> {
        let row = |name, amount, note: String, from: &[Figure]| Row { name, amount, note, from: from.to_vec() };
        let is_sharded = self.primaries > 1;
        let (point, hour) = if is_sharded {
            (REDIS_POINT_SHARDED, REDIS_DRIVER_HOUR_SHARDED)
        } else {
            (REDIS_POINT, REDIS_DRIVER_HOUR)
        };
        let how = if is_sharded { ", --shard-resolution 5" } else { "" };
        let why = format!(
            "memory wants {}, CPU {}{how}",
            grouped(self.by_memory as f64),
            grouped(self.by_processor as f64)
        );
        vec![
            row("Redis primaries", grouped(self.primaries as f64), why, &[PRIMARY_MEMORY, PRIMARY_FULL, SHARE]),
            row("Redis memory", bytes(self.memory), String::new(), &[hour, REDIS_TRACK_POINT]),
            row("Redis CPU", cores(self.cores), "one core of each primary".to_owned(), &[point]),
            row(
                "network to Redis",
                format!("{}/s", bytes(self.network)),
                "both ways".to_owned(),
                &[REDIS_WIRE_POINT],
            ),
        ]
    }
}

/// `1,000,000`
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(amount: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut amount, mut unit) = (amount, 0);
    while amount >= 1_024.0 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

fn cores(amount: f64) -> String {
    format!("{amount:.2} cores")
}

fn time(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "never".to_owned(),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}
