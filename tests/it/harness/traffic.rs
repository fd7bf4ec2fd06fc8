//! Traffic while things fail: somebody reports all the time and must always be taken, somebody asks all the time and
//! must never be told "complete" of what is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::http::Http;
use super::process::{Process, geotrail};
use super::{PATIENCE, eventually};
use crate::oracle::{Report, Seen, hour_name, hour_of};

const HOUR_MS: i64 = 3_600_000;
/// Drivers who report all the time, in each batch.
const DRIVERS: usize = 20;
/// Drivers who reported in the hours before, and are silent now.
const PARKED: usize = 300;
/// The freshness of the contract, and the time a test machine may take to ask.
const FRESH: Duration = Duration::from_millis(700);

pub(crate) fn now_ms() -> i64 {
    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since_1970.as_millis()).expect("before the end of time")
}

pub(crate) fn at(driver: &str, ts: i64) -> Report {
    let step = (ts.rem_euclid(9_973)) as f64 * 1e-5;
    Report { driver: driver.to_owned(), seen: Seen { ts, lat: 52.0 + step, lon: 21.0 - step, ..Seen::default() } }
}

/// A thousand and more reports of the hours before this one.
pub(crate) fn past() -> Vec<Report> {
    let now = now_ms();
    let of_hour = |hour: i64| {
        (0..PARKED).map(move |driver| at(&format!("parked-{driver}"), now - hour * HOUR_MS - driver as i64 * 7))
    };
    (1..=5).flat_map(of_hour).collect()
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    /// Of each driver: the newest acknowledged, and when.
    acknowledged: Mutex<Vec<(Instant, BTreeMap<String, i64>)>>,
    batches: AtomicUsize,
    clock: AtomicI64,
    complete: AtomicUsize,
    degraded: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

/// What goes on in the background.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    /// The hour whose drivers are all known.
    began: i64,
}

impl Traffic {
    /// Begins, on a service that has [`past`].
    pub(crate) fn on(service: &Http) -> Self {
        let shared = Arc::new(Shared::default());
        let began = now_ms();
        let tasks = vec![
            tokio::spawn(report(shared.clone(), service.clone())),
            tokio::spawn(ask(shared.clone(), service.clone(), began)),
        ];
        Self { shared, tasks, began }
    }

    /// Waits until so many more batches are acknowledged.
    pub(crate) async fn flows(&self) {
        let before = self.shared.batches.load(Ordering::SeqCst);
        eventually("more batches", async || {
            (self.shared.batches.load(Ordering::SeqCst) >= before + 10).then_some(())
        })
        .await;
    }

    /// Ends it. Everything was taken, and no answer lied.
    pub(crate) async fn end(self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("it does not panic");
        }
        let wrong = self.shared.wrong.lock();
        assert!(wrong.is_empty(), "{} times, first: {}", wrong.len(), wrong[0]);
        let (complete, degraded) = (&self.shared.complete, &self.shared.degraded);
        eprintln!("{complete:?} complete answers, {degraded:?} others, {} ms", now_ms() - self.began);
        assert!(complete.load(Ordering::SeqCst) > 0, "nothing was ever complete");
    }
}

async fn report(shared: Arc<Shared>, service: Http) {
    while !shared.is_over.load(Ordering::SeqCst) {
        let ts = now_ms().max(shared.clock.load(Ordering::SeqCst) + 1);
        shared.clock.store(ts, Ordering::SeqCst);
        let batch: Vec<Report> = (0..DRIVERS).map(|driver| at(&format!("moving-{driver}"), ts)).collect();
        match service.try_post("/v1/points", &batch).await {
            Some(answer) if answer.status == 202 => {
                let newest = batch.into_iter().map(|report| (report.driver, report.seen.ts)).collect();
                shared.acknowledged.lock().push((Instant::now(), newest));
                shared.batches.fetch_add(1, Ordering::SeqCst);
            }
            other => shared.wrong.lock().push(format!("points were not taken: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(shared: Arc<Shared>, service: Http, began: i64) {
    // The last two hours are asked about by turns: the moving, and those who parked.
    let parked_in = hour_name(hour_of(began - 2 * HOUR_MS));
    while !shared.is_over.load(Ordering::SeqCst) {
        let since = Instant::now();
        let expected = {
            let acknowledged = shared.acknowledged.lock();
            acknowledged.iter().rev().find(|(at, _)| *at + FRESH < since).map(|(_, newest)| newest.clone())
        };
        let active = service.get("/v1/active?max_age_s=600&limit=1000").await;
        if is_complete(&shared, &active) {
            let (drivers, _) = active.page();
            let found: BTreeMap<String, i64> =
                drivers.into_iter().map(|driver| (driver.id, driver.seen.ts)).collect();
            for (driver, ts) in expected.unwrap_or_default() {
                if found.get(&driver).is_none_or(|found| *found < ts) {
                    let text = format!("a complete answer has {driver} at {:?}, not {ts}", found.get(&driver));
                    shared.wrong.lock().push(text);
                }
            }
        }
        let hour = service.get(&format!("/v1/hours/{parked_in}/drivers?limit=1000")).await;
        if is_complete(&shared, &hour) {
            let parked = hour.page().0.into_iter().filter(|driver| driver.id.starts_with("parked-")).count();
            // An hour cuts through the reports of those who parked: more than half were in it, or in the next.
            let next = service.get(&format!("/v1/hours/{}/drivers?limit=1000", hour_name(hour_of(began) - 1))).await;
            if is_complete(&shared, &next) && parked == 0 && next.page().0.is_empty() {
                shared.wrong.lock().push("a complete answer has nobody who parked".to_owned());
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether an answer claims to be complete; whatever else it may be is checked.
fn is_complete(shared: &Shared, answer: &super::http::Answer) -> bool {
    match (answer.status, answer.header("geotrail-index")) {
        (200, "complete") => {
            shared.complete.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        (200, _) if answer.json()["degraded"] == true => {}
        (503, _) if answer.code() == "index_unavailable" => {}
        _ => shared.wrong.lock().push(format!("neither whole, nor labelled, nor unavailable: {answer:?}")),
    }
    shared.degraded.fetch_add(1, Ordering::SeqCst);
    false
}

/// Runs a command of the binary on a data directory.
pub(crate) async fn run(command: &[&str], dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = geotrail().args(command).arg("--data-dir").arg(dir.join("data")).args(arguments).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends in time").expect("the binary runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code().unwrap_or(-1), text)
}

/// What `verify` says of a store, with the retention that test processes have.
pub(crate) async fn verify(dir: &Path, store: &str) -> (i32, String) {
    run(&["verify"], dir, &["--retention", "72h", "--store", store]).await
}

/// Waits until the index is whole, and compares everything that was received some seconds ago.
pub(crate) async fn becomes_whole(service: &Process, dir: &Path, store: &str) {
    service.caught_up().await;
    eventually("that nothing is on its way any more", async || {
        let (code, text) = verify(dir, store).await;
        assert_eq!(code, 0, "{text}");
        (!text.contains("left out")).then_some(())
    })
    .await;
}

/// Waits until the log of the service in `dir` says `words`, `times` times.
pub(crate) async fn logged(dir: &Path, words: &str, times: usize) {
    eventually(words, async || {
        let log = std::fs::read_to_string(dir.join("log")).ok()?;
        (log.matches(words).count() >= times).then_some(())
    })
    .await;
}
