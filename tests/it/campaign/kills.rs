//! Killed at any moment, under load, hundreds of times: at random, and at named calls into the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::load::{Load, Verdict};
use super::{Plan, percentile};
use crate::harness::faulty_disk::FaultyDisk;
use crate::harness::process::{Process, geotrail};

/// Kills of one data directory; then another, so that what a start has to read does not grow for ever.
const KILLS_EACH: usize = 25;
/// The moments that a kill may be tied to.
const NAMED: [(&str, &str, u32); 11] = [
    ("before", "pwrite64", 30),
    ("amid", "pwrite64", 30),
    ("after", "pwrite64", 30),
    ("before", "fdatasync", 30),
    ("after", "fdatasync", 30),
    ("before", "fsync", 6),
    ("after", "fsync", 6),
    ("before", "rename", 2),
    ("after", "rename", 2),
    ("before", "unlink", 2),
    ("after", "ftruncate64", 1),
];

/// What happened.
#[derive(Default)]
struct Figures {
    verdict: Verdict,
    kills: usize,
    /// Of those, at a named moment.
    named: usize,
    /// At a moment that no call into the disk chose.
    at_random: usize,
    /// Of those, while somebody waited for an answer.
    in_flight: usize,
    /// From exec to the line that says it listens, milliseconds.
    starts_ms: Vec<f64>,
}

/// Kills until there were as many as planned, or the time is over; two services at once.
pub(crate) async fn campaign(plan: &Plan) -> Value {
    let deadline = Instant::now() + plan.kills_take;
    let lanes = (0..2).map(|lane| lane_of(plan.seed + lane, plan.kills / 2, deadline));
    let mut all = Figures::default();
    for Figures { verdict, kills, named, at_random, in_flight, starts_ms } in join_all(lanes).await {
        all.verdict.add(verdict);
        all.kills += kills;
        all.named += named;
        all.at_random += at_random;
        all.in_flight += in_flight;
        all.starts_ms.extend(starts_ms);
    }
    let Verdict { acknowledged, lost, half_batches, invented, refused, damaged } = all.verdict;
    let figures = json!({
        "cycles": all.kills, "at_named_moments": all.named, "at_random": all.at_random, "of_those_in_flight": all.in_flight, "acknowledged": acknowledged,
        "lost": lost, "half_batches": half_batches, "invented": invented, "refused": refused, "damaged": damaged,
        "start_ms_p50": percentile(&mut all.starts_ms, 0.5), "start_ms_p99": percentile(&mut all.starts_ms, 0.99),
        "lost_per_kill_below": 3.0 / all.kills.max(1) as f64,
    });
    all.verdict.assert_sound();
    assert!(all.in_flight * 2 >= all.at_random, "most kills hit somebody who waits: {figures}");
    figures
}

async fn lane_of(seed: u64, kills: usize, deadline: Instant) -> Figures {
    let (mut rng, disk, mut figures) = (StdRng::seed_from_u64(seed), FaultyDisk::new(), Figures::default());
    while figures.kills < kills && Instant::now() < deadline {
        let dir = tempfile::tempdir().expect("a directory");
        let load = Load::start();
        for _ in 0..KILLS_EACH.min(kills - figures.kills) {
            cycle(dir.path(), &load, disk.as_ref(), &mut rng, &mut figures).await;
        }
        // Whatever a start makes of what the last kill left must not cost anything either.
        let service = Process::begin(dir.path(), serve(&dir.path().join("data"))).await.expect("it starts");
        assert!(service.terminate().await.success());
        figures.verdict.add(load.judge(&dir.path().join("data")).await);
    }
    figures
}

async fn cycle(dir: &Path, load: &Load, disk: Option<&FaultyDisk>, rng: &mut StdRng, figures: &mut Figures) {
    let mut command = serve(&dir.join("data"));
    let named = disk.filter(|_| rng.random_bool(0.3));
    if let Some(disk) = named {
        let (moment, call, most) = NAMED[rng.random_range(0..NAMED.len())];
        disk.under(&mut command);
        command.env("FAULTY_DISK_KILL", format!("{moment} {call} {}", rng.random_range(1..=most)));
    }
    figures.kills += 1;
    let began = Instant::now();
    // It may have been killed before it listened.
    let Ok(service) = Process::begin(dir, command).await else {
        figures.named += 1;
        return;
    };
    figures.starts_ms.push(began.elapsed().as_secs_f64() * 1e3);
    load.to(Some((*service).clone()));
    if named.is_some() {
        figures.named += usize::from(service.ends_within(Duration::from_millis(150)).await);
        load.to(None);
        return;
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(10..160))).await;
    figures.at_random += 1;
    figures.in_flight += usize::from(load.is_in_flight());
    service.kill().await;
    load.to(None);
}

/// The command that serves from `data_dir` with the embedded store.
pub(crate) fn serve(data_dir: &Path) -> tokio::process::Command {
    let mut command = geotrail();
    command.args(["serve", "--listen", "127.0.0.1:0", "--retention", "72h", "--store", "embedded", "--data-dir"]);
    command.arg(data_dir);
    command
}
