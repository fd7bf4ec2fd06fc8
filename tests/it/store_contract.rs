//! Every sentence of the contract in `src/store/mod.rs`, for every store, against the oracle.
//!
//! Each test is a function over a way to make a store, and runs once for each store, under its own name (`contract!`
//! at the end). Fleets are seeded, so a failure repeats.

mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use geotrail::model::{Offset, Position, Timestamp};
use geotrail::store::{Batch, NearbyQuery, StoreError, When};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::harness::redis::RedisServer;
use crate::oracle::{Content, Oracle, Report, Seen, hour_of, parse_utc};
pub(crate) use bench::point;
use bench::{
    AHEAD_MS, ANTIMERIDIAN, Around, Bench, CITY, HOUR_MS, Listing, Make, NORTHERN_LIMIT, ONE, SOUTHERN_LIMIT, TWO,
    WORLD, all, ask_nearby, at, check_everything, check_everything_kept, check_fleet, check_listing, check_nearby,
    check_track, content, content_of, driver_name, embedded, fleet, hour, id, now, open_embedded, open_redis, page,
    place, redis, redis_by_5, redis_by_7, trailing, window,
};

// ---- Answers equal brute force

async fn a_city_is_as_brute_force_says(make: Make) {
    check_fleet(make, 1, CITY).await;
}

async fn a_sparse_world_is_as_brute_force_says(make: Make) {
    check_fleet(make, 2, WORLD).await;
}

async fn the_antimeridian_is_as_brute_force_says(make: Make) {
    check_fleet(make, 3, ANTIMERIDIAN).await;
}

async fn the_northern_limit_is_as_brute_force_says(make: Make) {
    check_fleet(make, 4, NORTHERN_LIMIT).await;
}

async fn the_southern_limit_is_as_brute_force_says(make: Make) {
    check_fleet(make, 5, SOUTHERN_LIMIT).await;
}

async fn the_world_s_corners_are_found(make: Make) {
    let mut bench = make().await;
    let mut reports = Vec::new();
    for (lat_name, lat) in [("n", 85.051_128_78), ("e", 0.0), ("s", -85.051_128_78)] {
        for (lon_name, lon) in [("w", -180.0), ("e", 180.0), ("m", 1e-7), ("r", 179.999_999_9)] {
            reports.push(at(&format!("{lat_name}{lon_name}"), now() - 1_000, lat, lon));
        }
    }
    bench.apply(&reports).await;
    let oracle = Oracle::of(&reports);
    for report in &reports {
        for when in [When::Within(trailing(HOUR_MS)), When::During(hour(hour_of(now())))] {
            let centre = (report.seen.lat, report.seen.lon);
            for radius_m in [1.0, 100_000.0] {
                let ask = Around { centre, radius_m, limit: 10, when, tags: vec![] };
                check_nearby(&*bench.store, &oracle, &ask).await;
            }
        }
    }
    // 180 and -180 are one place.
    let ask = Around {
        centre: (0.0, 180.0),
        radius_m: 0.5,
        limit: 10,
        when: When::Within(trailing(HOUR_MS)),
        tags: vec![],
    };
    let near: BTreeSet<_> = ask_nearby(&*bench.store, &ask).await.0.into_iter().map(|(driver, ..)| driver).collect();
    assert_eq!(near, ["ee", "er", "ew"].map(String::from).into());
}

async fn a_track_on_disk_is_read_like_one_in_memory(make: Make) {
    let mut bench = make().await;
    let reports: Vec<_> =
        (0..4_000).map(|n| at("long", now() - n * 4_000, 52.0 + n as f64 * 1e-5, 21.0 - n as f64 * 1e-5)).collect();
    for batch in reports.chunks(500) {
        bench.apply(batch).await;
    }
    let oracle = Oracle::of(&reports);
    for limit in [1, 2, 999, 1_000, 1_001, 5_000] {
        check_track(&*bench.store, &oracle, "long", now() - 5 * HOUR_MS, now() + 1, limit).await;
        check_track(&*bench.store, &oracle, "long", now() - 2 * HOUR_MS - 1, now() - HOUR_MS - 77, limit).await;
    }
}

// ---- Idempotent, order-free

async fn order_repetition_and_batches_make_no_difference(make: Make) {
    let reports = fleet(6, 30, 20, CITY);
    let oracle = Oracle::of(&reports);
    let mut rng = StdRng::seed_from_u64(6);
    for size in [reports.len() * 3, 7, 250] {
        let mut bench = make().await;
        let mut again: Vec<_> = reports.iter().chain(&reports).chain(&reports[..100]).cloned().collect();
        again.shuffle(&mut rng);
        for batch in again.chunks(size) {
            bench.apply(batch).await;
        }
        check_everything(&*bench.store, &oracle, CITY, 6).await;
    }
}

async fn applying_everything_again_changes_nothing(make: Make) {
    let mut bench = make().await;
    let reports = fleet(7, 30, 20, CITY);
    let oracle = Oracle::of(&reports);
    for _ in 0..2 {
        for batch in reports.chunks(100) {
            bench.apply(batch).await;
        }
        check_everything(&*bench.store, &oracle, CITY, 7).await;
    }
}

async fn of_two_that_differ_the_greater_wins(make: Make) {
    let base = Seen { ts: now() - 5_000, lat: 52.0, lon: 21.0, ..Seen::default() };
    // Each is greater than the one before it, by one more field.
    let ladder = [
        base.clone(),
        Seen { tags: vec!["a".into()], ..base.clone() },
        Seen { tags: vec!["b".into()], ..base.clone() },
        Seen { accuracy: Some(0.0), ..base.clone() },
        Seen { accuracy: Some(7.3), ..base.clone() },
        Seen { heading: Some(0.0), ..base.clone() },
        Seen { heading: Some(12.5), ..base.clone() },
        Seen { speed: Some(0.0), ..base.clone() },
        Seen { speed: Some(20.0), ..base.clone() },
        Seen { lon: 21.000_000_1, ..base.clone() },
        Seen { lat: 52.000_000_1, lon: -10.0, ..base.clone() },
    ];
    let mut bench = make().await;
    let mut reports = Vec::new();
    for (low, high) in (0..ladder.len()).flat_map(|high| (0..high).map(move |low| (low, high))) {
        for (order, pair) in [("up", [low, high]), ("down", [high, low])] {
            let driver = format!("{order}-{low}-{high}");
            reports.push(pair.map(|n| Report { driver: driver.clone(), seen: ladder[n].clone() }));
        }
    }
    // One batch has the first of every pair, the next one the second.
    for turn in [0, 1] {
        bench.apply(&reports.iter().map(|pair| pair[turn].clone()).collect::<Vec<_>>()).await;
    }
    for pair in &reports {
        let (driver, greater) = (&pair[0].driver, pair.iter().map(|r| r.seen.content()).max().expect(TWO));
        let wanted = Some((now() - 5_000, greater));
        let latest = bench.store.latest(&id(driver), trailing(HOUR_MS)).await.expect("an answer");
        assert_eq!(latest.as_ref().map(content_of), wanted, "latest of {driver}");
        let (from, to) = (Timestamp::from_ms(now() - 10 * HOUR_MS), Timestamp::from_ms(now()));
        let track = bench.store.track(&id(driver), from, to, 10).await.expect("a track");
        assert_eq!(track.iter().map(content_of).collect::<Vec<_>>(), Vec::from_iter(wanted), "track of {driver}");
    }
    let oracle = Oracle::of(reports.iter().flatten());
    check_listing(&*bench.store, &oracle, Listing::Active(trailing(HOUR_MS)), 1_000).await;
    check_listing(&*bench.store, &oracle, Listing::Positions(hour(hour_of(now() - 5_000))), 1_000).await;
}

async fn a_tie_within_one_batch_is_settled_too(make: Make) {
    let mut bench = make().await;
    let (south, north) = (at("x", now() - 1_000, 52.0, 21.0), at("x", now() - 1_000, 52.1, 21.0));
    let (east, west) = (at("y", now() - 1_000, 52.0, 21.1), at("y", now() - 1_000, 52.0, 21.0));
    let reports = [south, north, east, west];
    bench.apply(&reports).await;
    check_everything(&*bench.store, &Oracle::of(&reports), CITY, 8).await;
}

// ---- Newest wins

async fn no_late_point_moves_a_driver_back(make: Make) {
    let mut bench = make().await;
    let newest = at("cab", now() - 500, 52.25, 21.00);
    let mut reports = vec![newest.clone()];
    bench.apply(&reports).await;
    // By a millisecond, within the hour, from the hour before, from long ago.
    for late_ms in [1, 400, 60_000, HOUR_MS, 4 * HOUR_MS] {
        let late = at("cab", newest.seen.ts - late_ms, 52.20, 21.05);
        reports.push(late.clone());
        bench.apply(&[late]).await;
        let latest = bench.store.latest(&id("cab"), trailing(HOUR_MS)).await.expect("an answer");
        assert_eq!(latest.as_ref().map(content_of), Some(content(&newest.seen)), "{late_ms} ms late");
        let when = When::Within(trailing(5 * HOUR_MS));
        let ask = Around { centre: (52.20, 21.05), radius_m: 100.0, limit: 10, when, tags: vec![] };
        assert!(ask_nearby(&*bench.store, &ask).await.0.is_empty(), "found where it was {late_ms} ms before");
    }
    check_everything(&*bench.store, &Oracle::of(&reports), CITY, 9).await;
}

async fn a_late_point_is_the_last_of_its_own_hour(make: Make) {
    let mut bench = make().await;
    let last_hour = now() - HOUR_MS;
    let reports =
        [at("cab", now(), 52.25, 21.0), at("cab", last_hour, 52.20, 21.05), at("cab", last_hour - 1, 52.22, 21.0)];
    for report in &reports {
        bench.apply(std::slice::from_ref(report)).await;
    }
    check_listing(&*bench.store, &Oracle::of(&reports), Listing::Positions(hour(hour_of(last_hour))), 10).await;
    let when = When::During(hour(hour_of(last_hour)));
    let ask = Around { centre: (52.20, 21.05), radius_m: 1.0, limit: 10, when, tags: vec![] };
    assert_eq!(ask_nearby(&*bench.store, &ask).await.0.len(), 1);
}

// ---- Windows

async fn a_driver_is_met_once_across_the_turn_of_the_hour(make: Make) {
    let mut bench = make().await;
    let turn = parse_utc("2026-11-22T14:00:00Z");
    let reports = [
        at("before", turn - 2_000, 52.20, 21.00),
        at("both", turn - 2_000, 52.20, 21.00),
        at("both", turn + 500, 52.25, 21.05),
        at("after", turn, 52.25, 21.05),
        at("at-the-edge", turn - 1, 52.20, 21.00),
    ];
    bench.apply(&reports).await;
    let oracle = Oracle::of(&reports);
    let (store, seconds) = (&*bench.store, trailing(5_000));
    check_listing(store, &oracle, Listing::Active(seconds), 10).await;
    let when = When::Within(seconds);
    let mut ask = Around { centre: (52.20, 21.00), radius_m: 100.0, limit: 10, when, tags: vec![] };
    let drivers = |rows: Vec<(String, f64, (i64, Content))>| rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(drivers(ask_nearby(store, &ask).await.0), ["at-the-edge", "before"]);
    ask.centre = (52.25, 21.05);
    assert_eq!(drivers(ask_nearby(store, &ask).await.0), ["after", "both"]);
    ask.radius_m = 100_000.0;
    assert_eq!(ask_nearby(store, &ask).await.0.len(), 4);
    // The hour that ended knows where each was at its end.
    (ask.centre, ask.radius_m, ask.when) = ((52.20, 21.00), 100.0, When::During(hour(hour_of(turn) - 1)));
    assert_eq!(drivers(ask_nearby(store, &ask).await.0), ["at-the-edge", "before", "both"]);
    check_everything(store, &oracle, CITY, 10).await;
}

async fn both_ends_of_a_window_count(make: Make) {
    let mut bench = make().await;
    let reports = [at("early", now() - 1_000, 52.0, 21.0), at("ahead", now() + AHEAD_MS, 52.0, 21.0)];
    bench.apply(&reports).await;
    let store = &*bench.store;
    for (since, expected) in [(now() - 1_001, 2), (now() - 1_000, 2), (now() - 999, 1), (now() + AHEAD_MS, 1)] {
        let window = window(since, now() + AHEAD_MS);
        assert_eq!(store.active_count(window).await.expect("a count"), expected, "since {since}");
        assert_eq!(all(store, Listing::Active(window), 10).await.len() as u64, expected);
        let early = store.latest(&id("early"), window).await.expect("an answer");
        assert_eq!(early.is_some(), expected == 2);
        let when = When::Within(window);
        let ask = Around { centre: (52.0, 21.0), radius_m: 10.0, limit: 10, when, tags: vec![] };
        assert_eq!(ask_nearby(store, &ask).await.0.len() as u64, expected);
        let last = store.last_report(window).await.expect("an answer");
        assert_eq!(last.map(Timestamp::as_ms), Some(now() + AHEAD_MS));
    }
}

async fn a_silent_fleet_is_not_active(make: Make) {
    let mut bench = make().await;
    bench.apply(&[at("cab", now() - HOUR_MS - 1, 52.0, 21.0)]).await;
    let (store, hour_long) = (&*bench.store, trailing(HOUR_MS));
    assert_eq!(store.last_report(hour_long).await.expect("an answer"), None);
    assert_eq!(store.active_count(hour_long).await.expect("a count"), 0);
    assert_eq!(store.latest(&id("cab"), hour_long).await.expect("an answer"), None);
    let long = trailing(HOUR_MS + 1);
    assert_eq!(store.last_report(long).await.expect("an answer").map(Timestamp::as_ms), Some(now() - HOUR_MS - 1));
    assert_eq!(store.active_count(long).await.expect("a count"), 1);
}

async fn tags_are_those_of_the_point_that_is_asked_about(make: Make) {
    let mut bench = make().await;
    let tagged = |ts, tags: &[&str]| {
        let mut report = at("cab", ts, 52.0, 21.0);
        report.seen.tags = tags.iter().map(|&tag| tag.into()).collect();
        report
    };
    let reports = [tagged(now() - HOUR_MS, &["free", "van"]), tagged(now(), &["van"])];
    bench.apply(&reports).await;
    let oracle = Oracle::of(&reports);
    for when in [When::Within(trailing(2 * HOUR_MS)), When::During(hour(hour_of(now()) - 1))] {
        for tags in [vec![], vec!["van"], vec!["free"], vec!["van", "free"], vec!["va"]] {
            let ask = Around { centre: (52.0, 21.0), radius_m: 10.0, limit: 10, when, tags };
            check_nearby(&*bench.store, &oracle, &ask).await;
        }
    }
}

// ---- Near

async fn at_the_same_distance_ids_decide(make: Make) {
    let mut bench = make().await;
    let reports: Vec<_> = (0..50).rev().map(|n| at(&driver_name(n), now() - 1_000, 52.0, 21.0)).collect();
    bench.apply(&reports).await;
    let mut names: Vec<_> = reports.iter().map(|report| report.driver.clone()).collect();
    names.sort();
    for limit in [1, 2, 25, 49, 50, 51] {
        for when in [When::Within(trailing(HOUR_MS)), When::During(hour(hour_of(now() - 1_000)))] {
            let ask = Around { centre: (52.001, 21.0), radius_m: 1_000.0, limit, when, tags: vec![] };
            let (near, truncated) = ask_nearby(&*bench.store, &ask).await;
            let near: Vec<_> = near.into_iter().map(|row| row.0).collect();
            assert_eq!(near, names[..limit.min(50)], "limit {limit}");
            assert_eq!(truncated, limit < 50, "limit {limit}");
        }
    }
}

async fn the_edge_of_the_circle_is_included(make: Make) {
    let mut bench = make().await;
    let mut rng = StdRng::seed_from_u64(11);
    let reports: Vec<_> = (0..40)
        .map(|n| {
            let (lat, lon) = place(&mut rng, CITY);
            at(&driver_name(n), now(), lat, lon)
        })
        .collect();
    bench.apply(&reports).await;
    let when = When::Within(trailing(HOUR_MS));
    let mut ask = Around { centre: (52.23, 21.01), radius_m: 100_000.0, limit: 1_000, when, tags: vec![] };
    let (everyone, _) = ask_nearby(&*bench.store, &ask).await;
    assert_eq!(everyone.len(), 40);
    for (place, (driver, distance_m, _)) in everyone.iter().enumerate() {
        ask.radius_m = *distance_m;
        let (near, _) = ask_nearby(&*bench.store, &ask).await;
        assert!(near.len() > place && near[place].0 == *driver, "{driver} stands on the edge at {distance_m} m");
        assert!(near.iter().all(|row| row.1 <= *distance_m));
    }
}

async fn limits_from_one_to_a_thousand_hold(make: Make) {
    let mut bench = make().await;
    let mut rng = StdRng::seed_from_u64(12);
    let reports: Vec<_> = (0..1_205)
        .map(|n| {
            let (lat, lon) = place(&mut rng, CITY);
            at(&driver_name(n), now() - rng.random_range(0..60_000), lat, lon)
        })
        .collect();
    bench.apply(&reports).await;
    let (store, oracle) = (&*bench.store, Oracle::of(&reports));
    for limit in [1, 999, 1_000] {
        for radius_m in [100.0, 1_000.0, 100_000.0] {
            let when = When::Within(trailing(HOUR_MS));
            let ask = Around { centre: (52.23, 21.01), radius_m, limit, when, tags: vec![] };
            check_nearby(store, &oracle, &ask).await;
        }
        check_listing(store, &oracle, Listing::Active(trailing(HOUR_MS)), limit.max(100)).await;
    }
    assert_eq!(store.active_count(trailing(HOUR_MS)).await.expect("a count"), 1_205);
}

// ---- Paging

async fn every_limit_pages_through_everyone(make: Make) {
    let mut bench = make().await;
    let reports = fleet(13, 30, 6, CITY);
    bench.apply(&reports).await;
    let (store, oracle) = (&*bench.store, Oracle::of(&reports));
    let last_hour = hour(hour_of(now()) - 1);
    for limit in (1..=32).chain([1_000]) {
        for what in
            [Listing::Active(trailing(5 * HOUR_MS)), Listing::Drivers(last_hour), Listing::Positions(last_hour)]
        {
            check_listing(store, &oracle, what, limit).await;
        }
    }
}

async fn a_page_begins_after_a_driver_who_need_not_be_there(make: Make) {
    let mut bench = make().await;
    let reports = ["b", "d", "f"].map(|driver| at(driver, now(), 52.0, 21.0));
    bench.apply(&reports).await;
    let this_hour = hour(hour_of(now()));
    for what in [Listing::Active(trailing(HOUR_MS)), Listing::Drivers(this_hour), Listing::Positions(this_hour)] {
        for (after, expected) in [("a", "bdf"), ("b", "df"), ("c", "df"), ("e", "f"), ("f", ""), ("g", "")] {
            let (rows, _) = page(&*bench.store, what, Some(&id(after)), 10).await;
            assert_eq!(rows.into_iter().map(|row| row.0).collect::<String>(), expected, "{what:?} after {after}");
        }
    }
}

async fn pages_meet_everyone_once_while_all_move(make: Make) {
    for limit in [1, 4, 10] {
        let mut bench = make().await;
        let mut rng = StdRng::seed_from_u64(14);
        let drivers: Vec<_> = (0..30).map(driver_name).collect();
        let mut tick = now() - 600_000;
        let mut everyone_moves = |rng: &mut StdRng, extra: Option<String>| -> Vec<Report> {
            tick += 1_000;
            let mut reports: Vec<_> = drivers
                .iter()
                .cloned()
                .chain(extra)
                .map(|driver| {
                    let (lat, lon) = place(rng, CITY);
                    at(&driver, tick, lat, lon)
                })
                .collect();
            reports.shuffle(rng);
            reports
        };
        bench.apply(&everyone_moves(&mut rng, None)).await;
        let this_hour = hour(hour_of(now() - 600_000));
        for what in [Listing::Active(trailing(HOUR_MS)), Listing::Drivers(this_hour), Listing::Positions(this_hour)] {
            let (mut met, mut after) = (BTreeMap::<String, usize>::new(), None);
            for newcomer in 0.. {
                let (rows, next) = page(&*bench.store, what, after.as_ref(), limit).await;
                for (driver, _) in rows {
                    *met.entry(driver).or_default() += 1;
                }
                let Some(next) = next else { break };
                assert!(after.as_ref() < Some(&next), "{what:?}: the cursor stands still");
                after = Some(next);
                let moves = everyone_moves(&mut rng, Some(format!("new-{newcomer}")));
                bench.apply(&moves).await;
            }
            assert!(met.values().all(|times| *times == 1), "{what:?}, limit {limit}: someone was met twice");
            let missed: Vec<_> = drivers.iter().filter(|driver| !met.contains_key(*driver)).collect();
            assert!(missed.is_empty(), "{what:?}, limit {limit}: missed {missed:?}");
        }
    }
}

async fn a_track_is_paged_from_moment_to_moment(make: Make) {
    let mut bench = make().await;
    let mut reports: Vec<_> =
        (0..50).map(|n| at("cab", now() - 2 * HOUR_MS + n * 150_000, 52.0 + n as f64 * 1e-3, 21.0)).collect();
    reports.extend(reports.clone());
    reports.extend([at("cab-2", now(), 52.0, 21.0), at("ca", now(), 52.0, 21.0)]);
    bench.apply(&reports).await;
    let oracle = Oracle::of(&reports);
    let (first, end) = (reports[0].seen.ts, reports[49].seen.ts + 1);
    for limit in [1, 2, 7, 49, 50, 51, 1_000] {
        let (mut from, mut read) = (first, Vec::new());
        loop {
            check_track(&*bench.store, &oracle, "cab", from, end, limit).await;
            let (start, to) = (Timestamp::from_ms(from), Timestamp::from_ms(end));
            let fixes = bench.store.track(&id("cab"), start, to, limit).await.expect("a track");
            let Some(last) = fixes.last() else { break };
            from = last.ts.as_ms() + 1;
            read.extend(fixes.iter().map(|fix| fix.ts.as_ms()));
        }
        assert_eq!(read, reports[..50].iter().map(|report| report.seen.ts).collect::<Vec<_>>(), "limit {limit}");
    }
    // `from` is included, `to` is not.
    check_track(&*bench.store, &oracle, "cab", first, end - 1, 1_000).await;
    check_track(&*bench.store, &oracle, "cab", first + 1, end, 1_000).await;
    check_track(&*bench.store, &oracle, "cab", first, first, 1_000).await;
    check_track(&*bench.store, &oracle, "cab", first, first + 1, 1_000).await;
}

// ---- Nothing, nobody, no longer

async fn an_empty_store_says_that_nobody_is_there(make: Make) {
    let bench = make().await;
    check_everything(&*bench.store, &Oracle::default(), CITY, 15).await;
    assert!(
        bench
            .store
            .track(&id("cab"), Timestamp::from_ms(now() - 10 * HOUR_MS), Timestamp::from_ms(now()), 10)
            .await
            .expect("")
            .is_empty()
    );
    bench.store.ping().await.expect("it can be asked");
    bench.store.forget_before(Timestamp::from_ms(now())).await.expect("nothing to forget");
    bench.store.flush().await.expect("nothing to flush");
}

async fn an_unknown_driver_has_nothing(make: Make) {
    let mut bench = make().await;
    bench.apply(&fleet(16, 5, 5, CITY)).await;
    for stranger in ["nobody", "cab-00", "cab-0011", "Cab-001", "x:y", "NX"] {
        let latest = bench.store.latest(&id(stranger), trailing(5 * HOUR_MS)).await.expect("an answer");
        assert_eq!(latest, None, "{stranger}");
        let (from, to) = (Timestamp::from_ms(now() - 10 * HOUR_MS), Timestamp::from_ms(now() + HOUR_MS));
        assert!(bench.store.track(&id(stranger), from, to, 10).await.expect("a track").is_empty(), "{stranger}");
    }
}

async fn points_of_forgotten_hours_are_not_written(make: Make) {
    let mut bench = make().await;
    let reports = fleet(17, 30, 15, CITY);
    // In the middle of an hour: that hour has not ended.
    let cutoff = now() - 3 * HOUR_MS + 1_234_567;
    for batch in reports.chunks(61) {
        bench.apply_unless_before(batch, cutoff).await;
    }
    let end = bench.applied;
    let oracle = Oracle::of(&reports);
    let kept = oracle.without_hours_before(cutoff);
    assert!(kept.len() < oracle.len(), "the fleet has points to skip");
    check_everything(&*bench.store, &kept, CITY, 17).await;
    // They count as applied all the same.
    bench.store.flush().await.expect("it flushes");
    assert!(bench.store.durable().get() >= end);
}

async fn hours_that_ended_before_the_cutoff_are_forgotten(make: Make) {
    let mut bench = make().await;
    let reports = fleet(18, 30, 15, CITY);
    for batch in reports.chunks(61) {
        bench.apply(batch).await;
    }
    let oracle = Oracle::of(&reports);
    for cutoff in [now() - 9 * HOUR_MS, now() - 4 * HOUR_MS + 1, now() - HOUR_MS / 2, now()] {
        bench.store.forget_before(Timestamp::from_ms(cutoff)).await.expect("it forgets");
        let kept = oracle.without_hours_before(cutoff);
        check_everything_kept(&*bench.store, &kept, CITY, 18, cutoff - cutoff.rem_euclid(HOUR_MS)).await;
    }
    // Whoever was forgotten can come back.
    let forgotten =
        oracle.drivers().find(|driver| oracle.latest(driver).is_some_and(|seen| seen.ts < now() - HOUR_MS));
    let back = at(forgotten.expect("some fell silent"), now(), 52.22, 21.0);
    bench.apply(std::slice::from_ref(&back)).await;
    let mut kept = oracle.without_hours_before(now());
    kept.add(back);
    check_everything_kept(&*bench.store, &kept, CITY, 18, now() - now().rem_euclid(HOUR_MS)).await;
}

async fn what_was_flushed_is_durable(make: Make) {
    let mut bench = make().await;
    let reports = fleet(19, 20, 10, CITY);
    let mut before = bench.store.durable();
    for batch in reports.chunks(50) {
        bench.apply(batch).await;
        let durable = bench.store.durable();
        assert!(before <= durable && durable.get() <= bench.applied, "{durable} of {}", bench.applied);
        before = durable;
    }
    bench.store.flush().await.expect("it flushes");
    assert_eq!(bench.store.durable().get(), bench.applied);
    check_everything(&*bench.store, &Oracle::of(&reports), CITY, 19).await;
}

async fn a_batch_is_visible_when_it_is_applied_and_to_readers_beside_the_writer(make: Make) {
    let mut bench = make().await;
    let reader = bench.store.clone();
    let reading = tokio::spawn(async move {
        let mut newest = None;
        // A driver only ever moves on, whatever is being applied.
        while newest != Some(now()) {
            let seen = reader.latest(&id("cab"), trailing(5 * HOUR_MS)).await.expect("an answer");
            let seen = seen.map(|fix| fix.ts.as_ms());
            assert!(newest <= seen, "went back from {newest:?} to {seen:?}");
            newest = seen;
            tokio::task::yield_now().await;
        }
    });
    for n in (0..200).rev() {
        let report = at("cab", now() - n * 1_000, 52.0, 21.0);
        bench.apply(std::slice::from_ref(&report)).await;
        let latest = bench.store.latest(&id("cab"), trailing(5 * HOUR_MS)).await.expect("an answer");
        assert_eq!(latest.map(|fix| fix.ts.as_ms()), Some(report.seen.ts));
    }
    reading.await.expect("the reader saw no step back");
}

// ---- Of one store alone

#[tokio::test(flavor = "multi_thread")]
async fn embedded_is_the_same_after_it_was_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let reports = fleet(20, 40, 25, CITY);
    let oracle = Oracle::of(&reports);
    let (store, from) = open_embedded(dir.path()).await;
    assert_eq!(from.unwrap_or_default(), Offset::START, "an empty one wants everything");
    let mut bench = Bench::new(store, ());
    for batch in reports.chunks(100) {
        bench.apply(batch).await;
    }
    bench.store.flush().await.expect("it flushes");
    let end = bench.applied;
    drop(bench);
    for _ in 0..2 {
        let (store, from) = open_embedded(dir.path()).await;
        assert_eq!(from.map(Offset::get), Some(end));
        check_everything(&*store, &oracle, CITY, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_says_from_where_it_must_be_applied_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let reports = fleet(21, 40, 25, CITY);
    let batches: Vec<_> = reports.chunks(100).collect();
    let (store, _) = open_embedded(dir.path()).await;
    let mut bench = Bench::new(store, ());
    for batch in &batches {
        bench.apply(batch).await;
    }
    // Dropped without a flush, as a crash would: what its note does not cover is applied again.
    drop(bench);
    let (store, from) = open_embedded(dir.path()).await;
    let from = from.unwrap_or_default().get();
    assert_eq!(from % 1_000, 0, "the note stands between two batches");
    let mut bench = Bench::new(store, ());
    bench.applied = from;
    for batch in &batches[usize::try_from(from / 1_000).expect("small")..] {
        bench.apply(batch).await;
    }
    check_everything(&*bench.store, &Oracle::of(&reports), CITY, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_the_same_whichever_instance_applied() {
    let server = RedisServer::start();
    let (one, two) = (open_redis(&server, ONE).await, open_redis(&server, TWO).await);
    let reports = fleet(22, 40, 25, CITY);
    let halves = [one.clone(), two.clone()].map(|store| {
        let mut bench = Bench::new(store, ());
        let mut reports = reports.clone();
        reports.shuffle(&mut StdRng::seed_from_u64(22 + Arc::strong_count(&bench.store) as u64));
        async move {
            for batch in reports.chunks(73) {
                bench.apply(batch).await;
            }
        }
    });
    let [first, second] = halves;
    tokio::join!(first, second);
    for store in [one, two] {
        check_everything(&*store, &Oracle::of(&reports), CITY, 22).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_gone_is_never_an_empty_answer() {
    let server = RedisServer::start();
    let store = open_redis(&server, ONE).await;
    let mut bench = Bench::new(store, ());
    bench.apply(&fleet(23, 5, 5, CITY)).await;
    drop(server);
    let (store, began) = (&*bench.store, Instant::now());
    let (driver, long, this_hour) = (id("cab-001"), trailing(5 * HOUR_MS), hour(hour_of(now())));
    let (from, to) = (Timestamp::from_ms(now() - HOUR_MS), Timestamp::from_ms(now()));
    let near = NearbyQuery {
        centre: Position::new(52.2, 21.0).expect("legal"),
        radius_m: 1e5,
        limit: 10,
        when: When::Within(long),
        tags: vec![],
    };
    let point = point(&at("cab", now(), 52.0, 21.0));
    let batch = Batch {
        points: &[point],
        start: Offset::START,
        end: Offset::new(9_999),
        forget_before: Timestamp::from_ms(0),
        repeated: false,
    };
    let answers: Vec<(&str, Result<(), StoreError>)> = vec![
        ("latest", store.latest(&driver, long).await.map(drop)),
        ("nearby", store.nearby(&near).await.map(drop)),
        ("active", store.active(long, None, 10).await.map(drop)),
        ("active_count", store.active_count(long).await.map(drop)),
        ("track", store.track(&driver, from, to, 10).await.map(drop)),
        ("hour_drivers", store.hour_drivers(this_hour, None, 10).await.map(drop)),
        ("hour_positions", store.hour_positions(this_hour, None, 10).await.map(drop)),
        ("last_report", store.last_report(long).await.map(drop)),
        ("ping", store.ping().await),
        ("apply", store.apply(batch).await.map(|_| ())),
    ];
    for (question, answer) in &answers {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{question}: {answer:?}");
    }
    // Each call has a deadline of 5 s; more than that together means one of them had none.
    assert!(began.elapsed() < Duration::from_secs(5 * answers.len() as u64 + 5));
}

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        contract!(@ embedded_store, embedded, $($test),*);
        contract!(@ redis_store, redis, $($test),*);
        contract!(@ redis_store_by_5, redis_by_5, $($test),*);
        contract!(@ redis_store_by_7, redis_by_7, $($test),*);
    };
    (@ $store:ident, $make:ident, $($test:ident),*) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::$make).await;
            })*
        }
    };
}

contract! {
    a_city_is_as_brute_force_says,
    a_sparse_world_is_as_brute_force_says,
    the_antimeridian_is_as_brute_force_says,
    the_northern_limit_is_as_brute_force_says,
    the_southern_limit_is_as_brute_force_says,
    the_world_s_corners_are_found,
    a_track_on_disk_is_read_like_one_in_memory,
    order_repetition_and_batches_make_no_difference,
    applying_everything_again_changes_nothing,
    of_two_that_differ_the_greater_wins,
    a_tie_within_one_batch_is_settled_too,
    no_late_point_moves_a_driver_back,
    a_late_point_is_the_last_of_its_own_hour,
    a_driver_is_met_once_across_the_turn_of_the_hour,
    both_ends_of_a_window_count,
    a_silent_fleet_is_not_active,
    tags_are_those_of_the_point_that_is_asked_about,
    at_the_same_distance_ids_decide,
    the_edge_of_the_circle_is_included,
    limits_from_one_to_a_thousand_hold,
    every_limit_pages_through_everyone,
    a_page_begins_after_a_driver_who_need_not_be_there,
    pages_meet_everyone_once_while_all_move,
    a_track_is_paged_from_moment_to_moment,
    an_empty_store_says_that_nobody_is_there,
    an_unknown_driver_has_nothing,
    points_of_forgotten_hours_are_not_written,
    hours_that_ended_before_the_cutoff_are_forgotten,
    what_was_flushed_is_durable,
    a_batch_is_visible_when_it_is_applied_and_to_readers_beside_the_writer,
}
