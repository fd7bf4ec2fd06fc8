//! A million points accepted while there is no Redis: what that costs in memory, and how fast they are in once there is
//! one. And the same again after that Redis was emptied: what a rebuild takes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::Plan;
use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{at, logged, now_ms, verify};
use crate::oracle::Report;

const BATCH: usize = 5_000;
const DRIVERS: usize = 5_000;
/// Accepted before the first look: what the first requests cost is no queue.
const WARM_UP: usize = 8;
/// The aim.
const MOST_GROWTH_MIB: f64 = 50.0;

pub(crate) async fn campaign(plan: &Plan) -> Value {
    let mut server = RedisServer::absent();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &server.url()).await;
    let now = now_ms();
    let batches = (plan.backlog_points / BATCH).max(1) as i64;
    let send = async |number: i64| {
        // Everybody once a batch, spread over six hours, oldest first.
        let ts = now - (batches + WARM_UP as i64 - number) * 6 * 3_600_000 / batches;
        let batch: Vec<Report> =
            (0..DRIVERS).map(|driver| at(&format!("cab-{driver}"), ts + driver as i64 % 50)).collect();
        let answer = service.try_post("/v1/points", &batch).await.expect("an answer");
        assert_eq!(answer.status, 202, "{answer:?}");
    };
    for number in 0..WARM_UP as i64 {
        send(number).await;
    }
    let before_mib = rss_mib(&service);
    let (began, mut most_mib) = (Instant::now(), before_mib);
    for number in 0..batches {
        send(WARM_UP as i64 + number).await;
        most_mib = most_mib.max(rss_mib(&service));
    }
    let accepted_s = began.elapsed().as_secs_f64();
    let points = (batches as usize + WARM_UP) * BATCH;

    block_in_place(|| server.restart());
    let filled_s = until_whole(&service, points).await;
    let rebuilding_mib = rss_mib(&service);
    block_in_place(|| server.restart());
    logged(dir.path(), "the store lost data", 1).await;
    let rebuilt_s = until_whole(&service, points).await;
    eventually("that all points are old enough to compare", async || {
        let (code, text) = verify(dir.path(), &server.url()).await;
        assert_eq!(code, 0, "{text}");
        (!text.contains("left out")).then_some(())
    })
    .await;
    assert!(service.terminate().await.success());
    let growth_mib = most_mib - before_mib;
    let figures = json!({
        "points": points, "rss_mib_before": before_mib, "rss_mib_most": most_mib, "growth_mib": growth_mib,
        "accepted_points_per_s": (points as f64 / accepted_s).round(), "filled_s": filled_s, "rebuilt_s": rebuilt_s,
        "filled_points_per_s": (points as f64 / filled_s).round(),
        "rebuilt_points_per_s": (points as f64 / rebuilt_s).round(), "rss_mib_after_filling": rebuilding_mib,
        "missing_afterwards": 0,
    });
    assert!(growth_mib <= MOST_GROWTH_MIB, "{figures}");
    figures
}

/// Seconds until an answer calls itself complete, with nothing waiting.
async fn until_whole(service: &Process, points: usize) -> f64 {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(60 + points as u64 / 2_000);
    loop {
        let count = service.get("/v1/active/count?max_age_s=259200").await;
        if count.header("geotrail-index") == "complete" {
            assert_eq!(count.json()["count"], DRIVERS);
            return (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        }
        assert!(Instant::now() < deadline, "not whole in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a process has in memory.
fn rss_mib(service: &Process) -> f64 {
    let pid = service.pid().expect("it has not been waited for");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib / 102.4).round() / 10.0
}
