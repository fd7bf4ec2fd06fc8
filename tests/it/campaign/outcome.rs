//! What must be there in the end, whatever happened in between: the fold of all journals, as their second reader has them,
//! against what the service answers; and the expiry of every key in Redis.
//!
//! Never here: what was done to anybody.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::oracle_reader::{self, Found};
use crate::harness::http::{Http, read_seen};
use crate::harness::redis::RedisServer;
use crate::oracle::{Oracle, Report, Seen, Which, hour_name, hour_of};

const HOUR_MS: i64 = 3_600_000;
/// How much longer than its hour and the retention a key may live.
const JITTER_S: i64 = 600;

/// Everything that any of these journals holds.
pub(crate) async fn accepted(data_dirs: Vec<PathBuf>) -> Oracle {
    let fold = move || {
        let mut oracle = Oracle::default();
        for dir in data_dirs {
            for found in oracle_reader::read(&dir).records.into_iter().flatten() {
                oracle.add(report(found));
            }
        }
        oracle
    };
    tokio::task::spawn_blocking(fold).await.expect("they can be read")
}

fn report(found: Found) -> Report {
    let Found { driver, ts, lat_e7, lon_e7, speed_50th, heading_10th, accuracy_dm, tags } = found;
    let seen = Seen {
        ts,
        lat: f64::from(lat_e7) / 1e7,
        lon: f64::from(lon_e7) / 1e7,
        speed: speed_50th.map(|speed| speed as f64 / 50.0),
        heading: heading_10th.map(|heading| heading as f64 / 10.0),
        accuracy: accuracy_dm.map(|accuracy| accuracy as f64 / 10.0),
        tags: tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
    };
    Report { driver, seen }
}

/// Of what `oracle` has, all that an instance answers less of, or otherwise, in words; and how many points were compared.
/// It keeps tracks since `from`, and hours as long as any of them is kept; it knows of a future up to `until`.
pub(crate) async fn differences(service: &Http, oracle: &Oracle, from: i64, until: i64) -> (usize, Vec<String>) {
    let (mut compared, mut wrong) = (0, Vec::new());
    let mut of_hours: BTreeMap<i64, BTreeMap<String, Seen>> = BTreeMap::new();
    for hour in oracle.hours().filter(|hour| *hour <= hour_of(until)) {
        let answer = service.get(&format!("/v1/hours/{}/positions?limit=1", hour_name(hour))).await;
        if answer.status == 404 && answer.code() == "out_of_retention" {
            continue;
        }
        let path = format!("/v1/hours/{}/positions?", hour_name(hour));
        let there = service.all_pages(&path, 1_000).await.into_iter().map(|driver| (driver.id, driver.seen));
        of_hours.insert(hour, there.collect());
    }
    for (hour, there) in &of_hours {
        let expected = oracle.located(Which::LastOf(*hour));
        if there.len() != expected.len() {
            wrong.push(format!("{} drivers of hour {hour}, not {}", there.len(), expected.len()));
        }
        for (driver, seen) in expected {
            if there.get(driver).map(Seen::content) != Some(seen.content()) {
                wrong.push(format!("the last position of a driver in hour {hour}"));
            }
        }
    }
    let Some(first) = of_hours.keys().next().map(|hour| from.max(hour * HOUR_MS)) else { return (0, wrong) };
    for driver in oracle.drivers() {
        let expected = oracle.track(driver, first, until);
        let (Some(oldest), Some(newest)) = (expected.first(), expected.last()) else { continue };
        let (oldest, newest) = (oldest.ts, newest.ts);
        compared += expected.len();
        let there = service.track(driver, oldest, newest + 1).await;
        let contents =
            |track: &mut dyn Iterator<Item = &Seen>| track.map(|seen| (seen.ts, seen.content())).collect::<Vec<_>>();
        if contents(&mut there.iter()) != contents(&mut expected.into_iter()) {
            wrong.push(format!("the track of a driver: {} points", there.len()));
        }
        let latest = service.get(&format!("/v1/drivers/{driver}")).await;
        let found = (latest.status == 200).then(|| read_seen(&latest.json()).ts);
        if found < Some(newest) {
            wrong.push(format!("the newest of a driver: {found:?}, not {newest}"));
        }
    }
    (compared, wrong)
}

/// Keys of hours whose expiry is not between the end of their hour and the retention, and the most jitter after that: in
/// words; and how many keys there are.
pub(crate) fn wrong_expiries(server: &RedisServer, retention_s: i64) -> (usize, Vec<String>) {
    const EACH: &str = "local all = {} for n, key in ipairs(redis.call('KEYS', '*')) do \
                        all[n] = key .. ' ' .. redis.call('EXPIRETIME', key) end return all";
    let (mut keys, mut wrong) = (0, Vec::new());
    for line in server.cli(&["EVAL", EACH, "0"]).lines() {
        let (key, at) = line.rsplit_once(' ').expect("a key and its expiry");
        let at: i64 = at.parse().expect("seconds");
        let hour = key.split_once('{').and_then(|(_, rest)| rest.get(..10)).and_then(hour_end_s);
        keys += 1;
        match hour {
            Some(end) if (end + retention_s..=end + retention_s + JITTER_S).contains(&at) => {}
            // What is no hour's lives as long as somebody comes.
            None if at > 0 => {}
            _ => wrong.push(format!("{key} expires at {at}")),
        }
    }
    (keys, wrong)
}

/// When the hour `YYYYMMDDHH` ends, in seconds since 1970.
fn hour_end_s(name: &str) -> Option<i64> {
    if !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (day, hour) = name.split_at(8);
    let text = format!("{}-{}-{}T{hour}:00:00Z", &day[..4], &day[4..6], &day[6..]);
    Some(crate::oracle::parse_utc(&text) / 1_000 + 3_600)
}
