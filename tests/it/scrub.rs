//! Erasure part by part: what is scrubbed from segments, what a note is good for, and what a store forgets.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use geotrail::journal::{Damage, Erasure, Journal, Options, Reader, Recovery, Stage};
use geotrail::model::{DriverId, Offset, Point, Position, Timestamp, Tombstone};
use geotrail::store::{Batch, NearbyQuery, Store, When, Window};
use tempfile::TempDir;

use crate::erasure::{GONE, everybody, gone_at, holds, others, secrets, traces_on_disk};
use crate::harness::redis::RedisServer;
use crate::harness::{Kind, on_both_stores};
use crate::journal::{
    NOON, append, fixture, open, point, points, points_of, read_all, runtime, segments, three_hours,
};

fn reopen(dir: &Path) -> (Journal, Recovery) {
    Journal::open(Options::new(dir), NOON).unwrap()
}

fn driver(number: u64) -> DriverId {
    point(number).driver
}

fn stone(driver: &DriverId) -> Tombstone {
    Tombstone::new(driver, [7; 16])
}

fn note(journal: &Journal, driver: &DriverId) -> Tombstone {
    runtime().block_on(journal.note_erasure(stone(driver), NOON, None)).unwrap();
    stone(driver)
}

fn scrub(journal: &Journal) {
    let noted = journal.erasures().into_iter().filter(|erasure| erasure.stage == Stage::Noted).collect();
    runtime().block_on(journal.scrub(noted)).unwrap();
}

fn without(points: Vec<Point>, drivers: &[DriverId]) -> Vec<Point> {
    points.into_iter().filter(|point| !drivers.contains(&point.driver)).collect()
}

#[test]
fn what_is_noted_is_not_read_any_more_and_what_comes_later_is() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    append(&journal, &[points(0..20)]);
    let mut live = journal.reader(Offset::START);
    note(&journal, &driver(3));
    assert!(!journal.erasures()[0].to_string().contains("driver"), "what others asked for has no name");
    append(&journal, &[points(0..20)]);
    let expected = [without(points(0..20), &[driver(3)]), points(0..20)].concat();
    assert_eq!(points_of(&read_all(&mut live)), expected);
    assert_eq!(points_of(&read_all(&mut Reader::open(dir.path(), Offset::START))), expected, "nor by others");
    // Points that somebody has in hand are struck up to the same place.
    let end = journal.erasures()[0].end;
    assert_eq!(journal.strike(&points(0..20), end).map(|points| points.len()), Some(19));
    assert_eq!(journal.strike(&points(0..20), Offset::new(end.get() + 1)), None);
    drop(journal);
    let (journal, _) = reopen(dir.path());
    assert_eq!(points_of(&read_all(&mut journal.reader(Offset::START))), expected, "after a crash");
    scrub(&journal);
    assert_eq!(points_of(&read_all(&mut journal.reader(Offset::START))), expected);
    assert_eq!(journal.erasures()[0].stage, Stage::Scrubbed);
}

#[test]
fn a_reader_in_the_middle_of_a_segment_goes_on_in_the_new_one() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    let batches: Vec<_> = (0..9).map(|batch| points(batch * 5..batch * 5 + 5)).collect();
    append(&journal, &batches);
    let mut readers = [journal.reader(Offset::START), Reader::open(dir.path(), Offset::START)];
    for reader in &mut readers {
        assert_eq!(points_of(&reader.read(15).unwrap()), points(0..15));
    }
    for number in [4, 15, 22, 44] {
        note(&journal, &driver(number));
    }
    scrub(&journal);
    let left = without(points(15..45), &[15, 22, 44].map(driver));
    for mut reader in readers {
        let records = read_all(&mut reader);
        assert_eq!((points_of(&records), reader.damage()), (left.clone(), Damage::default()));
        assert_eq!(records.last().unwrap().points_end, 45, "numbers stay");
    }
    // Starts go by the same numbers.
    drop(journal);
    let (journal, recovery) = reopen(dir.path());
    assert_eq!((recovery.points, recovery.damage, recovery.torn_bytes), (45, Damage::default(), 0));
    assert_eq!(points_of(&read_all(&mut journal.reader(Offset::START))).len(), 41);
}

#[test]
fn damaged_bytes_are_overwritten_and_count_as_before() {
    for (name, at) in [("a payload", 700_u64), ("a header", 148)] {
        let dir = TempDir::new().unwrap();
        let (journal, _) = three_hours(dir.path());
        let middle = segments(dir.path())[1].clone();
        let whole = fs::read(&middle).unwrap();
        OpenOptions::new().write(true).open(&middle).unwrap().write_all_at(&[0xee; 3], at).unwrap();
        let damage = {
            let mut reader = journal.reader(Offset::START);
            read_all(&mut reader);
            reader.damage()
        };
        assert_eq!(damage.lost_points, 20, "{name}");
        note(&journal, &driver(12));
        scrub(&journal);
        let scrubbed = fs::read(&middle).unwrap();
        for number in 10..30 {
            assert!(holds(&whole, driver(number).as_str().as_bytes()));
            assert!(!holds(&scrubbed, driver(number).as_str().as_bytes()), "{name}: nobody knows whose it is");
        }
        let mut reader = journal.reader(Offset::START);
        assert_eq!(points_of(&read_all(&mut reader)), [points(0..10), points(30..35)].concat());
        assert_eq!(reader.damage(), damage, "{name}");
    }
}

#[test]
fn what_a_scrub_left_behind_goes_and_a_second_one_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = three_hours(dir.path());
    note(&journal, &driver(12));
    drop(journal);
    // As if the process had died over the second segment.
    let leftover = segments(dir.path())[1].with_extension("scrub");
    fs::write(&leftover, driver(12).as_str()).unwrap();
    let (journal, _) = reopen(dir.path());
    assert!(!leftover.exists());
    let read = |journal: &Journal| points_of(&read_all(&mut journal.reader(Offset::START)));
    scrub(&journal);
    let bytes = |dir: &Path| segments(dir).iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let once = bytes(dir.path());
    assert_eq!(read(&journal), without(points(0..35), &[driver(12)]));
    let again: Vec<Erasure> = journal.erasures();
    runtime().block_on(journal.scrub(again)).unwrap();
    assert!(once == bytes(dir.path()), "it is all done already");
    // Done is done for this process's successors too.
    let tombstone = journal.erasures()[0].tombstone;
    runtime().block_on(journal.erasure_done(tombstone)).unwrap();
    drop(journal);
    let (journal, _) = reopen(dir.path());
    assert_eq!(journal.erasures()[0].stage, Stage::Done);
    assert_eq!(journal.strike(&points(0..35), Offset::START), None);
    runtime().block_on(journal.forget_erasures(NOON)).unwrap();
    assert_eq!(journal.erasures().len(), 1, "not yet");
    runtime().block_on(journal.forget_erasures(NOON.plus_ms(1))).unwrap();
    assert_eq!(journal.erasures(), []);
}

#[test]
fn a_damaged_line_of_the_note_costs_that_line() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    append(&journal, &[points(0..5)]);
    let stones = [1, 2, 3].map(|number| note(&journal, &driver(number)));
    drop(journal);
    let path = dir.path().join("journal/erasures");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 5;
    bytes[second] ^= 1;
    fs::write(&path, bytes).unwrap();
    let known: Vec<_> = reopen(dir.path()).0.erasures().iter().map(|erasure| erasure.tombstone).collect();
    assert_eq!(known, [stones[0], stones[2]]);
}

#[test]
fn version_1_with_points_erased_is_read_for_ever() {
    let dir = fixture("erased");
    let expected = without(points(0..35), &[driver(4), driver(12)]);
    let mut reader = Reader::open(dir.path(), Offset::START);
    let records = read_all(&mut reader);
    assert_eq!((points_of(&records), reader.damage()), (expected.clone(), Damage::default()));
    assert_eq!(records.iter().map(|record| record.end.get()).collect::<Vec<_>>(), [475, 1_257, 1_599]);
    let (journal, recovery) = Journal::open(Options::new(dir.path()), NOON).unwrap();
    assert_eq!((recovery.points, recovery.torn_bytes), (35, 0));
    let stages: Vec<_> = journal.erasures().into_iter().map(|e| (e.tombstone, e.stage, e.end.get())).collect();
    assert_eq!(stages, [(stone(&driver(4)), Stage::Done, 1_599), (stone(&driver(12)), Stage::Scrubbed, 1_599)]);
    assert_eq!(points_of(&read_all(&mut journal.reader(Offset::START))), expected);
}

#[test]
#[ignore = "makes a fixture of version 1, which exists; here to show how it was made"]
fn make_the_fixture_with_points_erased() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1/erased");
    assert!(!dir.exists(), "a fixture is never made again");
    let (journal, _) = three_hours(&dir);
    let first = note(&journal, &driver(4));
    note(&journal, &driver(12));
    scrub(&journal);
    runtime().block_on(journal.erasure_done(first)).unwrap();
    drop(journal);
    fs::remove_file(dir.join("journal/lock")).unwrap();
    let last = segments(&dir).pop().unwrap();
    if fs::metadata(&last).unwrap().len() == 144 {
        fs::remove_file(last).unwrap();
    }
}

const RETENTION: Duration = Duration::from_hours(72);

/// A small store, and what it lives on.
enum Home {
    Dir(TempDir),
    Server(RedisServer),
}

impl Home {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Embedded => Self::Dir(TempDir::new().unwrap()),
            Kind::Redis => Self::Server(RedisServer::start()),
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        use geotrail::store::{embedded, redis};
        let store: Arc<dyn Store> = match self {
            Self::Dir(dir) => Arc::new(embedded::EmbeddedStore::new(embedded::Options {
                dir: dir.path().to_owned(),
                journal: "one".into(),
                memtable_bytes: 8 * 1_024,
            })),
            Self::Server(server) => {
                let options = redis::Options {
                    url: server.url(),
                    ca: None,
                    prefix: "geotrail".into(),
                    instance: "00000000000000a1".into(),
                    shard_resolution: None,
                    retention: RETENTION,
                    deadline: Duration::from_secs(5),
                };
                Arc::new(redis::RedisStore::connect(options).await.unwrap())
            }
        };
        store.open("").await.unwrap();
        store
    }
}

/// Everything a store answers, in one piece.
async fn view(store: &dyn Store, now: i64) -> BTreeMap<String, String> {
    let at = Timestamp::from_ms;
    let window = Window { since: at(now - 10 * 3_600_000), until: at(now + 120_000) };
    let mut view = BTreeMap::new();
    let mut see = |what: String, answer: String| drop(view.insert(what, answer));
    see("active".into(), format!("{:?}", store.active(window, None, 1_000).await.unwrap().items));
    see("count".into(), format!("{:?}", store.active_count(window).await.unwrap()));
    for hour in window.since.hour().newest_first(window.until.hour()) {
        see(format!("drivers {hour}"), format!("{:?}", store.hour_drivers(hour, None, 1_000).await.unwrap().items));
        see(format!("last {hour}"), format!("{:?}", store.hour_positions(hour, None, 1_000).await.unwrap().items));
        let centre = Position::new(47.3, 8.5).unwrap();
        let query = NearbyQuery { centre, radius_m: 100_000.0, limit: 9, when: When::During(hour), tags: vec![] };
        see(format!("near {hour}"), format!("{:?}", store.nearby(&query).await.unwrap()));
    }
    for id in others().chain([GONE.to_owned(), "newcomer".into()]) {
        let driver = DriverId::new(&id).unwrap();
        see(format!("latest {id}"), format!("{:?}", store.latest(&driver, window).await.unwrap()));
        let track = store.track(&driver, window.since, window.until, 10_000).await.unwrap();
        see(format!("track {id}"), format!("{track:?}"));
    }
    view
}

async fn an_erased_driver_leaves_a_store_as_if_it_had_never_been(kind: Kind) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let (home, reference_home) = (Home::new(kind), Home::new(kind));
    let (mut store, reference) = (home.open().await, reference_home.open().await);
    let gone = DriverId::new(GONE).unwrap();
    let mut end = 0;
    let mut apply = async |store: &Arc<dyn Store>, reference: &Arc<dyn Store>, reports: &[crate::oracle::Report]| {
        for reports in reports.chunks(60) {
            let points: Vec<Point> = reports.iter().map(crate::store_contract::point).collect();
            let rest = without(points.clone(), std::slice::from_ref(&gone));
            end += 1_000;
            let (end, forget_before) = (Offset::new(end), Timestamp::from_ms(0));
            let batch = |points| Batch { points, start: Offset::START, end, forget_before, repeated: false };
            store.apply(batch(&points)).await.unwrap();
            reference.apply(batch(&rest)).await.unwrap();
        }
    };
    let reports = everybody(now, 400);
    let (older, newer) = reports.split_at(reports.len() / 2);
    apply(&store, &reference, older).await;
    if let Home::Dir(_) = home {
        store.flush().await.unwrap();
    }
    apply(&store, &reference, newer).await;
    let with = view(&*store, now).await;
    assert_ne!(with, view(&*reference, now).await);

    store.erase(&gone).await.unwrap();
    assert_eq!(view(&*store, now).await, view(&*reference, now).await);
    if let Home::Dir(dir) = &home {
        assert_eq!(traces_on_disk(dir.path()), Vec::<std::path::PathBuf>::new());
    }
    store.erase(&gone).await.unwrap();
    store.erase(&DriverId::new("never-seen").unwrap()).await.unwrap();
    assert_eq!(view(&*store, now).await, view(&*reference, now).await, "again, and somebody unknown");

    // Whoever comes next gets nothing of what is gone, here and after a start.
    let mut newcomer = gone_at(now - 4_000);
    newcomer.driver = "newcomer".into();
    newcomer.seen.lat = 12.0;
    apply(&store, &reference, &[newcomer]).await;
    assert_eq!(view(&*store, now).await, view(&*reference, now).await, "a newcomer");
    if let Home::Dir(dir) = &home {
        store.flush().await.unwrap();
        drop(store);
        assert!(!traces_on_disk(dir.path()).iter().any(|path| { holds(&fs::read(path).unwrap(), &secrets()[0]) }));
        store = home.open().await;
        assert_eq!(view(&*store, now).await, view(&*reference, now).await, "after a start");
    }
    // And whoever was erased may come back.
    let back: Vec<_> = (0..3).map(|n| gone_at(now - n * 3_700_000)).collect();
    apply(&store, &reference, &back).await;
    let points: Vec<Point> = back.iter().map(crate::store_contract::point).collect();
    let batch = Batch {
        points: &points,
        start: Offset::START,
        end: Offset::new(1),
        forget_before: Timestamp::from_ms(0),
        repeated: false,
    };
    reference.apply(batch).await.unwrap();
    assert_eq!(view(&*store, now).await, view(&*reference, now).await, "come back");
}

on_both_stores! { an_erased_driver_leaves_a_store_as_if_it_had_never_been }
