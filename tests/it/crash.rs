//! Killed ten times in the middle of its work, the service keeps every point that it acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::{Backing, Kind, on_both_stores};
use crate::oracle::{Oracle, Report, Seen};

const DRIVERS: usize = 40;
const SENDERS: usize = 4;
const KILLS: usize = 10;

/// What a sender shares with the test.
#[derive(Default)]
struct Shared {
    /// Where the service is at the moment.
    service: Mutex<Option<Http>>,
    acknowledged: Mutex<Vec<Report>>,
    done: AtomicBool,
}

fn now_ms() -> i64 {
    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since_1970.as_millis()).expect("before the end of time")
}

/// Sends batch after batch, never the same point twice, and notes what was acknowledged.
async fn send(shared: Arc<Shared>, sender: usize, began: i64) {
    let mut rng = StdRng::seed_from_u64(sender as u64);
    for tick in 0.. {
        if shared.done.load(Ordering::SeqCst) {
            return;
        }
        let batch: Vec<_> = (0..DRIVERS)
            .map(|driver| {
                let seen = Seen {
                    // Some of the last hour, some of the one before.
                    ts: began - 2 * 3_600_000 + (tick * SENDERS + sender) as i64 * 100,
                    lat: 52.0 + rng.random_range(0.0..0.1),
                    lon: 21.0 + rng.random_range(0.0..0.1),
                    ..Seen::default()
                };
                Report { driver: format!("cab-{driver}"), seen }
            })
            .collect();
        let service = shared.service.lock().clone();
        match service {
            Some(http) => match http.try_post("/v1/points", &batch).await {
                Some(answer) if answer.status == 202 => shared.acknowledged.lock().extend(batch),
                // Not acknowledged: it may be there or not.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn ten_kills_lose_nothing_that_was_acknowledged(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let (shared, began) = (Arc::new(Shared::default()), now_ms());
    let senders: Vec<_> = (0..SENDERS).map(|sender| tokio::spawn(send(shared.clone(), sender, began))).collect();
    let mut rng = StdRng::seed_from_u64(10);
    for round in 0..KILLS {
        let service = Process::serve(dir.path(), &backing.url).await;
        let before = shared.acknowledged.lock().len();
        *shared.service.lock() = Some((*service).clone());
        // A moment that is different each time, after something was acknowledged.
        crate::harness::eventually("an acknowledgement", async || {
            (shared.acknowledged.lock().len() > before).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
        *shared.service.lock() = None;
        service.kill().await;
        assert!(shared.acknowledged.lock().len() > before, "round {round}");
    }
    shared.done.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.expect("a sender does not fail");
    }

    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    let acknowledged = Oracle::of(&*shared.acknowledged.lock());
    assert!(acknowledged.len() > KILLS * DRIVERS);
    for driver in acknowledged.drivers() {
        let expected = acknowledged.track(driver, 0, i64::MAX);
        let track = service.track(driver, began - 3 * 3_600_000, began + 3_600_000).await;
        let found: BTreeMap<i64, &Seen> = track.iter().map(|seen| (seen.ts, seen)).collect();
        assert_eq!(found.len(), track.len(), "a moment is in the track twice");
        let missing = expected.iter().filter(|seen| !found.contains_key(&seen.ts)).count();
        assert_eq!(missing, 0, "of {} acknowledged points of {driver}", expected.len());
        for seen in expected {
            assert_eq!(found[&seen.ts].content(), seen.content(), "{driver}");
        }
    }
    assert!(service.terminate().await.success());
}

on_both_stores! { ten_kills_lose_nothing_that_was_acknowledged }
