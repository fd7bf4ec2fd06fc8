//! A fleet that reports and people who ask, while Redis is hurt: how long acknowledgements take, what answers say of
//! themselves, and whether those that call themselves complete are.
//!
//! Never here: what is done to Redis.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use super::percentile;
use crate::harness::http::{Answer, Http};
use crate::harness::traffic::{at, now_ms, past};
use crate::oracle::{Report, hour_name, hour_of};

/// Drivers who report all the time, in each batch.
const DRIVERS: usize = 20;
/// Between two batches.
const PAUSE: Duration = Duration::from_millis(10);
/// An answer that calls itself complete has all that was acknowledged so long before it was asked for.
const FRESHNESS_BOUND: Duration = Duration::from_millis(500);
const ASKERS: u64 = 4;

/// How often what came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) complete: usize,
    pub(crate) degraded: usize,
    pub(crate) unavailable: usize,
    pub(crate) mislabelled: usize,
    /// Batches that were not taken.
    pub(crate) refused: usize,
}

impl Count {
    pub(crate) const fn answers(&self) -> usize {
        self.complete + self.degraded + self.unavailable
    }
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    is_paused: AtomicBool,
    /// When the newest batches were acknowledged, and the `ts` they brought.
    acknowledged: Mutex<VecDeque<(Instant, i64)>>,
    acks_ms: Mutex<Vec<f64>>,
    refused: AtomicUsize,
    complete: AtomicUsize,
    degraded: AtomicUsize,
    unavailable: AtomicUsize,
    mislabelled: Mutex<Vec<String>>,
    noticed: Mutex<Option<Instant>>,
}

/// What goes on in the background.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was reported before anything began, and stays.
struct Past {
    tracks: BTreeMap<String, BTreeSet<i64>>,
    hours: BTreeMap<i64, BTreeSet<String>>,
}

impl Past {
    fn of(reports: &[Report]) -> Self {
        let mut past = Self { tracks: BTreeMap::new(), hours: BTreeMap::new() };
        for Report { driver, seen } in reports {
            past.tracks.entry(driver.clone()).or_default().insert(seen.ts);
            past.hours.entry(hour_of(seen.ts)).or_default().insert(driver.clone());
        }
        past
    }
}

impl Watch {
    /// Gives the service a past, and begins.
    pub(crate) async fn on(service: &Http, seed: u64) -> Self {
        let reports = past();
        service.report(&reports).await;
        let (shared, past) = (Arc::new(Shared::default()), Arc::new(Past::of(&reports)));
        let mut tasks = vec![tokio::spawn(report(shared.clone(), service.clone()))];
        for asker in 0..ASKERS {
            let rng = StdRng::seed_from_u64(seed ^ asker << 32);
            tasks.push(tokio::spawn(ask(shared.clone(), service.clone(), past.clone(), rng)));
        }
        let watch = Self { shared, tasks };
        crate::harness::eventually("complete answers", async || (watch.count().complete > 50).then_some(())).await;
        watch
    }

    pub(crate) fn count(&self) -> Count {
        let now = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let Shared { complete, degraded, unavailable, refused, mislabelled, .. } = &*self.shared;
        Count {
            complete: now(complete),
            degraded: now(degraded),
            unavailable: now(unavailable),
            refused: now(refused),
            mislabelled: mislabelled.lock().len(),
        }
    }

    /// The 99th percentile of what acknowledgements took since the last call, ms.
    pub(crate) fn ack_p99_ms(&self) -> f64 {
        percentile(&mut std::mem::take(&mut *self.shared.acks_ms.lock()), 0.99)
    }

    /// Nobody reports, nobody asks; or they do again.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.shared.is_paused.store(is_paused, Ordering::SeqCst);
    }

    /// Forgets that anything was noticed.
    pub(crate) fn await_notice(&self) {
        *self.shared.noticed.lock() = None;
    }

    /// When the first answer came since then that did not call itself complete.
    pub(crate) fn noticed(&self) -> Option<Instant> {
        *self.shared.noticed.lock()
    }

    /// Goes on as it is for a while.
    pub(crate) async fn for_a(&self, while_: Duration) {
        tokio::time::sleep(while_).await;
    }

    /// Waits until some answers in a row call themselves complete; when the first of them came.
    pub(crate) async fn whole(&self) -> Instant {
        crate::harness::eventually("complete answers again", async || {
            let (since, before) = (Instant::now(), self.count());
            tokio::time::sleep(Duration::from_millis(100)).await;
            let after = self.count();
            let is_whole = after.complete >= before.complete + 5
                && (after.degraded, after.unavailable) == (before.degraded, before.unavailable);
            is_whole.then_some(since)
        })
        .await
    }

    /// Ends it; what was wrong, in words.
    pub(crate) async fn end(mut self) -> (Count, Vec<String>) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        futures_util::future::try_join_all(&mut self.tasks).await.expect("nobody panics");
        (self.count(), self.shared.mislabelled.lock().clone())
    }
}

async fn report(shared: Arc<Shared>, service: Http) {
    let mut clock = 0;
    while !shared.is_over.load(Ordering::SeqCst) {
        if !shared.is_paused.load(Ordering::SeqCst) {
            let ts = now_ms().max(clock + 1);
            clock = ts;
            let batch: Vec<Report> = (0..DRIVERS).map(|driver| at(&format!("moving-{driver}"), ts)).collect();
            let began = Instant::now();
            match service.try_post("/v1/points", &batch).await {
                Some(answer) if answer.status == 202 => {
                    let now = Instant::now();
                    shared.acks_ms.lock().push((now - began).as_secs_f64() * 1e3);
                    let mut acknowledged = shared.acknowledged.lock();
                    acknowledged.push_back((now, ts));
                    while acknowledged.front().is_some_and(|(at, _)| at.elapsed() > 10 * FRESHNESS_BOUND) {
                        acknowledged.pop_front();
                    }
                }
                _ => drop(shared.refused.fetch_add(1, Ordering::SeqCst)),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(shared: Arc<Shared>, service: Http, past: Arc<Past>, mut rng: StdRng) {
    let hours: Vec<_> = past.hours.iter().collect();
    let tracks: Vec<_> = past.tracks.iter().collect();
    while !shared.is_over.load(Ordering::SeqCst) {
        if shared.is_paused.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let since = Instant::now();
        let expected =
            shared.acknowledged.lock().iter().rev().find(|(at, _)| *at + FRESHNESS_BOUND < since).map(|a| a.1);
        let wrong = match rng.random_range(0..20) {
            0 => {
                let answer = service.get("/v1/active?max_age_s=600&limit=1000").await;
                is_complete(&shared, &answer).then(|| lacks_moving(&answer, expected)).flatten()
            }
            1 => {
                let (hour, drivers) = hours[rng.random_range(0..hours.len())];
                let answer = service.get(&format!("/v1/hours/{}/drivers?limit=1000", hour_name(*hour))).await;
                is_complete(&shared, &answer).then(|| lacks_parked(&answer, drivers)).flatten()
            }
            2 => {
                let (driver, times) = tracks[rng.random_range(0..tracks.len())];
                let from = times.first().expect("nobody without a report");
                let answer = service.get(&format!("/v1/drivers/{driver}/track?from={from}&limit=1000")).await;
                is_complete(&shared, &answer).then(|| lacks_points(&answer, times)).flatten()
            }
            _ => {
                let driver = rng.random_range(0..DRIVERS);
                let answer = service.get(&format!("/v1/drivers/moving-{driver}")).await;
                is_complete(&shared, &answer).then(|| is_old(&answer, expected)).flatten()
            }
        };
        if let Some(wrong) = wrong {
            shared.mislabelled.lock().push(wrong);
        }
    }
}

/// Whether an answer claims to be complete. That there is no such driver is an answer too.
fn is_complete(shared: &Shared, answer: &Answer) -> bool {
    let (counter, is_complete) = match (answer.status, answer.header("geotrail-index")) {
        (200 | 404, "complete") => (&shared.complete, true),
        (200 | 404, "rebuilding" | "partial" | "fallback") => (&shared.degraded, false),
        (503, _) if answer.code() == "index_unavailable" => (&shared.unavailable, false),
        _ => {
            shared.mislabelled.lock().push(format!("neither labelled nor unavailable: {answer:?}"));
            return false;
        }
    };
    counter.fetch_add(1, Ordering::SeqCst);
    if !is_complete {
        shared.noticed.lock().get_or_insert_with(Instant::now);
    }
    is_complete
}

fn is_old(answer: &Answer, expected: Option<i64>) -> Option<String> {
    let expected = expected?;
    let found = (answer.status == 200).then(|| crate::harness::http::read_seen(&answer.json()).ts);
    (found < Some(expected)).then(|| format!("complete, with {found:?}, not {expected}"))
}

fn lacks_moving(answer: &Answer, expected: Option<i64>) -> Option<String> {
    let drivers: BTreeMap<String, i64> =
        answer.page().0.into_iter().map(|driver| (driver.id, driver.seen.ts)).collect();
    let is_old = |driver: &usize| drivers.get(&format!("moving-{driver}")).copied() < expected;
    let old = (0..DRIVERS).filter(is_old).count();
    (old > 0).then(|| format!("complete, without {old} of the moving as of {expected:?}"))
}

fn lacks_parked(answer: &Answer, drivers: &BTreeSet<String>) -> Option<String> {
    let found: BTreeSet<String> = if answer.status == 200 {
        answer.page().0.into_iter().map(|driver| driver.id).collect()
    } else {
        BTreeSet::new()
    };
    let missing = drivers.difference(&found).count();
    (missing > 0).then(|| format!("complete, without {missing} of {} of an hour", drivers.len()))
}

fn lacks_points(answer: &Answer, times: &BTreeSet<i64>) -> Option<String> {
    let rows = if answer.status == 200 { answer.json()["points"].as_array().cloned() } else { None };
    let found: BTreeSet<i64> =
        rows.unwrap_or_default().iter().map(|row| crate::harness::http::read_seen(row).ts).collect();
    let missing = times.difference(&found).count();
    (missing > 0).then(|| format!("complete, without {missing} of {} points of a track", times.len()))
}
