//! The fault campaign: real processes, real files, real Redis servers, hurt in every way that the list of faults names,
//! and a second, separately written reader of the journal as the judge. `make faults` runs the long one, which measures; a
//! short one runs with the tests.
//!
//! It prints one line of JSON: what ran, from which seed, and what came of it. Whatever could not be run here is in it too,
//! with the reason.

mod acks;
mod backlog;
mod clocks;
mod drill;
mod flips;
mod instances;
mod kills;
mod load;
mod oracle_reader;
mod outcome;
mod power;
mod redis_faults;
mod watch;

use std::time::{Duration, Instant};

use drill::Drill;
use redis_faults::Fault;
use serde_json::{Value, json};

/// How much of everything.
pub(crate) struct Plan {
    seed: u64,
    kills: usize,
    kills_take: Duration,
    cuts: usize,
    cuts_take: Duration,
    every_nth_bit: usize,
    every_nth_cut: usize,
    faults: &'static [Fault],
    fault_lasts: Duration,
    /// How long things are looked at before a fault.
    baseline: Duration,
    /// Stretches with a fault in which acknowledgements are timed, as many without, and how long each is.
    ack_turns: usize,
    ack_stretch: Duration,
    /// Between two questions to several instances.
    ask_pause: Duration,
    /// Of several instances.
    rounds: usize,
    rounds_take: Duration,
    /// How long instances with wrong clocks take points, each time.
    skewed_for: Duration,
    /// Losses that the service must notice by itself.
    trials: usize,
    /// Accepted while Redis is dead.
    backlog_points: usize,
}

impl Plan {
    /// Shares `seconds` out; what has a count of its own ends when that is reached.
    fn long(seconds: u64, seed: u64) -> Self {
        let share = |percent| Duration::from_secs(seconds * percent / 100);
        Self {
            seed,
            kills: 1_000,
            kills_take: share(30),
            cuts: 500,
            cuts_take: share(20),
            every_nth_bit: 1,
            every_nth_cut: 1,
            faults: &Fault::ALL,
            fault_lasts: Duration::from_secs(3),
            baseline: Duration::from_secs(2),
            ack_turns: 10,
            ack_stretch: Duration::from_secs(4),
            ask_pause: Duration::ZERO,
            rounds: 40,
            rounds_take: share(40),
            skewed_for: Duration::from_secs(10),
            trials: 40,
            backlog_points: 1_000_000,
        }
    }

    /// For a test that others run beside.
    fn short() -> Self {
        let seed = u64::from(std::process::id());
        eprintln!("seed {seed}");
        Self {
            seed,
            kills: 16,
            kills_take: Duration::from_secs(7),
            cuts: 4,
            cuts_take: Duration::from_secs(3),
            every_nth_bit: 421,
            every_nth_cut: 97,
            faults: &[Fault::KilledBackWithAnOldDump, Fault::Frozen, Fault::Evicting],
            fault_lasts: Duration::from_millis(1_200),
            baseline: Duration::from_millis(500),
            ack_turns: 1,
            ack_stretch: Duration::from_millis(500),
            ask_pause: Duration::from_millis(10),
            rounds: 2,
            rounds_take: Duration::from_secs(10),
            skewed_for: Duration::from_millis(500),
            trials: 3,
            backlog_points: 30_000,
        }
    }
}

/// The parts of the long one, in their order.
const PARTS: [&str; 9] = [
    "kills",
    "power_cuts",
    "bit_flips",
    "redis_faults",
    "acknowledgements",
    "instances",
    "skewed_clocks",
    "detection",
    "backlog",
];

/// The value below which that share of `values` lies, to a tenth.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let nth = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(nth - 1).map_or(f64::NAN, |value| (value * 10.0).round() / 10.0)
}

fn said(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures, for minutes"]
async fn long() {
    let plan = Plan::long(said("FAULTS_SECONDS").unwrap_or(600), said("FAULTS_SEED").unwrap_or(1));
    let began = Instant::now();
    let mut all = json!({
        "seed": plan.seed, "commit": std::env::var("FAULTS_COMMIT").unwrap_or_default(),
        "binary": if std::env::var_os("FAULTS_BINARY").is_some() { "named" } else { "built for tests" },
    });
    let mut tell = |name: &str, figures: Value| {
        eprintln!("{:>5.0} s  {name}: {figures}", began.elapsed().as_secs_f64());
        all[name] = figures;
    };
    let only = std::env::var("FAULTS_ONLY").unwrap_or_default();
    let mut not_run = json!({
        "partitions_by_packet_filter_and_delays": "half-open and cut connections stand for them",
        "clusters_and_sentinels": "hurt by tests of their own, not here",
        "disk_errors": "hurt by tests of their own, not here",
        "clock_jumps_without_redis": "an instance with the embedded store alone has no second clock to go by",
    });
    for part in PARTS {
        if !only.is_empty() && !only.split(',').any(|wanted| wanted == part) {
            not_run[part] = json!("not asked for");
            continue;
        }
        let figures = match part {
            "kills" => kills::campaign(&plan).await,
            "power_cuts" => power::campaign(&plan).await,
            "bit_flips" => tokio::task::block_in_place(|| flips::campaign(&plan)),
            "redis_faults" => redis_faults::campaign(&plan).await,
            "acknowledgements" => acks::campaign(&plan).await,
            "instances" => instances::campaign(&plan).await,
            "skewed_clocks" => clocks::campaign(&plan).await,
            "detection" => redis_faults::detection(&plan).await,
            _ => backlog::campaign(&plan).await,
        };
        tell(part, figures);
    }
    tell("not_run", not_run);
    all["seconds"] = json!(began.elapsed().as_secs());
    println!("{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_kills_and_power_cuts() {
    let plan = Plan::short();
    let (kills, cuts) = (kills::campaign(&plan).await, power::campaign(&plan).await);
    eprintln!("{kills}\n{cuts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_redis_faults() {
    eprintln!("{}", redis_faults::campaign(&Plan::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_instances() {
    eprintln!("{}", instances::campaign(&Plan::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_clocks() {
    eprintln!("{}", clocks::campaign(&Plan::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_detection_and_backlog() {
    let plan = Plan::short();
    let (detection, backlog) = (redis_faults::detection(&plan).await, backlog::campaign(&plan).await);
    eprintln!("{detection}\n{backlog}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures, for minutes"]
async fn night_of_the_deletion() {
    let drivers = said("DRILL_DRIVERS").unwrap_or(500) as usize;
    let history = said("DRILL_POINTS").unwrap_or(200_000) as usize;
    let drill = Drill { drivers, history, gone: Duration::from_secs(20), before: Duration::from_secs(10) };
    let (table, figures) = drill::play(drill).await;
    println!("{table}{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_night_of_the_deletion() {
    let drill =
        Drill { drivers: 50, history: 6_000, gone: Duration::from_secs(1), before: Duration::from_millis(500) };
    let (table, _) = drill::play(drill).await;
    eprintln!("{table}");
}
