//! The night of the deletion, played against a running fleet: a vendor deletes the Redis that holds every driver's
//! position. Once the server stays and is empty; once it is gone for a while and comes back empty. `make drill` runs it.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::watch::Watch;
use crate::harness::process::{Process, geotrail};
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, becomes_whole, now_ms};
use crate::harness::{PATIENCE, eventually};

/// How large the drill is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drill {
    /// Who drives through the city, and reports every second.
    pub(crate) drivers: usize,
    /// Points of the six hours before.
    pub(crate) history: usize,
    /// How long Redis is gone.
    pub(crate) gone: Duration,
    /// How long all goes well first.
    pub(crate) before: Duration,
}

/// What it took, from the deletion on.
#[derive(Clone, Copy, Debug)]
struct Times {
    noticed: Duration,
    rebuilding: Duration,
    whole: Duration,
    answers: usize,
    mislabelled: usize,
    refused: usize,
    simulated_points: u64,
}

/// Both nights; a table, and the figures.
pub(crate) async fn play(drill: Drill) -> (String, Value) {
    let emptied = night(drill, None).await;
    let gone = night(drill, Some(drill.gone)).await;
    let row = |what: &str, then: &str, tell: &dyn Fn(&Times) -> String| {
        format!("| {what} | {then} | {} | {} |\n", tell(&emptied), tell(&gone))
    };
    let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
    let mut table = format!(
        "| {} drivers, {} points before | that night | Redis emptied | gone for {} s, back empty |\n|---|---|---|---|\n",
        drill.drivers,
        drill.history,
        drill.gone.as_secs_f64()
    );
    table += &row("noticed after", "15 min", &|times| seconds(times.noticed));
    table += &row("rebuilding after", "27 min", &|times| seconds(times.rebuilding));
    table += &row("whole after", "9 h 15 min", &|times| seconds(times.whole));
    table += &row("points lost", "10,000 jobs by hand", &|_| "0".into());
    table += &row("batches refused meanwhile", "", &|times| times.refused.to_string());
    table += &row("answers mislabelled", "", &|times| format!("{} of {}", times.mislabelled, times.answers));
    let figures = |times: &Times| {
        json!({
            "noticed_s": times.noticed.as_secs_f64(), "rebuilding_s": times.rebuilding.as_secs_f64(),
            "whole_s": times.whole.as_secs_f64(), "points_lost": 0, "answers": times.answers,
            "mislabelled": times.mislabelled, "batches_refused": times.refused,
            "simulated_points": times.simulated_points,
        })
    };
    (table, json!({ "emptied": figures(&emptied), "gone": figures(&gone) }))
}

async fn night(drill: Drill, gone: Option<Duration>) -> Times {
    let mut server = block_in_place(RedisServer::start);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let (now, hours_ms) = (now_ms(), 6 * 3_600_000);
    let drivers = drill.history.clamp(1, 2_000);
    for first in (0..drill.history).step_by(drivers) {
        let ts = now - hours_ms + (first as i64 * hours_ms / drill.history as i64);
        // In the order of ids behind those whom the watch looks for on the first page of a list.
        let batch: Vec<_> = (0..drivers).map(|driver| at(&format!("van-{driver}"), ts)).collect();
        service.report(&batch).await;
    }
    let mut fleet = geotrail();
    fleet.args(["simulate", "--to", service.url(), "--interval", "1s", "--duration", "10m", "--drivers"]);
    fleet.arg(drill.drivers.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let fleet = fleet.spawn().expect("the binary was built");
    let watch = Watch::on(&service, 1).await;
    watch.for_a(drill.before).await;
    watch.await_notice();

    let passes = passes_begun(dir.path());
    let deleted = Instant::now();
    match gone {
        None => drop(block_in_place(|| server.cli(&["FLUSHALL"]))),
        Some(_) => server.kill(),
    }
    let watching = async { eventually("that it is noticed", async || watch.noticed()).await };
    let back = async {
        if let Some(gone) = gone {
            watch.for_a(gone).await;
            block_in_place(|| server.restart());
        }
        eventually("a rebuild", async || (passes_begun(dir.path()) > passes).then(Instant::now)).await
    };
    let (noticed, rebuilding) = tokio::join!(watching, back);
    let whole = watch.whole().await;

    let pid = fleet.id().expect("it runs");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).expect("it is ours");
    let said = tokio::time::timeout(PATIENCE, fleet.wait_with_output()).await.expect("it ends").expect("it is ours");
    assert!(said.status.success(), "the fleet was not taken from: {said:?}");
    let counts = said.stdout.trim_ascii().rsplit(|byte| *byte == b'\n').next().expect("a line");
    let tally: Value = serde_json::from_slice(counts).expect("counts");
    let (count, wrong) = watch.end().await;
    assert!(wrong.is_empty(), "{} mislabelled, first: {}", wrong.len(), wrong[0].what);
    assert_eq!(count.refused, 0, "points must be taken whatever Redis does");
    // Every point of the journal, compared with the store: whatever was lost would be told here.
    becomes_whole(&service, dir.path(), &server.url()).await;
    assert!(service.terminate().await.success());
    Times {
        noticed: noticed - deleted,
        rebuilding: rebuilding - deleted,
        whole: whole - deleted,
        answers: count.answers(),
        mislabelled: count.mislabelled,
        refused: count.refused,
        simulated_points: tally["accepted"].as_u64().unwrap_or_default(),
    }
}

fn passes_begun(dir: &Path) -> usize {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.matches("a pass through the journal begins").count()
}
