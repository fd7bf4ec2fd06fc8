//! What is special to the embedded store: restarts, writing out, merging, damaged files. Random histories are compared
//! with the naive store, question by question.

use std::fs;
use std::path::Path;

use geotrail::model::{Accuracy, DriverId, Fix, Heading, Hour, Offset, Point, Position, Speed, Tag, Tags, Timestamp};
use geotrail::store::embedded::{EmbeddedStore, Options};
use geotrail::store::{Batch, NearbyQuery, Page, Store, StoreError, When, Window};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::naive_store::NaiveStore;

const FIRST_HOUR: Hour = Hour::from_number(498_590);
const HOURS: i32 = 5;
const LARGE: usize = Options::DEFAULT_MEMTABLE_BYTES;
/// Every batch or two of the tests fills it.
const TINY: usize = 1_000;

fn at(ms: i64) -> Timestamp {
    FIRST_HOUR.start().plus_ms(ms)
}

fn hour(index: i32) -> Hour {
    Hour::from_number(FIRST_HOUR.number() + index)
}

const EVER: Window = Window { since: Timestamp::from_ms(0), until: Timestamp::from_ms(i64::MAX) };

fn driver(id: &str) -> DriverId {
    DriverId::new(id).expect("well formed")
}

fn point(id: &str, ms: i64, lat: f64, lon: f64) -> Point {
    let position = Position::new(lat, lon).expect("in range");
    let fix = Fix { ts: at(ms), position, speed: None, heading: None, accuracy: None, tags: Tags::NONE };
    Point { driver: driver(id), fix }
}

fn any_point() -> impl Strategy<Value = Point> {
    let id = (0..12_u32).prop_map(|n| format!("d{}", n * 7 % 12));
    // Coarse in time and place, so that duplicates, ties and crowds are common.
    let ms = prop_oneof![(0..HOURS * 12).prop_map(|step| i64::from(step) * 300_000), 0..i64::from(HOURS) * 3_600_000];
    let lat = prop_oneof![437_000_000..437_200_000, Just(437_100_000), 850_000_000..=850_511_287];
    let lon =
        prop_oneof![74_000_000..74_200_000, Just(74_100_000), 1_799_990_000..1_800_000_000_i32, Just(-1_800_000_000)];
    let measures = (prop::option::of(0..1_000_u16), prop::option::of(0..3_600_u16), prop::option::of(0..500_u32));
    let tags = prop::sample::select(vec!["", "", "bike", "bike,free", "car"]);
    (id, ms, lat, lon, measures, tags).prop_map(|(id, ms, lat, lon, (speed, heading, accuracy), tags)| Point {
        driver: driver(&id),
        fix: Fix {
            ts: at(ms),
            position: Position::from_e7(lat, lon).expect("in range"),
            speed: speed.and_then(Speed::from_steps),
            heading: heading.and_then(Heading::from_tenths),
            accuracy: accuracy.and_then(Accuracy::from_dm),
            tags: Tags::from_joined(tags).expect("well formed"),
        },
    })
}

#[derive(Clone, Debug)]
enum Op {
    Apply(Vec<Point>),
    Flush,
    Forget(i64),
    /// Ends and starts the store, then applies everything again from where it says.
    Restart,
    AskHour(i32),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => prop::collection::vec(any_point(), 1..60).prop_map(Op::Apply),
        3 => Just(Op::Flush),
        1 => (0..i64::from(HOURS) * 3_600_000).prop_map(Op::Forget),
        2 => Just(Op::Restart),
        2 => (0..HOURS).prop_map(Op::AskHour),
    ]
}

async fn opened(dir: &Path, memtable_bytes: usize) -> (EmbeddedStore, Offset) {
    let store = EmbeddedStore::new(Options { dir: dir.into(), journal: "one".into(), memtable_bytes });
    let from = store.open("").await.expect("opens").expect("knows its offset");
    (store, from)
}

async fn apply(store: &EmbeddedStore, points: &[Point], end: u64, forget_before: Timestamp) {
    store
        .apply(Batch { points, start: Offset::START, end: Offset::new(end), forget_before, repeated: false })
        .await
        .expect("applies");
}

async fn all<T, F: Future<Output = Result<Page<T>, StoreError>>>(
    mut ask: impl FnMut(Option<DriverId>) -> F,
) -> Vec<T> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = ask(after).await.expect("answers");
        items.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return items,
        }
    }
}

async fn assert_same(store: &EmbeddedStore, naive: &NaiveStore, limit: usize) {
    let windows =
        [EVER, Window { since: at(4_000_000), until: at(9_000_000) }, Window { since: at(0), until: at(0) }];
    for window in windows {
        let active = all(|after| async move { store.active(window, after.as_ref(), limit).await }).await;
        assert_eq!(active, naive.active(window));
        assert_eq!(store.active_count(window).await.expect("answers"), active.len() as u64);
        assert_eq!(store.last_report(window).await.expect("answers"), naive.last_report(window));
    }
    let mut whens: Vec<When> = windows.into_iter().map(When::Within).collect();
    for hour in (-1..=HOURS).map(hour) {
        let positions = all(|after| async move { store.hour_positions(hour, after.as_ref(), limit).await }).await;
        assert_eq!(positions, naive.hour_positions(hour));
        let drivers = all(|after| async move { store.hour_drivers(hour, after.as_ref(), limit).await }).await;
        assert!(drivers.iter().eq(positions.iter().map(|located| &located.driver)));
        whens.push(When::During(hour));
    }
    for when in whens {
        for (lat, lon, tags) in [(43.71, 7.41, ""), (85.05, -180.0, ""), (43.71, 179.9999, ""), (43.71, 7.41, "bike")]
        {
            let centre = Position::new(lat, lon).expect("in range");
            let tags = tags.split(',').filter_map(|tag| Tag::new(tag).ok()).collect();
            let query = NearbyQuery { centre, radius_m: 5_000.0, limit, when, tags };
            assert_eq!(store.nearby(&query).await.expect("answers"), naive.nearby(&query));
        }
    }
    for driver in naive.drivers().iter().chain([&driver("nobody")]) {
        assert_eq!(store.latest(driver, EVER).await.expect("answers"), naive.latest(driver, EVER));
        for (from, to, limit) in [(0, i64::MAX / 2, 1_000), (1_500_000, 8_000_000, limit), (10, 10, limit)] {
            let track = store.track(driver, at(from), at(to), limit).await.expect("answers");
            assert_eq!(track, naive.track(driver, at(from), at(to), limit));
        }
    }
}

/// Runs a history against the store and the naive store; the journal is the list of batches, an offset its length.
async fn run(ops: &[Op], memtable_bytes: usize, limit: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut naive = NaiveStore::default();
    let mut journal: Vec<Vec<Point>> = Vec::new();
    let mut cutoff = Timestamp::from_ms(0);
    let (mut store, _) = opened(dir.path(), memtable_bytes).await;
    for op in ops {
        match op {
            Op::Apply(points) => {
                journal.push(points.clone());
                apply(&store, points, journal.len() as u64, cutoff).await;
                naive.apply(points, cutoff);
            }
            Op::Flush => {
                store.flush().await.expect("flushes");
                assert_eq!(store.durable(), Offset::new(journal.len() as u64));
            }
            Op::Forget(ms) => {
                cutoff = cutoff.max(at(*ms));
                store.forget_before(cutoff).await.expect("forgets");
                naive.forget_before(cutoff);
            }
            Op::Restart => {
                let durable = store.durable();
                drop(store);
                let (reopened, from) = opened(dir.path(), memtable_bytes).await;
                assert!(from >= durable, "what was durable stays so");
                assert_eq!(reopened.durable(), from);
                store = reopened;
                let replay = (from.get() as usize).saturating_sub(1);
                for (index, points) in journal.iter().enumerate().skip(replay) {
                    apply(&store, points, index as u64 + 1, cutoff).await;
                }
                store.forget_before(cutoff).await.expect("forgets");
            }
            Op::AskHour(index) => {
                let centre = Position::new(43.71, 7.41).expect("in range");
                let when = When::During(hour(*index));
                let query = NearbyQuery { centre, radius_m: 3_000.0, limit, when, tags: Vec::new() };
                assert_eq!(store.nearby(&query).await.expect("answers"), naive.nearby(&query));
            }
        }
    }
    assert_same(&store, &naive, limit).await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn any_history_leaves_the_answers_of_the_naive_store() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner =
        TestRunner::new_with_rng(Config { cases: 60, failure_persistence: None, ..Config::default() }, rng);
    let histories =
        (prop::collection::vec(any_op(), 1..40), prop::sample::select(vec![TINY, 5_000, LARGE]), 1..15_usize);
    let runtime = runtime();
    runner
        .run(&histories, |(ops, memtable_bytes, limit)| {
            runtime.block_on(run(&ops, memtable_bytes, limit));
            Ok(())
        })
        .expect("the same answers");
}

/// 40 batches of a fleet that moves on, the odd ones late.
fn batches() -> Vec<Vec<Point>> {
    let batch = |index: i64| {
        let ms = if index % 2 == 1 { index * 250_000 - 200_000 } else { index * 250_000 };
        (0..30_i64)
            .map(|n| point(&format!("v{n}"), ms + n, 43.7 + 0.001 * n as f64, 7.4 + 0.002 * index as f64))
            .collect()
    };
    (0..40).map(batch).collect()
}

async fn filled(dir: &Path, memtable_bytes: usize) -> NaiveStore {
    let (store, _) = opened(dir, memtable_bytes).await;
    let mut naive = NaiveStore::default();
    for (index, points) in batches().iter().enumerate() {
        apply(&store, points, index as u64 + 1, at(0)).await;
        naive.apply(points, at(0));
    }
    store.flush().await.expect("flushes");
    naive
}

#[tokio::test]
async fn a_restart_after_a_flush_goes_on_from_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let naive = filled(dir.path(), LARGE).await;
    let (store, from) = opened(dir.path(), LARGE).await;
    assert_eq!(from, Offset::new(40));
    assert_same(&store, &naive, 7).await;
}

#[tokio::test]
async fn a_crash_goes_back_to_the_last_flush_and_replay_heals_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut naive = filled(dir.path(), LARGE).await;
    let late = [point("v3", 17, 43.0, 7.0), point("newcomer", 9_990_000, 43.7, 7.4)];
    let (store, _) = opened(dir.path(), LARGE).await;
    apply(&store, &late, 41, at(0)).await;
    drop(store);
    let (store, from) = opened(dir.path(), LARGE).await;
    assert_eq!(from, Offset::new(40));
    assert_same(&store, &naive, 7).await;
    for (index, points) in batches().iter().enumerate().skip(30) {
        apply(&store, points, index as u64 + 1, at(0)).await;
    }
    apply(&store, &late, 41, at(0)).await;
    naive.apply(&late, at(0));
    assert_same(&store, &naive, 7).await;
    store.flush().await.expect("flushes");
    assert_eq!(store.durable(), Offset::new(41));
}

#[tokio::test]
async fn many_small_writes_are_merged_and_old_files_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let naive = filled(dir.path(), TINY).await;
    let (store, from) = opened(dir.path(), TINY).await;
    assert_eq!(from, Offset::new(40));
    assert_same(&store, &naive, 7).await;
    let runs = fs::read_dir(dir.path().join("embedded")).expect("lists").count();
    assert!(runs <= 2 + 4 * 8, "{runs} files");
}

#[tokio::test]
async fn a_flush_with_nothing_to_keep_still_moves_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = opened(dir.path(), LARGE).await;
    apply(&store, &[point("early", 0, 43.7, 7.4)], 9, hour(1).end()).await;
    store.flush().await.expect("flushes");
    assert_eq!(store.durable(), Offset::new(9));
    drop(store);
    let (store, from) = opened(dir.path(), LARGE).await;
    assert_eq!(from, Offset::new(9));
    assert_same(&store, &NaiveStore::default(), 3).await;
}

#[tokio::test]
async fn a_store_found_damaged_is_not_taken_for_whole_after_further_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    filled(dir.path(), LARGE).await;
    for entry in fs::read_dir(dir.path().join("embedded")).expect("lists") {
        let path = entry.expect("lists").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-")) {
            let mut bytes = fs::read(&path).expect("reads");
            bytes[20] ^= 1;
            fs::write(&path, bytes).expect("writes");
        }
    }
    let (store, from) = opened(dir.path(), LARGE).await;
    assert_eq!(from, Offset::new(40), "blocks are verified when they are read");
    assert!(some_track_is_corrupt(&store).await);
    assert_eq!(store.durable(), Offset::START);
    apply(&store, &batches()[0], 41, at(0)).await;
    store.flush().await.expect("flushes");
    drop(store);
    assert_eq!(opened(dir.path(), LARGE).await.1, Offset::START);
}

#[tokio::test]
async fn what_could_not_be_written_is_neither_durable_nor_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut naive = filled(dir.path(), LARGE).await;
    let (store, _) = opened(dir.path(), LARGE).await;
    let late = [point("v3", 17, 43.0, 7.0), point("newcomer", 3_700_000, 43.7, 7.4)];
    apply(&store, &late, 41, at(0)).await;
    // Wherever the run of the later hour would go, something is in the way.
    let in_the_way: Vec<_> =
        (0..1_000).map(|file| dir.path().join(format!("embedded/run-{}-{file}", hour(1)))).collect();
    let in_the_way: Vec<_> = in_the_way.into_iter().filter(|path| fs::create_dir(path).is_ok()).collect();
    assert!(matches!(store.flush().await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.durable(), Offset::new(40));
    naive.apply(&late, at(0));
    assert_same(&store, &naive, 7).await;
    drop(store);
    for path in in_the_way {
        fs::remove_dir(path).expect("it is empty");
    }
    let (store, from) = opened(dir.path(), LARGE).await;
    assert_eq!(from, Offset::new(40), "what is missing is asked for again");
    apply(&store, &late, 41, at(0)).await;
    assert_same(&store, &naive, 7).await;
    store.flush().await.expect("nothing is in the way");
    assert_eq!(store.durable(), Offset::new(41));
}

#[tokio::test]
async fn before_it_is_open_it_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::new(Options { dir: dir.path().into(), journal: "one".into(), memtable_bytes: LARGE });
    assert!(matches!(store.active_count(EVER).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(!dir.path().join("embedded").exists(), "nothing is touched before it is opened");
}

#[tokio::test]
async fn damaged_files_are_rebuilt_from_the_journal() {
    let whole = tempfile::tempdir().expect("a directory");
    let naive = filled(whole.path(), LARGE).await;
    let names: Vec<_> = fs::read_dir(whole.path().join("embedded"))
        .expect("lists")
        .map(|entry| entry.expect("lists").file_name())
        .collect();
    assert!(names.len() >= 5, "a manifest, a fleet and a run an hour");
    for name in names {
        let bytes = fs::read(whole.path().join("embedded").join(&name)).expect("reads");
        let is_run = name.to_string_lossy().starts_with("run-");
        let step = (bytes.len() / 25).max(1);
        for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            for (damaged, is_cut) in [(flipped.as_slice(), false), (&bytes[..at], true)] {
                let dir = tempfile::tempdir().expect("a directory");
                copy(whole.path(), dir.path());
                fs::write(dir.path().join("embedded").join(&name), damaged).expect("writes");
                let (mut store, mut from) = opened(dir.path(), LARGE).await;
                if is_run && !is_cut && from != Offset::START {
                    assert!(
                        some_track_is_corrupt(&store).await,
                        "a flipped bit in a block is noticed when it is read"
                    );
                    drop(store);
                    (store, from) = opened(dir.path(), LARGE).await;
                }
                assert_eq!(from, Offset::START, "{} at {at}", name.display());
                assert_eq!(store.active_count(EVER).await.expect("answers"), 0);
                for (index, points) in batches().iter().enumerate() {
                    apply(&store, points, index as u64 + 1, geotrail::model::Timestamp::from_ms(0)).await;
                }
                store.flush().await.expect("flushes");
                assert_eq!(store.active(EVER, None, 1_000).await.expect("answers").items, naive.active(EVER));
            }
        }
    }
}

async fn some_track_is_corrupt(store: &EmbeddedStore) -> bool {
    for n in 0..30 {
        if let Err(error) = store.track(&driver(&format!("v{n}")), at(0), at(36_000_000), 1_000).await {
            return matches!(error, StoreError::Corrupt(_));
        }
    }
    false
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to.join("embedded")).expect("creates");
    for entry in fs::read_dir(from.join("embedded")).expect("lists") {
        let entry = entry.expect("lists");
        fs::copy(entry.path(), to.join("embedded").join(entry.file_name())).expect("copies");
    }
}
