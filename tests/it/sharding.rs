//! An hour spread over buckets and cells: the keys that other programs read, expiry, losses, what is asked.

use std::collections::{BTreeMap, BTreeSet};

use geotrail::model::{Cell, DriverId, Fix, Hour, Offset, Point, Position, QuadCell, Resolution};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, NearbyQuery, Store, When};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::redis::RedisServer;
use crate::redis_losses::{Follower, nothing_is_missing};
use crate::redis_store::{
    assert_expiries, assert_holds, batch, id, now, options, point, points, track_bytes, window, works_again,
};

pub(crate) const ONE: &str = "00000000000000a1";
pub(crate) const TWO: &str = "00000000000000b2";

pub(crate) fn resolution(number: u8) -> Resolution {
    Resolution::new(number).expect("there is one")
}

pub(crate) async fn sharded(server: &RedisServer, instance: &str, number: u8) -> RedisStore {
    let shard_resolution = Some(resolution(number));
    let store = RedisStore::connect(Options { shard_resolution, ..options(server, instance) }).await;
    let store = store.expect("a good URL");
    works_again(&store).await;
    store
}

/// Every member of every key but the tracks, as `KEY MEMBER SCORE-OR-VALUE`.
pub(crate) fn dump(server: &RedisServer) -> Vec<[String; 3]> {
    let script = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do local found, step = {}, 1 \
        local kind = redis.call('TYPE', key).ok \
        if kind == 'zset' then found, step = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), 2 \
        elseif kind == 'set' then found = redis.call('SMEMBERS', key) \
        elseif kind == 'list' then found = redis.call('LRANGE', key, 0, -1) \
        elseif kind == 'hash' and key:sub(-8) == ':leaving' then found, step = redis.call('HGETALL', key), 2 end \
        for at = 1, #found, step do \
        out[#out + 1] = key .. ' ' .. found[at] .. ' ' .. (step == 2 and found[at + 1] or '-') end end return out";
    let answer = server.cli(&["EVAL", script, "0"]);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        [words[0].to_owned(), words[1].to_owned(), words[2].to_owned()]
    };
    answer.lines().filter(|line| !line.is_empty()).map(line).collect()
}

/// Of a sharded hour: each driver's last position in the cell it lies in and in no other, and in the set beside it;
/// cells that are known; rosters; nobody with a cell yet to leave.
pub(crate) fn assert_sharded_keys(server: &RedisServer, points: &[Point], resolution: Resolution) {
    let mut last: BTreeMap<(Hour, &DriverId), &Fix> = BTreeMap::new();
    for Point { driver, fix } in points {
        let newest = last.entry((fix.ts.hour(), driver)).or_insert(fix);
        *newest = (*newest).max(fix);
    }
    let score = |fix: &Fix| QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start;
    let (mut positions, mut drivers, mut rosters) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for ((hour, driver), fix) in last {
        let key = format!("geotrail:{{{hour}:{}}}", Cell::containing(fix.position, resolution));
        positions.insert((format!("{key}:positions"), driver.to_string(), score(fix).to_string()));
        drivers.insert((format!("{key}:drivers"), driver.to_string()));
        rosters.insert((hour.to_string(), driver.to_string()));
    }
    let all = dump(server);
    let of = |name: &'static str| all.iter().filter(move |[key, ..]| key.ends_with(name));
    let found: BTreeSet<_> = of(":positions").cloned().map(|[key, id, score]| (key, id, score)).collect();
    assert_eq!(found, positions);
    let found: BTreeSet<_> = of(":drivers").cloned().map(|[key, id, _]| (key, id)).collect();
    assert_eq!(found, drivers);
    let found: Vec<_> = of(":roster").map(|[key, id, _]| (key[10..20].to_owned(), id.clone())).collect();
    assert_eq!(found.len(), rosters.len(), "nobody is on two rosters of an hour");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), rosters);
    assert_eq!(of(":leaving").count(), 0, "a cell was not left");
    let cells: BTreeSet<_> = of(":cells").map(|[key, cell, _]| (key[10..20].to_owned(), cell.clone())).collect();
    let atlas: Vec<_> = of(":atlas").map(|[key, cell, _]| (key[10..20].to_owned(), cell.clone())).collect();
    assert_eq!((atlas.len(), atlas.into_iter().collect()), (cells.len(), cells.clone()), "the same cells, once each");
    for (key, _) in drivers {
        let (hour, cell) = key[10..].split_once(['}', ':']).expect("an hour and a cell");
        let cell = cell.split('}').next().expect("a cell");
        assert!(cells.contains(&(hour.to_owned(), cell.to_owned())), "{key}");
    }
}

#[tokio::test]
async fn every_driver_is_in_one_cell_of_an_hour() {
    for (seed, number) in [(1, 0), (2, 5), (3, 7), (4, 9)] {
        let server = RedisServer::start();
        let stores = [sharded(&server, ONE, number).await, sharded(&server, TWO, number).await];
        let all = points(seed, 1_200, 60);
        let (ours, theirs) = all.split_at(700);
        let mut journals = [Follower::of(ours.to_vec(), 90), Follower::of(theirs.to_vec(), 70)];
        let [one, two] = &mut journals;
        tokio::join!(one.run(&stores[0]), two.run(&stores[1]));
        for store in &stores {
            assert_holds(store, &all).await;
            nothing_is_missing(store).await;
        }
        assert_sharded_keys(&server, &all, resolution(number));
        assert!(assert_expiries(&server) > 60);
    }
}

#[tokio::test]
async fn a_fix_that_cannot_be_read_holds_no_newer_one_up() {
    let server = RedisServer::start();
    let store = sharded(&server, ONE, 7).await;
    let hour = now().hour().previous();
    let before = point(id(1), hour.start().plus_ms(1_000), 525_000_000, 134_000_000);
    let after = point(id(1), hour.start().plus_ms(2_000), 526_000_000, 134_000_000);
    store.apply(batch(std::slice::from_ref(&before), 1)).await.expect("Redis is there");
    let fixes = server.keys().into_iter().find(|key| key.ends_with(":fixes")).expect("they have a key");
    server.cli(&["HSET", &fixes, before.driver.as_str(), ""]);
    store.apply(batch(std::slice::from_ref(&after), 2)).await.expect("it is newer than anything");
    let when = When::During(hour);
    let query = NearbyQuery { centre: after.fix.position, radius_m: 10.0, limit: 2, when, tags: vec![] };
    let (near, _) = store.nearby(&query).await.expect("Redis is there");
    assert_eq!(near.into_iter().map(|near| near.located.fix).collect::<Vec<_>>(), [after.fix]);
}

#[tokio::test]
async fn whatever_is_gone_of_a_sharded_hour_comes_back() {
    let all = points(5, 500, 40);
    let server = RedisServer::start();
    let mut names: Vec<&str> = "positions drivers seen marks roster fixes last cells atlas".split(' ').collect();
    names.push("everything");
    for name in names {
        server.cli(&["FLUSHALL"]);
        let store = sharded(&server, ONE, 7).await;
        let mut journal = Follower::of(all.clone(), 60);
        journal.run(&store).await;
        nothing_is_missing(&store).await;
        let whole = track_bytes(&server);
        let keys: Vec<String> = server.keys().into_iter().filter(|key| key.ends_with(&format!(":{name}"))).collect();
        match keys.get(keys.len() / 2) {
            Some(key) => server.cli(&["UNLINK", key]),
            None => server.cli(&["FLUSHALL"]),
        };
        journal.audit(&store).await;
        // The shards of the past have their turn.
        for _ in 0..20 {
            if journal.at > 0 {
                journal.audit(&store).await;
            }
        }
        assert_eq!(journal.at, 0, "{name}");
        journal.run(&store).await;
        nothing_is_missing(&store).await;
        assert_holds(&store, &all).await;
        assert_sharded_keys(&server, &all, resolution(7));
        for (track, bytes) in track_bytes(&server) {
            assert!(bytes <= whole[&track], "{name}: {track} grew");
        }
    }
}

#[tokio::test]
async fn another_way_to_divide_asks_for_everything() {
    let server = RedisServer::start();
    let store = sharded(&server, ONE, 7).await;
    let all = points(6, 300, 20);
    store.apply(batch(&all, 9)).await.expect("Redis is there");
    let marks = store.marks();
    assert_eq!(store.open(&marks).await.expect("Redis is there"), None);
    let other = sharded(&server, ONE, 6).await;
    assert_eq!(other.open(&marks).await.expect("nothing to ask"), Some(Offset::START));
    other.apply(Batch { repeated: true, ..batch(&all, 9) }).await.expect("Redis is there");
    assert_holds(&other, &all).await;
}

#[tokio::test]
async fn what_was_divided_otherwise_is_erased_from_and_forgotten_too() {
    for (before, after) in [(None, Some(7)), (Some(7), None), (Some(7), Some(5))] {
        let server = RedisServer::start();
        let connect = async |number: Option<u8>| {
            let options = Options { shard_resolution: number.map(resolution), ..options(&server, ONE) };
            let store = RedisStore::connect(options).await.expect("a good URL");
            works_again(&store).await;
            store
        };
        let all = points(9, 600, 20);
        connect(before).await.apply(batch(&all, 9)).await.expect("Redis is there");
        let store = connect(after).await;
        store.apply(Batch { repeated: true, ..batch(&all, 9) }).await.expect("Redis is there");
        let gone = &all[0].driver;
        store.erase(gone).await.expect("Redis is there");
        let left =
            dump(&server).into_iter().filter(|[key, id, _]| key.ends_with(gone.as_str()) || *id == gone.as_str());
        assert_eq!(left.collect::<Vec<_>>(), Vec::<[String; 3]>::new(), "{before:?} {after:?}");
        assert!(!server.keys().iter().any(|key| key.ends_with(gone.as_str())), "{before:?} {after:?}");
        let in_hashes = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                         if redis.call('TYPE', key).ok == 'hash' then n = n + redis.call('HEXISTS', key, ARGV[1]) end end return n";
        assert_eq!(server.cli(&["EVAL", in_hashes, "0", gone.as_str()]).trim(), "0", "{before:?} {after:?}");
        assert_holds(&store, &all.iter().filter(|point| point.driver != *gone).cloned().collect::<Vec<_>>()).await;

        let this_hour = now().hour().start();
        store.forget_before(this_hour.plus_ms(1)).await.expect("Redis is there");
        let kept = format!("{{{}", this_hour.hour());
        let next = format!("{{{}", this_hour.plus_ms(3_600_000).hour());
        let of_past = |key: &String| !key.contains(":track:") && !key.contains(&kept) && !key.contains(&next);
        // An erasure leaves word in hours that nobody was in.
        let left = server.keys().into_iter().filter(|key| of_past(key) && !key.ends_with(":changes"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new(), "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn forgetting_takes_every_shard_of_an_hour() {
    let server = RedisServer::start();
    let store = sharded(&server, ONE, 7).await;
    let all = points(7, 600, 40);
    store.apply(batch(&all, 9)).await.expect("Redis is there");
    let this_hour = now().hour().start();
    // By an instance that has not seen these cells before.
    let other = sharded(&server, TWO, 7).await;
    other.forget_before(this_hour.plus_ms(1)).await.expect("Redis is there");
    let kept = format!("{{{}", this_hour.hour());
    let left = server.keys().into_iter().filter(|key| !key.contains(":track:") && !key.contains(&kept));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test]
async fn pages_end_where_the_slowest_roster_does() {
    let server = RedisServer::start();
    let store = sharded(&server, ONE, 7).await;
    let ts = now().hour().previous().start().plus_ms(1_000);
    // All on one roster, as chance may have it: a page asks that for its share, and has to come again.
    let of_one_roster = (0..).map(id).filter(|driver| crc32c::crc32c(driver.as_str().as_bytes()) % 32 == 7);
    let all: Vec<Point> = of_one_roster.take(600).map(|driver| point(driver, ts, 525_000_000, 134_000_000)).collect();
    store.apply(batch(&all, 1)).await.expect("Redis is there");
    for limit in [1, 7, 100] {
        let (mut ids, mut located, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = store.hour_positions(ts.hour(), after.as_ref(), limit).await.expect("Redis is there");
            located.extend(page.items.into_iter().map(|located| (located.driver, located.fix)));
            let page = store.hour_drivers(ts.hour(), after.as_ref(), limit).await.expect("Redis is there");
            ids.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<(DriverId, Fix)> =
            all.iter().map(|point| (point.driver.clone(), point.fix.clone())).collect();
        assert!(located == expected, "by {limit}: {} located", located.len());
        assert!(ids.iter().eq(expected.iter().map(|(driver, _)| driver)), "by {limit}: {} ids", ids.len());
    }
}

#[tokio::test]
async fn nearby_asks_only_the_cells_that_its_circle_touches() {
    let server = RedisServer::start();
    let store = sharded(&server, ONE, 6).await;
    let mut rng = StdRng::seed_from_u64(8);
    let ts = now().hour().previous().start();
    let all: Vec<Point> = (0..1_500)
        .map(|number| {
            let (lat, lon) = (rng.random_range(-5_000_000..5_000_000), rng.random_range(-8_000_000..8_000_000));
            point(id(number), ts, 525_000_000 + lat, 134_000_000 + lon)
        })
        .collect();
    store.apply(batch(&all, 1)).await.expect("Redis is there");
    for radius_m in [500.0, 5_000.0, 40_000.0] {
        let monitor = server.monitor();
        let centre = Position::new(52.5, 13.4).expect("on the map");
        let query = NearbyQuery { centre, radius_m, limit: 1_000, when: When::During(ts.hour()), tags: vec![] };
        let (near, _) = store.nearby(&query).await.expect("Redis is there");
        let within = all.iter().filter(|point| centre.distance_m(point.fix.position) <= radius_m).count();
        assert_eq!(near.len(), within);
        let asked: BTreeSet<String> = monitor
            .finish(&server)
            .into_iter()
            .filter(|line| line.contains(":positions"))
            .map(|line| line.split(['{', '}']).nth(1).expect("a tag").to_owned())
            .collect();
        // A cell of resolution 6 reaches 4 km from its middle, give or take.
        let most = (std::f64::consts::PI * ((radius_m + 9_000.0) / 1_000.0).powi(2) / 30.0).ceil();
        assert!(!asked.is_empty() && asked.len() as f64 <= most, "{radius_m} m: {} cells", asked.len());
    }
    assert!(store.active_count(window(2 * 3_600)).await.expect("Redis is there") > 0);
}
