//! The fault campaign: real processes, real files, real Redis servers, hurt in every way that the list of faults names,
//! and a second, separately written reader of the journal as the judge. `make faults` runs the long one, which measures; a
//! short one runs with the tests.
//!
//! It prints one line of JSON: what ran, from which seed, and what came of it. Whatever could not be run here is in it too,
//! with the reason.

mod flips;
mod kills;
mod load;
mod oracle_reader;
mod power;

use std::time::{Duration, Instant};

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
}

impl Plan {
    /// Shares `seconds` out.
    fn long(seconds: u64, seed: u64) -> Self {
        let share = |percent| Duration::from_secs(seconds * percent / 100);
        Self { seed, kills: 1_000, kills_take: share(30), cuts: 500, cuts_take: share(20), every_nth_bit: 1, every_nth_cut: 1 }
    }

    /// For a test that others run beside.
    fn short() -> Self {
        let seed = u64::from(std::process::id());
        Self { seed, kills: 24, kills_take: Duration::from_secs(10), cuts: 6, cuts_take: Duration::from_secs(5), every_nth_bit: 211, every_nth_cut: 97 }
    }
}

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
    let mut all = json!({ "seed": plan.seed, "commit": std::env::var("FAULTS_COMMIT").unwrap_or_default() });
    let mut tell = |name: &str, figures: Value| {
        eprintln!("{:>5.0} s  {name}: {figures}", began.elapsed().as_secs_f64());
        all[name] = figures;
    };
    tell("kills", kills::campaign(&plan).await);
    tell("power_cuts", power::campaign(&plan).await);
    tell("bit_flips", tokio::task::block_in_place(|| flips::campaign(&plan)));
    all["seconds"] = json!(began.elapsed().as_secs());
    println!("{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_kills_and_power_cuts() {
    let plan = Plan::short();
    eprintln!("seed {}", plan.seed);
    let (kills, cuts) = (kills::campaign(&plan).await, power::campaign(&plan).await);
    eprintln!("{kills}\n{cuts}");
}
