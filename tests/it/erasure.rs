//! An erased driver is gone: from every answer, from every byte on disk and in Redis, at every instance, for good;
//! and nobody else notices.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use geotrail::journal::{Journal, Options, Reader};
use geotrail::model::{DriverId, Offset, Timestamp, Tombstone};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::{Backing, Kind, eventually, on_both_stores};
use crate::oracle::{Report, Seen};

const HOUR_MS: i64 = 3_600_000;
const DRIVERS: usize = 12;
/// Who is erased. No other id has it in it.
pub(crate) const GONE: &str = "zq7-who-wants-out";
/// Where it always is, so that a search finds it: no other driver comes near.
const PLACE: (f64, f64) = (47.312_468_9, 8.527_913_1);

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

pub(crate) fn others() -> impl Iterator<Item = String> {
    (0..DRIVERS).map(|driver| format!("cab-{driver}"))
}

/// `count` reports of everybody, one every 37 s, the last at `until`.
pub(crate) fn everybody(until: i64, count: usize) -> Vec<Report> {
    let mut reports = Vec::new();
    for n in 0..count {
        let ts = until - (count - 1 - n) as i64 * 37_000;
        reports.extend(others().enumerate().map(|(driver, id)| {
            let (lat, lon) = (52.0 + driver as f64 * 0.01 + n as f64 * 1e-4, 21.0 + n as f64 * 1e-4);
            Report { driver: id, seen: Seen { ts, lat, lon, tags: vec!["van".into()], ..Seen::default() } }
        }));
        reports.push(gone_at(ts));
    }
    reports
}

pub(crate) fn gone_at(ts: i64) -> Report {
    let seen = Seen { ts, lat: PLACE.0, lon: PLACE.1, speed: Some(7.5), ..Seen::default() };
    Report { driver: GONE.into(), seen }
}

/// What must not be found anywhere: the id; the place as the journal and tracks have it, and as a packed fix has it.
pub(crate) fn secrets() -> Vec<Vec<u8>> {
    let e7 = |degrees: f64| (degrees * 1e7).round() as i32;
    let (lat, lon) = (e7(PLACE.0), e7(PLACE.1));
    let biased = |steps: i32| ((steps as u32) ^ 1 << 31).to_be_bytes();
    vec![
        GONE.as_bytes().to_vec(),
        [lat.to_le_bytes(), lon.to_le_bytes()].concat(),
        [biased(lat), biased(lon)].concat(),
    ]
}

pub(crate) fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The files below `dir` that hold any of the secrets; its log among them.
pub(crate) fn traces_on_disk(dir: &Path) -> Vec<PathBuf> {
    let holds_some = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        secrets().iter().any(|secret| holds(&bytes, secret))
    };
    files(dir).into_iter().filter(holds_some).collect()
}

/// The keys of Redis that hold any of the secrets, in their names or values.
pub(crate) fn traces_in_redis(server: &RedisServer) -> Vec<String> {
    let port = server.url().rsplit(':').next().expect("a port").to_owned();
    let ask = |args: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(args).output();
        output.expect("redis-cli is installed").stdout
    };
    let holds_some = |key: &String| {
        let value = match server.cli(&["TYPE", key]).trim() {
            "string" => ask(&["GET", key]),
            "hash" => ask(&["HGETALL", key]),
            "set" => ask(&["SMEMBERS", key]),
            "zset" => ask(&["ZRANGE", key, "0", "-1"]),
            "stream" => ask(&["XRANGE", key, "-", "+"]),
            "none" => Vec::new(),
            other => panic!("{key} is a {other}"),
        };
        secrets().iter().any(|secret| holds(&value, secret) || holds(key.as_bytes(), secret))
    };
    server.keys().into_iter().filter(holds_some).collect()
}

fn traces(dir: &Path, backing: &Backing) -> (Vec<PathBuf>, Vec<String>) {
    (traces_on_disk(dir), backing.server.as_ref().map(traces_in_redis).unwrap_or_default())
}

pub(crate) async fn delete(service: &Http, driver: &str) -> Option<u16> {
    service.send(service.request("DELETE", &format!("/v1/drivers/{driver}"))).await.map(|answer| answer.status)
}

/// Everybody any answer shows.
async fn shown(service: &Http) -> BTreeSet<String> {
    let (lat, lon) = PLACE;
    let hour = |age: i64| {
        let hour = service_hour(now_ms() - age * HOUR_MS);
        [format!("/v1/hours/{hour}/drivers?"), format!("/v1/hours/{hour}/positions?")]
    };
    let mut paths: Vec<String> = (0..4).flat_map(hour).collect();
    paths.push("/v1/active?max_age_s=20000".into());
    let mut shown = BTreeSet::new();
    for path in paths {
        shown.extend(service.all_pages(&path, 1_000).await.into_iter().map(|driver| driver.id));
    }
    let mut near = vec![format!("/v1/nearby?lat={lat}&lon={lon}&max_age_s=20000")];
    near.extend(
        (0..4).map(|age| format!("/v1/nearby?lat={lat}&lon={lon}&hour={}", service_hour(now_ms() - age * HOUR_MS))),
    );
    for path in near {
        shown.extend(service.get(&path).await.page().0.into_iter().map(|driver| driver.id));
    }
    shown
}

fn service_hour(ts: i64) -> String {
    geotrail::model::Timestamp::from_ms(ts).hour().to_string()
}

async fn count(service: &Http) -> u64 {
    service.get("/v1/active/count?max_age_s=20000").await.json()["count"].as_u64().expect("a count")
}

async fn in_cells(service: &Http) -> u64 {
    let cells = service.get("/v1/density?max_age_s=20000").await.json();
    let cells = cells["cells"].as_array().expect("cells").clone();
    cells.iter().map(|cell| cell["drivers"].as_u64().expect("a number")).sum()
}

/// The moments of a driver's track; empty if it is not known.
pub(crate) async fn moments(service: &Http, driver: &str) -> Vec<i64> {
    let (from, to) = (now_ms() - 20 * HOUR_MS, now_ms() + HOUR_MS);
    if service.get(&format!("/v1/drivers/{driver}/track?from={from}&to={to}")).await.status == 404 {
        return Vec::new();
    }
    service.track(driver, from, to).await.into_iter().map(|seen| seen.ts).collect()
}

async fn check_gone(service: &Http) {
    assert_eq!(service.get(&format!("/v1/drivers/{GONE}")).await.status, 404);
    assert_eq!(service.get(&format!("/v1/drivers/{GONE}/track")).await.status, 404);
    assert_eq!(moments(service, GONE).await, Vec::<i64>::new());
    assert_eq!(shown(service).await, others().collect::<BTreeSet<_>>());
    assert_eq!((count(service).await, in_cells(service).await), (DRIVERS as u64, DRIVERS as u64));
}

/// The points in a segment as they lie there: where, and whose. Read by the page that describes them, with nothing of
/// the code that wrote them; `None` where one was erased.
fn places(bytes: &[u8]) -> Vec<(Range<usize>, Option<String>)> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let varint = |mut at: usize| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            value |= u64::from(bytes[at] & 0x7f) << shift;
            at += 1;
            if bytes[at - 1] < 0x80 {
                return (value as usize, at);
            }
            shift += 7;
        }
    };
    let (mut places, mut frame) = (Vec::new(), 144);
    while frame < bytes.len() {
        let mut at = frame + 44;
        for _ in 0..u32_at(frame + 8) {
            let (start, flags) = (at, bytes[at]);
            if flags == 16 {
                at += usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]));
                assert!(bytes[start + 3..at].iter().all(|byte| *byte == 0), "filler is zeros");
                places.push((start..at, None));
                continue;
            }
            let id_len = usize::from(bytes[at + 1]);
            let id = String::from_utf8(bytes[at + 2..at + 2 + id_len].to_vec()).expect("an id");
            at = varint(at + 2 + id_len).1 + 8;
            for flag in [1, 2, 4] {
                at = if flags & flag > 0 { varint(at).1 } else { at };
            }
            if flags & 8 > 0 {
                let (len, text) = varint(at);
                at = text + len;
            }
            places.push((start..at, Some(id)));
        }
        assert_eq!(at, frame + 44 + u32_at(frame + 4), "the points fill the record");
        frame = at;
    }
    places
}

fn segments(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = files(&dir.join("data/journal"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a segment"))).collect()
}

/// All other bytes of the journal are as they were, but for the checksums that cover what was erased.
fn check_nothing_else_changed(before: &[(PathBuf, Vec<u8>)]) {
    let mut erased = 0;
    for (path, old) in before {
        let new = fs::read(path).expect("the segment is still there");
        assert_eq!(new.len(), old.len());
        let (was, is) = (places(old), places(&new));
        let mut same = old.clone();
        for ((place, id), (other, now)) in was.iter().zip(&is) {
            assert_eq!(place, other);
            assert_eq!(now, &id.clone().filter(|id| id != GONE), "of {}", path.display());
            if now.is_none() {
                erased += 1;
                same[place.clone()].copy_from_slice(&new[place.clone()]);
            }
        }
        // The checksums of each record: 4 bytes at 12 and at 40 of its header.
        let mut frame = 144;
        while frame < old.len() {
            for crc in [frame + 12..frame + 16, frame + 40..frame + 44] {
                same[crc.clone()].copy_from_slice(&new[crc]);
            }
            frame += 44 + u32::from_le_bytes(old[frame + 4..frame + 8].try_into().expect("four bytes")) as usize;
        }
        assert!(same == new, "{} differs where nothing was erased", path.display());
    }
    assert!(erased > 0);
}

/// Every point of the journal in `dir`, each as text.
fn journalled(dir: &Path) -> Vec<String> {
    let mut reader = Reader::open(&dir.join("data"), Offset::START);
    let mut all = Vec::new();
    loop {
        let records = reader.read(1_000).expect("it can be read");
        if records.is_empty() {
            assert_eq!(reader.damage(), geotrail::journal::Damage::default());
            return all;
        }
        all.extend(records.iter().flat_map(|record| &record.points).map(|point| format!("{point:?}")));
    }
}

/// Takes the index away, so that the next start has to make it anew.
fn lose_the_index(dir: &Path, backing: &Backing) {
    match &backing.server {
        Some(server) => {
            server.cli(&["FLUSHALL"]);
            let _ = fs::remove_file(dir.join("data/checkpoint-redis"));
        }
        None => fs::remove_dir_all(dir.join("data/embedded")).expect("there was one"),
    }
}

async fn what_is_erased_is_nowhere_and_nobody_else_notices(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&everybody(now_ms() - HOUR_MS, 150)).await;
    // What is in memory goes to files.
    assert!(service.terminate().await.success());
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&everybody(now_ms(), 80)).await;
    assert!(shown(&service).await.contains(GONE));
    assert_eq!((count(&service).await, in_cells(&service).await), (DRIVERS as u64 + 1, DRIVERS as u64 + 1));
    let (on_disk, in_redis) = traces(dir.path(), &backing);
    match kind {
        Kind::Embedded => assert!(on_disk.len() > 3, "journal, runs, fleet: {on_disk:?}"),
        Kind::Redis => assert!(in_redis.len() > 8, "{in_redis:?}"),
    }
    let mut expected = Vec::new();
    for driver in others() {
        expected.push(moments(&service, &driver).await);
    }
    let (segments, points) = (segments(dir.path()), journalled(dir.path()));

    assert_eq!(delete(&service, GONE).await, Some(204));
    assert_eq!(traces(dir.path(), &backing), (vec![], vec![]));
    check_gone(&service).await;
    check_nothing_else_changed(&segments);
    let kept: Vec<String> = points.into_iter().filter(|point| !point.contains(GONE)).collect();
    assert_eq!(journalled(dir.path()), kept);
    assert_eq!(delete(&service, GONE).await, Some(204), "it is nobody now, and nobody can be erased");

    for (driver, expected) in others().zip(&expected) {
        assert_eq!(&moments(&service, &driver).await, expected, "{driver}");
    }
    service.kill().await;
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    check_gone(&service).await;
    assert!(service.terminate().await.success());
    lose_the_index(dir.path(), &backing);
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    check_gone(&service).await;
    for (driver, expected) in others().zip(&expected) {
        assert_eq!(&moments(&service, &driver).await, expected, "{driver}");
    }
    assert_eq!(traces(dir.path(), &backing), (vec![], vec![]));
}

async fn what_is_sent_afterwards_lives(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&everybody(now_ms(), 50)).await;
    assert_eq!(delete(&service, GONE).await, Some(204));
    // One of before once more, one older than all, one newer.
    let now = now_ms();
    let again = [now - 37_000, now - 5 * HOUR_MS, now];
    service.report(&again.map(gone_at)).await;
    let mut sorted = again.to_vec();
    sorted.sort_unstable();
    assert_eq!(moments(&service, GONE).await, sorted);
    assert!(shown(&service).await.contains(GONE));
    service.kill().await;
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    assert_eq!(moments(&service, GONE).await, sorted, "after a crash");
    assert!(service.terminate().await.success());
    lose_the_index(dir.path(), &backing);
    let service = Process::serve(dir.path(), &backing.url).await;
    service.caught_up().await;
    assert_eq!(moments(&service, GONE).await, sorted, "after a rebuild");
    assert_eq!(delete(&service, GONE).await, Some(204), "it can be erased again");
    assert_eq!(traces(dir.path(), &backing), (vec![], vec![]));
    check_gone(&service).await;
}

/// The lines of the note of erasures whose stage is one of these.
fn noted(dir: &Path, stages: &[&str]) -> usize {
    let note = fs::read_to_string(dir.join("data/journal/erasures")).unwrap_or_default();
    note.lines().filter(|line| line.split(' ').nth(3).is_some_and(|stage| stages.contains(&stage))).count()
}

async fn a_crash_at_any_moment_leaves_all_or_nothing(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let mut rng = StdRng::seed_from_u64(31);
    let (mut erased, mut kept, mut cut_short) = (0, 0, 0);
    let mut service = Process::serve(dir.path(), &backing.url).await;
    for round in 0..20 {
        let reports = everybody(now_ms(), 60);
        let sent: Vec<i64> = reports.iter().filter(|report| report.driver == GONE).map(|r| r.seen.ts).collect();
        service.report(&reports).await;
        let before = noted(dir.path(), &["done"]);
        let asking = {
            let http = (*service).clone();
            tokio::spawn(async move { delete(&http, GONE).await })
        };
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
        service.kill().await;
        let answer = asking.await.expect("it does not panic");
        cut_short += usize::from(noted(dir.path(), &["noted", "scrubbed"]) > 0);
        service = Process::serve(dir.path(), &backing.url).await;
        service.caught_up().await;
        eventually("nothing is unfinished", async || (noted(dir.path(), &["noted", "scrubbed"]) == 0).then_some(()))
            .await;
        if noted(dir.path(), &["done"]) > before {
            erased += 1;
            check_gone(&service).await;
            assert_eq!(traces(dir.path(), &backing), (vec![], vec![]), "round {round}");
        } else {
            kept += 1;
            assert_eq!(answer, None, "round {round}: a 204 is kept");
            let moments = moments(&service, GONE).await;
            assert!(sent.iter().all(|ts| moments.contains(ts)), "round {round}: half a driver");
            assert!(shown(&service).await.contains(GONE));
        }
    }
    eprintln!("{erased} erased, of them {cut_short} after a start; {kept} kept");
    assert!(erased > 0);
}

async fn a_crash_after_each_step_is_made_up_for(kind: Kind) {
    for step in 0..3 {
        let backing = Backing::new(kind);
        let dir = tempfile::tempdir().expect("a directory");
        let service = Process::serve(dir.path(), &backing.url).await;
        service.report(&everybody(now_ms(), 60)).await;
        let points = journalled(dir.path());
        match step {
            0 => service.kill().await,
            _ => assert!(service.terminate().await.success()),
        }
        // What the service would have done until it died.
        let now = Timestamp::from_ms(now_ms());
        let (journal, _) = Journal::open(Options::new(dir.path().join("data")), now).expect("nobody else has it");
        let driver = DriverId::new(GONE).expect("an id");
        journal.note_erasure(Tombstone::new(&driver, rand::random()), now, Some(driver)).await.expect("noted");
        let base = segments(dir.path())[0].0.clone();
        match step {
            // Noted, and no more; or with one segment half written.
            0 => {}
            1 => fs::write(base.with_extension("scrub"), GONE).expect("written"),
            // Scrubbed; the store not yet told.
            _ => journal.scrub(journal.erasures()).await.expect("scrubbed"),
        }
        drop(journal);
        let service = Process::serve(dir.path(), &backing.url).await;
        service.caught_up().await;
        eventually("nothing is unfinished", async || (noted(dir.path(), &["noted", "scrubbed"]) == 0).then_some(()))
            .await;
        check_gone(&service).await;
        assert_eq!(traces(dir.path(), &backing), (vec![], vec![]), "step {step}");
        let kept: Vec<String> = points.into_iter().filter(|point| !point.contains(GONE)).collect();
        assert_eq!(journalled(dir.path()), kept, "step {step}");
    }
}

async fn whoever_cannot_be_erased_is_told_apart_from_whoever_can(kind: Kind) {
    let backing = Backing::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    assert_eq!(delete(&service, "never-seen").await, Some(204));
    let ask = async |method: &str, path: &str| service.send(service.request(method, path)).await.expect("an answer");
    for (id, status, code) in [("-x", 400, "driver_id_invalid"), ("a%20b", 400, "driver_id_invalid")] {
        let answer = ask("DELETE", &format!("/v1/drivers/{id}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    let answer = ask("DELETE", "/v1/drivers/x?force=1").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "unknown_parameter"));
    let answer = ask("PUT", "/v1/drivers/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
    let allowed: BTreeSet<&str> = answer.header("allow").split(',').map(str::trim).collect();
    assert_eq!(allowed, ["GET", "HEAD", "DELETE"].into());
    assert_eq!(ask("DELETE", "/v1/drivers/x/track").await.status, 405);
    let answer = ask("DELETE", "/v1/drivers/x").await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(ask("HEAD", "/v1/drivers/x").await.status, 404);
}

on_both_stores! {
    what_is_erased_is_nowhere_and_nobody_else_notices,
    what_is_sent_afterwards_lives,
    a_crash_at_any_moment_leaves_all_or_nothing,
    a_crash_after_each_step_is_made_up_for,
    whoever_cannot_be_erased_is_told_apart_from_whoever_can,
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_an_erasure_is_noted_and_done_when_it_is_back() {
    let backing = Backing::new(Kind::Redis);
    let server = backing.server.as_ref().expect("Redis has one");
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&everybody(now_ms(), 50)).await;
    server.stop();
    let answer = service.send(service.request("DELETE", &format!("/v1/drivers/{GONE}"))).await.expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (503, "erasure_under_way"));
    assert!(!answer.header("retry-after").is_empty());
    // What comes in meanwhile is new.
    let new = now_ms();
    assert_eq!(service.try_post("/v1/points", &[gone_at(new)]).await.expect("an answer").status, 202);
    service.kill().await;
    let service = Process::serve(dir.path(), &backing.url).await;
    server.cont();
    service.caught_up().await;
    eventually("it is done", async || (noted(dir.path(), &["done"]) == 1).then_some(())).await;
    assert_eq!(moments(&service, GONE).await, [new]);
    assert_eq!(delete(&service, GONE).await, Some(204));
    assert_eq!(traces(dir.path(), &backing), (vec![], vec![]));
    check_gone(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refused_is_erased_too() {
    let backing = Backing::new(Kind::Redis);
    let server = backing.server.as_ref().expect("Redis has one");
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url).await;
    service.report(&everybody(now_ms(), 3)).await;
    let refused = now_ms() - 10 * HOUR_MS;
    let key = format!("geotrail:{{{}}}:positions", service_hour(refused));
    server.cli(&["SET", &key, "not a geo set"]);
    let other = everybody(refused, 1).swap_remove(0);
    let letters = [gone_at(refused), other.clone()];
    assert_eq!(service.try_post("/v1/points", &letters).await.expect("an answer").status, 202);
    let holds_letter = |driver: &str| {
        let is_letters = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "ndjson");
        let mut letters = files(dir.path()).into_iter().filter(is_letters);
        letters.any(|path| holds(&fs::read(path).unwrap_or_default(), driver.as_bytes()))
    };
    eventually("both are set aside", async || (holds_letter(GONE) && holds_letter(&other.driver)).then_some(()))
        .await;
    server.cli(&["UNLINK", &key]);
    assert_eq!(delete(&service, GONE).await, Some(204));
    assert!(!holds_letter(GONE), "a dead letter is a copy like any other");
    assert_eq!(traces(dir.path(), &backing), (vec![], vec![]));
    check_gone(&service).await;
}

/// Two instances on one Redis, both with points of everybody.
async fn two_instances(url: &str) -> ([tempfile::TempDir; 2], [Process; 2]) {
    let dirs = [(), ()].map(|()| tempfile::tempdir().expect("a directory"));
    let services = [Process::serve(dirs[0].path(), url).await, Process::serve(dirs[1].path(), url).await];
    for service in &services {
        service.report(&everybody(now_ms(), 40)).await;
    }
    (dirs, services)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_that_is_there_is_rid_of_it_at_the_answer() {
    let backing = Backing::new(Kind::Redis);
    let (dirs, services) = two_instances(&backing.url).await;
    assert_eq!(delete(&services[0], GONE).await, Some(204));
    // The other one first: half a second later it would have learnt of it in any case.
    assert_eq!(traces_on_disk(dirs[1].path()), Vec::<PathBuf>::new());
    assert_eq!(traces(dirs[0].path(), &backing), (vec![], vec![]));
    let new = now_ms();
    services[1].report(&[gone_at(new)]).await;
    for service in &services {
        assert_eq!(moments(service, GONE).await, [new]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_away_erases_before_it_applies() {
    let backing = Backing::new(Kind::Redis);
    let server = backing.server.as_ref().expect("Redis has one");
    let (dirs, [here, away]) = two_instances(&backing.url).await;
    // It goes with points that it has acknowledged and not applied.
    server.stop();
    let unapplied: Vec<Report> = (1..20).map(|n| gone_at(now_ms() - n * 1_001)).collect();
    assert_eq!(away.try_post("/v1/points", &unapplied).await.expect("an answer").status, 202);
    away.kill().await;
    server.cont();
    eventually("Redis answers again", async || (here.get("/v1/active/count").await.status == 200).then_some(()))
        .await;
    assert_eq!(delete(&here, GONE).await, Some(204));
    assert_eq!(traces(dirs[0].path(), &backing), (vec![], vec![]));
    assert!(!traces_on_disk(dirs[1].path()).is_empty());
    let new = now_ms();
    here.report(&[gone_at(new)]).await;
    // Nor does it matter that the board is lost meanwhile.
    server.cli(&["DEL", "geotrail:{erasures}:board"]);
    eventually("the board is back", async || {
        (server.cli(&["EXISTS", "geotrail:{erasures}:board"]).trim() == "1").then_some(())
    })
    .await;

    let away = Process::serve(dirs[1].path(), &backing.url).await;
    let seen_back = moments(&away, GONE).await;
    assert!(seen_back.is_empty() || seen_back == [new], "{seen_back:?}");
    away.caught_up().await;
    assert_eq!(moments(&away, GONE).await, [new]);
    eventually("it is done", async || (noted(dirs[1].path(), &["done"]) == 1).then_some(())).await;
    assert_eq!(traces_on_disk(dirs[1].path()), Vec::<PathBuf>::new());
    assert_eq!(moments(&here, GONE).await, [new]);
    // What it is sent from now on is new.
    away.report(&[gone_at(new + 5)]).await;
    assert_eq!(moments(&here, GONE).await, [new, new + 5]);
}

/// Given up, repeated, and carried out when the driver is there again: what was on its way all the time comes too late.
async fn a_late_call_takes_nothing_new(resolution: &str) {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve_with(dir.path(), &server.url(), |command| {
        command.args(["--shard-resolution", resolution]);
    })
    .await;
    // Redis learns the scripts by the first.
    service.report(&everybody(now_ms(), 3)).await;
    assert_eq!(delete(&service, GONE).await, Some(204));
    service.report(&everybody(now_ms(), 3)).await;
    let monitor = server.monitor();
    assert_eq!(delete(&service, GONE).await, Some(204));
    let calls: Vec<Vec<String>> = monitor
        .finish(&server)
        .iter()
        .filter(|line| line.contains("\"EVALSHA\"") && line.contains("\"ZREM\"") && line.contains(GONE))
        .map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect())
        .collect();
    assert!(calls.len() > 70, "a call for each hour: {}", calls.len());

    let again = now_ms();
    service.report(&[gone_at(again)]).await;
    let before = dumped(&server);
    let mut late = 0;
    for call in &calls {
        let call: Vec<&str> = call.iter().map(String::as_str).collect();
        // Where nothing is there is nothing to lose.
        if server.cli(&["EXISTS", call[3]]).trim() == "1" {
            assert_eq!(server.cli(&call).trim(), "0");
            late += 1;
        }
    }
    assert!(late > 0);
    assert_eq!(dumped(&server), before);
    assert_eq!(moments(&service, GONE).await, [again]);
    assert!(service.terminate().await.success());
}

/// What every key holds, but for what instances write all the time.
fn dumped(server: &RedisServer) -> Vec<(String, String)> {
    let mut keys = server.keys();
    keys.retain(|key| !key.contains("{erasures"));
    keys.sort();
    keys.into_iter().map(|key| (server.cli(&["DUMP", &key]), key)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_arrives_late_takes_nothing_new() {
    a_late_call_takes_nothing_new("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_arrives_late_takes_nothing_new_of_cells() {
    a_late_call_takes_nothing_new("5").await;
}
