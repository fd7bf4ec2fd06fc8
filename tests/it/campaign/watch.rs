//! A fleet that reports and people who ask, while Redis is hurt: how long acknowledgements take, what answers say of
//! themselves, and whether those that call themselves complete are. With several instances the same drivers report
//! through all of them, in any order and again and again, and all of them are asked.
//!
//! Never here: what is done to Redis, or to an instance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle as Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
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
/// The same of what another instance acknowledged: how that one stands is known to within two visits to the board, of
/// half a second each, and what those take.
const FRESHNESS_ELSEWHERE: Duration = Duration::from_millis(2_500);
/// What an instance acknowledged so shortly before it died may be in its journal alone, and others call themselves
/// complete without it until it is back.
const LAST_MOMENTS: Duration = Duration::from_millis(2_500);
/// For how long it is remembered what was acknowledged.
const REMEMBERED: Duration = Duration::from_secs(30);
const ASKERS: u64 = 4;
/// That of the processes that tests start.
const RETENTION_MS: i64 = 72 * 3_600_000;
/// How far a report may be ahead of the clock of who is to take it; some seconds less, for those it is on its way.
const MAX_AHEAD_MS: i64 = 110_000;
/// Batches of which one may be sent again.
const REPEATED: usize = 200;

/// How often what came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) complete: usize,
    pub(crate) degraded: usize,
    pub(crate) unavailable: usize,
    pub(crate) mislabelled: usize,
    /// Batches that were not taken.
    pub(crate) refused: usize,
    /// Points of which the acknowledgement arrived, repeats included.
    pub(crate) acknowledged: usize,
}

impl Count {
    pub(crate) const fn answers(&self) -> usize {
        self.complete + self.degraded + self.unavailable
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.complete += other.complete;
        self.degraded += other.degraded;
        self.unavailable += other.unavailable;
        self.mislabelled += other.mislabelled;
        self.refused += other.refused;
        self.acknowledged += other.acknowledged;
    }
}

/// An answer that called itself complete and was not.
#[derive(Clone, Debug)]
pub(crate) struct Mislabelled {
    pub(crate) asked: Instant,
    pub(crate) what: String,
}

/// How long acknowledgements took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acks(Vec<f64>);

impl Acks {
    pub(crate) const fn samples(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        percentile(&mut self.0.clone(), share)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// A place of an instance, which may be empty at times.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) http: Http,
    /// How far its clock is ahead.
    pub(crate) ahead_s: i64,
    /// For how long it keeps points, by a clock that is right.
    pub(crate) keeps_ms: i64,
    /// Whoever turned to it has one of these until the answer is judged.
    in_use: Arc<()>,
}

impl Seat {
    pub(crate) fn new(http: &Http, ahead_s: i64, keeps_ms: i64) -> Self {
        Self { http: http.clone(), ahead_s, keeps_ms, in_use: Arc::default() }
    }
}

impl From<&Http> for Seat {
    fn from(http: &Http) -> Self {
        Self::new(http, 0, RETENTION_MS)
    }
}

#[derive(Default)]
struct State {
    seat: Option<Seat>,
    /// When it died; from its return on it may still owe its last moments, until all is known to be in.
    died: Option<Instant>,
}

struct Acknowledged {
    at: Instant,
    by: usize,
    ts: i64,
}

#[derive(Default)]
struct Shared {
    seats: Vec<Mutex<State>>,
    is_over: AtomicBool,
    is_paused: AtomicBool,
    /// When the newest batches were acknowledged by whom, and the `ts` they brought.
    acknowledged: Mutex<VecDeque<Acknowledged>>,
    acknowledged_points: AtomicUsize,
    /// All of those moments.
    acknowledged_ts: Mutex<Vec<i64>>,
    acks_ms: Mutex<Vec<f64>>,
    refused: AtomicUsize,
    complete: AtomicUsize,
    degraded: AtomicUsize,
    unavailable: AtomicUsize,
    mislabelled: Mutex<Vec<Mislabelled>>,
    noticed: Mutex<Option<Instant>>,
    incomplete: Mutex<Option<Instant>>,
}

impl Shared {
    fn seat(&self, number: usize) -> Option<Seat> {
        self.seats[number].lock().seat.clone()
    }

    /// Any that is there, and whether it takes what is reported just now.
    fn any_seat(&self, rng: &mut StdRng, must_take: bool) -> Option<(usize, Seat)> {
        let takes = |seat: &Seat| !must_take || seat.ahead_s * 1_000 > -MAX_AHEAD_MS;
        let there: Vec<(usize, Seat)> =
            (0..self.seats.len()).filter_map(|number| Some((number, self.seat(number).filter(takes)?))).collect();
        (!there.is_empty()).then(|| there[rng.random_range(0..there.len())].clone())
    }

    /// The `ts` that every driver must at least have in a complete answer of this instance. What lies in its future it
    /// would not have taken, and need not show.
    fn expected(&self, asked: usize, ahead_s: i64, since: Instant) -> Option<i64> {
        let until = now_ms() + ahead_s * 1_000 + MAX_AHEAD_MS;
        let died: Vec<Option<Instant>> = self.seats.iter().map(|seat| seat.lock().died).collect();
        let must_be_in = |ack: &&Acknowledged| {
            let is_own = ack.by == asked;
            let bound = if is_own { FRESHNESS_BOUND } else { FRESHNESS_ELSEWHERE };
            let was_last = died[ack.by].is_some_and(|died| ack.at + LAST_MOMENTS > died);
            ack.at + bound < since && (is_own || !was_last) && ack.ts <= until
        };
        self.acknowledged.lock().iter().rev().find(must_be_in).map(|ack| ack.ts)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

/// What goes on in the background.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    askers: Vec<JoinHandle<()>>,
    reporter: Option<Thread<()>>,
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
        Self::on_all(vec![service.into()], seed, Duration::ZERO, &reports).await
    }

    /// The same with several instances, which have this past. Whoever asks pauses for so long after each answer.
    pub(crate) async fn on_all(seats: Vec<Seat>, seed: u64, pause: Duration, reports: &[Report]) -> Self {
        let past = Arc::new(Past::of(reports));
        let seats: Vec<_> =
            seats.into_iter().map(|seat| Mutex::new(State { seat: Some(seat), died: None })).collect();
        let shared = Arc::new(Shared { seats, ..Shared::default() });
        let reporting = report(shared.clone(), StdRng::seed_from_u64(seed ^ 1 << 48));
        // A thread of its own: what answers cost the askers must not be taken for a slow acknowledgement.
        let reporter = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(reporting);
        });
        let asker = |asker: u64| {
            let rng = StdRng::seed_from_u64(seed ^ asker << 32);
            tokio::spawn(ask(shared.clone(), past.clone(), pause, rng))
        };
        let askers = (0..ASKERS).map(asker).collect();
        let watch = Self { shared, askers, reporter: Some(reporter) };
        crate::harness::eventually("complete answers", async || (watch.count().complete > 50).then_some(())).await;
        watch
    }

    pub(crate) fn count(&self) -> Count {
        let now = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let Shared { complete, degraded, unavailable, refused, mislabelled, acknowledged_points, .. } = &*self.shared;
        Count {
            complete: now(complete),
            degraded: now(degraded),
            unavailable: now(unavailable),
            refused: now(refused),
            mislabelled: mislabelled.lock().len(),
            acknowledged: now(acknowledged_points),
        }
    }

    /// Every point of those who are looked for that was acknowledged: who and when.
    pub(crate) fn acknowledged(&self) -> Vec<(String, i64)> {
        let times = self.shared.acknowledged_ts.lock().clone();
        times.into_iter().flat_map(|ts| (0..DRIVERS).map(move |driver| (format!("moving-{driver}"), ts))).collect()
    }

    /// What acknowledgements took since the last call.
    pub(crate) fn acks(&self) -> Acks {
        Acks(std::mem::take(&mut *self.shared.acks_ms.lock()))
    }

    /// Nobody reports, nobody asks; or they do again.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.shared.is_paused.store(is_paused, Ordering::SeqCst);
    }

    /// This instance is about to be killed: nobody turns to it any more.
    pub(crate) fn leaves(&self, number: usize) -> Option<Seat> {
        let mut state = self.shared.seats[number].lock();
        state.died = Some(Instant::now());
        state.seat.take()
    }

    /// The same; and whoever had turned to it before has an answer, made while it still was as its seat says.
    pub(crate) async fn is_left_alone(&self, number: usize) {
        let seat = self.leaves(number).expect("it is there");
        let is_unused = async || (Arc::strong_count(&seat.in_use) == 1).then_some(());
        crate::harness::eventually("that nobody waits for it any more", is_unused).await;
    }

    /// It is back, maybe elsewhere.
    pub(crate) fn returns(&self, number: usize, seat: Seat) {
        self.shared.seats[number].lock().seat = Some(seat);
    }

    /// Everybody is there, and all that anybody acknowledged is in.
    pub(crate) fn settled(&self) {
        for seat in &self.shared.seats {
            seat.lock().died = None;
        }
    }

    /// Forgets that anything was noticed.
    pub(crate) fn await_notice(&self) {
        *self.shared.noticed.lock() = None;
    }

    /// When the first answer came since then that did not call itself complete.
    pub(crate) fn noticed(&self) -> Option<Instant> {
        *self.shared.noticed.lock()
    }

    /// When the last answer came that did not call itself complete.
    pub(crate) fn incomplete(&self) -> Option<Instant> {
        *self.shared.incomplete.lock()
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

    /// Ends it; what was wrong.
    pub(crate) async fn end(mut self) -> (Count, Vec<Mislabelled>) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        futures_util::future::try_join_all(&mut self.askers).await.expect("nobody panics");
        if let Some(reporter) = self.reporter.take() {
            tokio::task::block_in_place(|| reporter.join()).expect("nobody panics");
        }
        (self.count(), self.shared.mislabelled.lock().clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

/// Who reports.
struct Reporter {
    shared: Arc<Shared>,
    rng: StdRng,
    /// Connections of its own to each instance.
    clients: BTreeMap<String, Http>,
}

impl Reporter {
    /// Sends a batch; whether it was taken. What was on its way to an instance that died counts as neither.
    async fn send(&mut self, by: usize, seat: &Seat, batch: &[Report]) -> bool {
        let url = seat.http.url().to_owned();
        let client = self.clients.entry(url.clone()).or_insert_with(|| Http::new(url.clone())).clone();
        let began = Instant::now();
        let answer = client.try_post("/v1/points", batch).await;
        let shared = &self.shared;
        match answer {
            Some(answer) if answer.status == 202 => {
                let took_ms = began.elapsed().as_secs_f64() * 1e3;
                shared.acks_ms.lock().push(took_ms);
                shared.acknowledged_points.fetch_add(batch.len(), Ordering::SeqCst);
                true
            }
            None if shared.seat(by).is_none_or(|now| now.http.url() != url) => false,
            _ => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                false
            }
        }
    }

    /// One batch of what is so now, in any order.
    async fn report(&mut self, ts: i64) -> Option<Vec<Report>> {
        let mut batch: Vec<Report> = (0..DRIVERS).map(|driver| at(&format!("moving-{driver}"), ts)).collect();
        batch.shuffle(&mut self.rng);
        let (by, seat) = self.shared.any_seat(&mut self.rng, true)?;
        if self.send(by, &seat, &batch).await {
            let mut acknowledged = self.shared.acknowledged.lock();
            acknowledged.push_back(Acknowledged { at: Instant::now(), by, ts });
            self.shared.acknowledged_ts.lock().push(ts);
            while acknowledged.front().is_some_and(|ack| ack.at.elapsed() > REMEMBERED) {
                acknowledged.pop_front();
            }
        }
        Some(batch)
    }
}

async fn report(shared: Arc<Shared>, rng: StdRng) {
    let mut reporter = Reporter { shared: shared.clone(), rng, clients: BTreeMap::new() };
    let (mut clock, mut sent) = (0, VecDeque::new());
    while !shared.is_over() {
        if !shared.is_paused.load(Ordering::SeqCst) {
            clock = now_ms().max(clock + 1);
            sent.extend(reporter.report(clock).await);
            // A driver who heard nothing sends again, to whomever; so does one who comes out of a tunnel.
            if shared.seats.len() > 1 && reporter.rng.random_bool(0.3) {
                let again: &Vec<Report> = &sent[reporter.rng.random_range(0..sent.len())];
                if let Some((by, seat)) = shared.any_seat(&mut reporter.rng, true) {
                    reporter.send(by, &seat, again).await;
                }
            }
            if sent.len() > REPEATED {
                sent.pop_front();
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(shared: Arc<Shared>, past: Arc<Past>, pause: Duration, mut rng: StdRng) {
    while !shared.is_over() {
        let asked = shared.any_seat(&mut rng, false).filter(|_| !shared.is_paused.load(Ordering::SeqCst));
        let Some((number, seat)) = asked else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let since = Instant::now();
        let expected = shared.expected(number, seat.ahead_s, since);
        let question = Question::any(&past, &seat, &mut rng);
        let request = seat.http.request("GET", &question.path);
        let Some(answer) = seat.http.send(request).await else {
            let is_there = shared.seat(number).is_some_and(|now| now.http.url() == seat.http.url());
            if is_there && !shared.is_over() {
                let what = format!("no answer to {}", question.path);
                shared.mislabelled.lock().push(Mislabelled { asked: since, what });
            }
            continue;
        };
        let wrong = is_complete(&shared, since, &answer).then(|| question.wrong(&answer, expected)).flatten();
        if let Some(wrong) = wrong {
            let what = format!("instance {number}: {wrong}");
            shared.mislabelled.lock().push(Mislabelled { asked: since, what });
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// What is asked, and what a complete answer must have.
struct Question<'a> {
    path: String,
    about: About<'a>,
    /// What is older need not be in the answer.
    kept_since: i64,
}

enum About<'a> {
    Active,
    Hour(&'a BTreeSet<String>),
    Track(&'a BTreeSet<i64>),
    Driver,
}

impl<'a> Question<'a> {
    fn any(past: &'a Past, seat: &Seat, rng: &mut StdRng) -> Self {
        let (path, about) = match rng.random_range(0..20) {
            // Whoever is ahead thinks that the last reports are so old.
            0 => (format!("/v1/active?max_age_s={}&limit=1000", 600 + seat.ahead_s.max(0)), About::Active),
            1 => {
                let (hour, drivers) = past.hours.iter().nth(rng.random_range(0..past.hours.len())).expect("an hour");
                (format!("/v1/hours/{}/drivers?limit=1000", hour_name(*hour)), About::Hour(drivers))
            }
            2 => {
                let nth = rng.random_range(0..past.tracks.len());
                let (driver, times) = past.tracks.iter().nth(nth).expect("a driver");
                let from = times.first().expect("nobody without a report");
                (format!("/v1/drivers/{driver}/track?from={from}&limit=1000"), About::Track(times))
            }
            _ => (format!("/v1/drivers/moving-{}", rng.random_range(0..DRIVERS)), About::Driver),
        };
        Self { path, about, kept_since: now_ms() - seat.keeps_ms }
    }

    fn wrong(&self, answer: &Answer, expected: Option<i64>) -> Option<String> {
        match self.about {
            About::Active => lacks_moving(answer, expected),
            About::Hour(drivers) => lacks_parked(answer, drivers),
            About::Track(times) => lacks_points(answer, &times.range(self.kept_since..).copied().collect()),
            About::Driver => is_old(answer, expected),
        }
    }
}

/// Whether an answer claims to be complete. That there is no such driver is an answer too.
fn is_complete(shared: &Shared, asked: Instant, answer: &Answer) -> bool {
    let (counter, is_complete) = match (answer.status, answer.header("geotrail-index")) {
        // It keeps less, by its clock.
        (404, _) if answer.code() == "out_of_retention" => return false,
        (200 | 404, "complete") => (&shared.complete, true),
        (200 | 404, "rebuilding" | "partial" | "fallback") => (&shared.degraded, false),
        (503, _) if answer.code() == "index_unavailable" => (&shared.unavailable, false),
        _ => {
            let what = format!("neither labelled nor unavailable: {answer:?}");
            shared.mislabelled.lock().push(Mislabelled { asked, what });
            return false;
        }
    };
    counter.fetch_add(1, Ordering::SeqCst);
    if !is_complete {
        let now = Instant::now();
        shared.noticed.lock().get_or_insert(now);
        *shared.incomplete.lock() = Some(now);
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
