//! `geotrail plan`, through the real binary.

use std::process::Output;
use std::time::Duration;

use geotrail::plan::{Demand, Kind, MOST_DRIVERS, Plan, Senseless, count};

use crate::cli::geotrail;

fn plan(arguments: &[&str]) -> Output {
    geotrail().arg("plan").args(arguments).output().expect("it runs")
}

/// What is printed, blanks squeezed, line by line.
fn lines(arguments: &[&str]) -> Vec<String> {
    let output = plan(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn demand(drivers: u64, store: Kind) -> Demand {
    Demand { drivers, interval: Duration::from_secs(4), retention: Duration::from_hours(48), store }
}

#[test]
fn a_million_drivers_in_redis_are_planned_for() {
    let lines = lines(&["--drivers", "1M", "--interval", "4s", "--retention", "48h", "--store", "redis"]);
    assert_eq!(lines[0], "1,000,000 drivers, a point every 4 s each, kept for 48 h, in Redis");
    assert_eq!(lines[1], "250,000 points/s, 43,200,000,000 kept");
    let line = |begin: &str| {
        let found = lines.iter().find(|line| line.starts_with(begin));
        found.unwrap_or_else(|| panic!("no line {begin} in {lines:#?}")).as_str()
    };
    // 250,000 a second over half of 393,835.
    assert!(line("instances").starts_with("instances 2 "), "{}", line("instances"));
    // 43.2e9 × 12 bytes, and 1e6 × 49 h × 714; at 48 GiB each.
    assert!(
        line("Redis primaries").starts_with("Redis primaries 12 memory wants 11, CPU 12, --shard-resolution 5 [")
    );
    assert!(line("Redis memory").starts_with("Redis memory 515.4 GiB"), "{}", line("Redis memory"));
    assert!(line("Redis CPU").starts_with("Redis CPU 6.00 cores"), "{}", line("Redis CPU"));
    assert!(line("disk ").starts_with("disk 857.0 GiB 428.5 GiB an instance"), "{}", line("disk "));
    assert!(line("network in").starts_with("network in 27."), "{}", line("network in"));
    assert!(lines.iter().any(|line| line.contains("breaks first: memory of one Redis primary")), "{lines:#?}");

    let sources: Vec<&String> = lines.iter().skip_while(|line| *line != "sources").skip(1).collect();
    assert!(sources.len() > 10, "{lines:#?}");
    for (number, source) in sources.iter().enumerate() {
        let mark = format!("[{}]", number + 1);
        assert!(source.starts_with(&mark), "{source}");
        let is_told = ["README.md", "docs/performance.md", "assumed"].iter().any(|place| source.contains(place));
        assert!(is_told, "{source}");
        assert!(lines.iter().any(|line| line.contains(&mark) && !line.starts_with('[')), "nobody uses {source}");
    }
}

#[test]
fn an_embedded_fleet_is_told_when_one_instance_is_not_enough() {
    let small = lines(&["--drivers", "20k", "--store", "embedded"]);
    assert!(small.iter().any(|line| line.starts_with("instances 1 ")), "{small:#?}");
    assert!(!small.iter().any(|line| line.contains("Redis primaries") || line.starts_with("note:")), "{small:#?}");
    let large = lines(&["--drivers", "2.5M", "--store", "embedded"]);
    assert!(large.iter().any(|line| line.contains("answers for its own drivers alone; for one answer over all")));
    assert!(
        large
            .iter()
            .any(|line| line.starts_with("note: not measured beyond 1,000,000 drivers: the rest is a straight"))
    );
}

#[test]
fn more_drivers_never_need_less() {
    for store in [Kind::Embedded, Kind::Redis] {
        let mut before: Option<Plan> = None;
        let mut drivers = 1;
        while drivers <= MOST_DRIVERS {
            let plan = Plan::new(demand(drivers, store)).expect("it makes sense");
            if let Some(before) = before {
                let grows = [
                    (plan.instances as f64, before.instances as f64),
                    (plan.service_cores, before.service_cores),
                    (plan.service_cores_single, before.service_cores_single),
                    (plan.service_memory, before.service_memory),
                    (plan.disk, before.disk),
                    (plan.network_in, before.network_in),
                ];
                assert!(grows.iter().all(|(now, then)| now >= then), "{before:?} {plan:?}");
                if let (Some(now), Some(then)) = (plan.redis, before.redis) {
                    assert!(now.primaries >= then.primaries && now.memory > then.memory && now.cores > then.cores);
                }
            }
            before = Some(plan);
            drivers = drivers * 13 / 10 + 1;
        }
    }
    assert!(Plan::new(demand(MOST_DRIVERS, Kind::Redis)).is_ok());
    assert_eq!(Plan::new(demand(MOST_DRIVERS + 1, Kind::Redis)), Err(Senseless::TooManyDrivers));
}

#[test]
fn limits_are_where_one_of_each_is_full() {
    for store in [Kind::Embedded, Kind::Redis] {
        let limits = Plan::new(demand(1_000, store)).expect("it makes sense").limits;
        assert!(limits.is_sorted_by(|a, b| a.drivers <= b.drivers));
        let first = limits[0].drivers as u64;
        let needs = |drivers| {
            let plan = Plan::new(demand(drivers, store)).expect("it makes sense");
            plan.instances.max(plan.redis.map_or(1, |redis| redis.primaries))
        };
        assert_eq!((needs(first - 1), needs(first + 1) > 1), (1, true), "{limits:?}");
    }
}

#[test]
fn nonsense_is_refused_with_the_reason() {
    for (arguments, reason) in [
        (&["--drivers", "0"][..], "a fleet has at least one driver"),
        (&["--drivers", "10000001"], "at most 10,000,000"),
        (&["--drivers", "11M"], "at most 10,000,000"),
        (&["--drivers", "many"], "expected a whole number, such as 1M or 250k"),
        (&["--drivers", "-5"], ""),
        (&[], "--drivers"),
        (&["--drivers", "1k", "--interval", "0s"], "at least 100ms"),
        (&["--drivers", "1k", "--interval", "2h"], "at most 1h"),
        (&["--drivers", "1k", "--interval", "4"], "expected a duration with its unit"),
        (&["--drivers", "1k", "--retention", "59m"], "at least 2h"),
        (&["--drivers", "1k", "--retention", "0s"], "at least 2h"),
        (&["--drivers", "1k", "--retention", "4000d"], "at most 3660d"),
        (&["--drivers", "1k", "--store", "memory"], "possible values: embedded, redis"),
    ] {
        let output = plan(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.starts_with("error: ") && told.contains(reason), "{arguments:?}: {told}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn numbers_are_read_as_people_write_them() {
    for (text, number) in
        [("1", 1), ("250k", 250_000), ("1M", 1_000_000), ("2.5M", 2_500_000), ("0.5k", 500), ("007", 7)]
    {
        assert_eq!(count(text), Some(number), "{text}");
    }
    for text in [
        "",
        "k",
        "M",
        "1m",
        "1K",
        "1.5",
        "1e6",
        "+1",
        "-1",
        "1.M",
        ".5M",
        "1..5M",
        "1_000",
        "99999999999999999",
        "1 M",
        "inf",
        "1kk",
    ] {
        assert_eq!(count(text), None, "{text}");
    }
}
