//! Points sent over HTTP to a service that dies again and again, with a log of every acknowledgement that was received;
//! and the comparison of that log with what a journal holds.
//!
//! A point is a function of its sender and number, so what was sent need not be remembered to be known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::oracle_reader::{self, Found};
use crate::harness::http::Http;
use crate::harness::traffic::now_ms;

/// Drivers of one sender.
const DRIVERS: u64 = 50;
/// How many points of each driver are in a batch, at most.
const MOST_EACH: u64 = 16;
/// Between two points of a driver.
const STEP_MS: i64 = 3;
const SENDERS: u64 = 3;
const HOUR_MS: i64 = 3_600_000;

/// What senders and whoever kills share.
#[derive(Default)]
struct Shared {
    service: Mutex<Option<Http>>,
    /// For each sender the numbers of the batches whose acknowledgement arrived.
    acknowledged: Mutex<BTreeMap<u64, Vec<u64>>>,
    points: AtomicUsize,
    in_flight: AtomicUsize,
    refused: AtomicUsize,
    is_over: AtomicBool,
    is_deaf: AtomicBool,
}

/// Senders that go on until they are ended.
pub(crate) struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
    began: i64,
}

/// What the oracle found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    /// Points whose acknowledgement was received.
    pub(crate) acknowledged: usize,
    /// Of those, not in the journal.
    pub(crate) lost: usize,
    /// Batches of which only a part is there.
    pub(crate) half_batches: usize,
    /// Points that nobody sent.
    pub(crate) invented: usize,
    /// Batches that were answered with an error while the service ran.
    pub(crate) refused: usize,
    /// Records that are damaged.
    pub(crate) damaged: usize,
}

impl Verdict {
    pub(crate) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.half_batches += other.half_batches;
        self.invented += other.invented;
        self.refused += other.refused;
        self.damaged += other.damaged;
    }

    /// Nothing promised is missing, nothing is there that should not be.
    pub(crate) fn assert_sound(&self) {
        assert_eq!((self.lost, self.half_batches, self.invented), (0, 0, 0), "{self:?}");
    }
}

impl Load {
    pub(crate) fn start() -> Self {
        // Far enough back that times go up by the step, whatever the number of batches.
        let (shared, began) = (Arc::new(Shared::default()), now_ms() - 40 * HOUR_MS);
        let senders = (0..SENDERS).map(|sender| tokio::spawn(send(shared.clone(), sender, began))).collect();
        Self { shared, senders, began }
    }

    /// From now on to this service, or to none.
    pub(crate) fn to(&self, service: Option<Http>) {
        if service.is_some() {
            self.shared.is_deaf.store(false, Ordering::SeqCst);
        }
        *self.shared.service.lock() = service;
    }

    /// What is answered from now on counts for nothing, until there is a service again.
    pub(crate) fn hears_no_more(&self) {
        self.shared.is_deaf.store(true, Ordering::SeqCst);
    }

    /// Points acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.points.load(Ordering::SeqCst)
    }

    /// Whether somebody waits for an answer.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.shared.in_flight.load(Ordering::SeqCst) > 0
    }

    /// Ends it, and compares what was acknowledged with the journal in `data_dir`.
    pub(crate) async fn judge(self, data_dir: &Path) -> Verdict {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for sender in self.senders {
            sender.await.expect("a sender does not fail");
        }
        let data_dir = data_dir.to_owned();
        let read = tokio::task::spawn_blocking(move || oracle_reader::read(&data_dir)).await.expect("it reads");
        let acknowledged = self.shared.acknowledged.lock();
        let refused = self.shared.refused.load(Ordering::SeqCst);
        let mut verdict = Verdict { damaged: read.damaged, refused, ..Verdict::default() };
        // The number of points of each batch that is there; one that was repeated by nobody is there once.
        let mut found: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for point in read.records.iter().flatten() {
            match sent_as(point, self.began) {
                Some(batch) => *found.entry(batch).or_default() += 1,
                None => verdict.invented += 1,
            }
        }
        for (&(sender, number), &count) in &found {
            verdict.half_batches += usize::from(count != size(sender, number));
        }
        for (&sender, numbers) in &*acknowledged {
            for &number in numbers {
                let (size, there) = (size(sender, number), found.get(&(sender, number)).copied().unwrap_or_default());
                verdict.acknowledged += size as usize;
                verdict.lost += size.saturating_sub(there) as usize;
            }
        }
        verdict
    }
}

async fn send(shared: Arc<Shared>, sender: u64, began: i64) {
    for number in 0.. {
        let body = body(sender, number, began);
        let service = loop {
            if shared.is_over.load(Ordering::SeqCst) {
                return;
            }
            let service = shared.service.lock().clone();
            match service {
                Some(service) => break service,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let request = service.request("POST", "/v1/points").header("content-type", "application/json").body(body);
        let answer = service.send(request).await;
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Some(_) if shared.is_deaf.load(Ordering::SeqCst) => {}
            Some(answer) if answer.status == 202 => {
                shared.acknowledged.lock().entry(sender).or_default().push(number);
                shared.points.fetch_add(size(sender, number) as usize, Ordering::SeqCst);
            }
            Some(_) => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // It died: the batch may be there or not. The next one is another.
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Points in a batch: from fifty to eight hundred.
fn size(sender: u64, number: u64) -> u64 {
    DRIVERS * (1 + mixed(sender << 32 | number) % MOST_EACH)
}

fn point(sender: u64, number: u64, nth: u64, began: i64) -> Found {
    let (driver, turn) = (nth % DRIVERS, nth / DRIVERS);
    let any = mixed(sender << 48 ^ number << 16 ^ nth);
    let sometimes = |bit: u32, value: u64| (any >> bit & 1 == 1).then_some(value);
    Found {
        driver: format!("k{sender}-{driver}"),
        ts: began + (number * MOST_EACH + turn).cast_signed() * STEP_MS,
        lat_e7: (any % 1_600_000_000) as i32 - 800_000_000,
        lon_e7: (any >> 20 & 0x3fff_ffff) as i32 - 500_000_000,
        speed_50th: sometimes(60, any >> 8 & 0x3ff),
        heading_10th: sometimes(61, (any >> 8) % 3_600),
        accuracy_dm: sometimes(62, any >> 8 & 0xfff),
        tags: if any >> 63 == 1 { "car,free".into() } else { String::new() },
    }
}

/// The batch that a point of the journal belongs to, if it was sent, exactly so.
fn sent_as(found: &Found, began: i64) -> Option<(u64, u64)> {
    let (sender, driver) = found.driver.strip_prefix('k')?.split_once('-')?;
    let (sender, driver): (u64, u64) = (sender.parse().ok()?, driver.parse().ok()?);
    let step = u64::try_from(found.ts - began).ok()? / STEP_MS.unsigned_abs();
    let (number, turn) = (step / MOST_EACH, step % MOST_EACH);
    let nth = turn * DRIVERS + driver;
    (nth < size(sender, number) && point(sender, number, nth, began) == *found).then_some((sender, number))
}

fn body(sender: u64, number: u64, began: i64) -> String {
    let mut body = String::from("[");
    for nth in 0..size(sender, number) {
        let Found { driver, ts, lat_e7, lon_e7, speed_50th, heading_10th, accuracy_dm, tags } =
            point(sender, number, nth, began);
        let comma = if nth == 0 { "" } else { "," };
        let (lat, lon) = (decimal(lat_e7.into(), 7), decimal(lon_e7.into(), 7));
        write!(body, r#"{comma}{{"driver_id":"{driver}","ts":{ts},"lat":{lat},"lon":{lon}"#).expect("into memory");
        let measures = [
            ("speed_mps", speed_50th.map(|speed| decimal(speed.cast_signed() * 2, 2))),
            ("heading_deg", heading_10th.map(|heading| decimal(heading.cast_signed(), 1))),
            ("accuracy_m", accuracy_dm.map(|accuracy| decimal(accuracy.cast_signed(), 1))),
        ];
        for (name, value) in measures {
            if let Some(value) = value {
                write!(body, r#","{name}":{value}"#).expect("into memory");
            }
        }
        if !tags.is_empty() {
            body.push_str(r#","tags":["car","free"]"#);
        }
        body.push('}');
    }
    body.push(']');
    body
}

/// A whole number of units of which there are ten to the power of `digits` in one.
fn decimal(value: i64, digits: u32) -> String {
    let unit = 10_i64.pow(digits);
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}.{:0width$}", value.abs() / unit, value.abs() % unit, width = digits as usize)
}

/// The finalizer of `SplitMix64`: as good as random, and the same each time.
fn mixed(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
