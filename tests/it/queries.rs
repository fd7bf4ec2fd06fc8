//! Every query over a real socket, on both stores, against brute force.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::app::Service;
use crate::harness::http::{Driver, read_seen};
use crate::harness::{Backing, Kind, on_both_stores};
use crate::oracle::{Oracle, Report, Seen, Which, haversine_m, hour_name, hour_of, lately, nearby_differs, rfc3339};

const HOUR_MS: i64 = 3_600_000;
const AHEAD_MS: i64 = 120_000;

fn now() -> i64 {
    lately("14:00:01.250")
}

fn fleet() -> Vec<Report> {
    let mut rng = StdRng::seed_from_u64(31);
    let mut reports = Vec::new();
    for number in 0..80 {
        let newest = if number % 5 == 0 { now() - 90 * 60_000 } else { now() + 60_000 };
        for _ in 0..15 {
            let tags: &[&str] = [&[][..], &["van"], &["van", "free"]][rng.random_range(0..3)];
            let mut maybe = |most: f64| rng.random_bool(0.7).then(|| rng.random_range(0.0..most));
            let (speed, heading, accuracy) = (maybe(60.0), maybe(360.0), maybe(3_000.0));
            let seen = Seen {
                ts: rng.random_range(now() - 4 * HOUR_MS..newest),
                lat: rng.random_range(52.20..52.26),
                lon: rng.random_range(20.95..21.08),
                speed,
                heading,
                accuracy,
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            };
            reports.push(Report { driver: format!("cab:{number}"), seen });
        }
    }
    reports
}

/// As close as the contract promises.
fn check_seen(found: &Seen, expected: &Seen) {
    assert_eq!((found.ts, &found.tags), (expected.ts, &expected.tags));
    assert!(haversine_m((found.lat, found.lon), (expected.lat, expected.lon)) <= 1.0, "{found:?} {expected:?}");
    let near = |found: Option<f64>, expected: Option<f64>, slack: f64| match (found, expected) {
        (Some(found), Some(expected)) => assert!((found - expected).abs() <= slack, "{found}, not {expected}"),
        (found, expected) => assert_eq!(found, expected),
    };
    near(found.speed, expected.speed, 0.05);
    near(found.heading, expected.heading, 0.5);
    near(found.accuracy, expected.accuracy, (expected.accuracy.unwrap_or_default() * 0.01).max(0.5));
}

fn check_drivers(found: &[Driver], expected: &BTreeMap<&str, &Seen>, what: &str) {
    let ids: Vec<_> = found.iter().map(|driver| driver.id.as_str()).collect();
    assert_eq!(ids, expected.keys().copied().collect::<Vec<_>>(), "{what}");
    for driver in found {
        check_seen(&driver.seen, expected[driver.id.as_str()]);
        let age_s = (now() - driver.seen.ts).max(0) as f64 / 1_000.0;
        assert!((driver.age_s.expect("an age") - age_s).abs() < 1.0, "{what}: {driver:?}");
    }
}

async fn every_answer_is_as_brute_force_says(kind: Kind) {
    let backing = Backing::new(kind);
    let service = Service::start(&backing.url, now()).await;
    let reports = fleet();
    service.report(&reports).await;
    let oracle = Oracle::of(&reports);
    let (hour_ago, ahead) = (now() - HOUR_MS, now() + AHEAD_MS);
    let trailing = Which::Newest { since: hour_ago, until: ahead };

    // Active: by default the trailing hour, in pages, in one stream, as GeoJSON, counted.
    let active = oracle.located(trailing);
    assert!((10..80).contains(&active.len()), "some are silent, some are not");
    for limit in [1, 7, 1_000] {
        check_drivers(&service.all_pages("/v1/active?max_age_s=3600", limit).await, &active, "active");
    }
    let streamed = service.get_as("application/x-ndjson", "/v1/active").await;
    check_drivers(&streamed.lines().iter().map(Driver::read).collect::<Vec<_>>(), &active, "active, streamed");
    let geo = service.get_as("application/geo+json", "/v1/active").await;
    assert_eq!(geo.header("content-type"), "application/geo+json");
    let geo = geo.json();
    assert_eq!((&geo["type"], &geo["degraded"]), (&"FeatureCollection".into(), &false.into()));
    let features = geo["features"].as_array().expect("features");
    assert_eq!(features.len(), active.len());
    for feature in features {
        let seen = active[feature["properties"]["driver_id"].as_str().expect("an id")];
        let (lon, lat) = (&feature["geometry"]["coordinates"][0], &feature["geometry"]["coordinates"][1]);
        let place = (lat.as_f64().expect("lat"), lon.as_f64().expect("lon"));
        assert!(haversine_m(place, (seen.lat, seen.lon)) <= 1.0, "longitude stands first in GeoJSON");
    }
    assert_eq!(service.get("/v1/active/count").await.json()["count"], active.len());
    let tagged: BTreeMap<_, _> =
        active.iter().filter(|(_, seen)| seen.tags.len() == 2).map(|(id, s)| (*id, *s)).collect();
    check_drivers(&service.all_pages("/v1/active?tags=free,van", 3).await, &tagged, "active, tagged");
    let none = service.get("/v1/active?tags=boat").await;
    assert_eq!((none.page().0.len(), none.header("geotrail-index")), (0, "complete"));

    // One driver, and its track.
    for driver in ["cab:1", "cab:5"] {
        let found = Driver::read(&service.get(&format!("/v1/drivers/{driver}")).await.json());
        check_seen(&found.seen, oracle.latest(driver).expect("known"));
        for (from, to) in [(now() - 5 * HOUR_MS, ahead), (now() - 3 * HOUR_MS, now() - HOUR_MS), (now(), now())] {
            let (found, expected) = (service.track(driver, from, to).await, oracle.track(driver, from, to));
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).for_each(|(found, expected)| check_seen(found, expected));
            let (from, to) = (rfc3339(from), rfc3339(to));
            let path = format!("/v1/drivers/{driver}/track?from={from}&to={to}");
            let as_text = service.get(&path).await.json();
            let as_text: Vec<_> = as_text["points"].as_array().expect("points").iter().map(read_seen).collect();
            assert_eq!(as_text, found, "{path}");
        }
        let lately = service.get(&format!("/v1/drivers/{driver}/track")).await.json();
        assert_eq!(lately["points"].as_array().map(Vec::len), Some(oracle.track(driver, hour_ago, ahead + 1).len()));
    }
    for path in ["/v1/drivers/nobody", "/v1/drivers/nobody/track"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }

    // Hours, also those in which nobody reported, and those that are not kept.
    for hour in hour_of(now()) - 6..=hour_of(now()) + 2 {
        let name = hour_name(hour);
        let drivers = service.all_pages(&format!("/v1/hours/{name}/drivers?"), 9).await;
        let drivers: Vec<_> = drivers.into_iter().map(|driver| driver.id).collect();
        assert_eq!(drivers, oracle.hour_drivers(hour).into_iter().collect::<Vec<_>>(), "{name}");
        let positions = service.all_pages(&format!("/v1/hours/{name}/positions?"), 9).await;
        check_drivers(&positions, &oracle.located(Which::LastOf(hour)), &name);
    }
    let gone = service.get(&format!("/v1/hours/{}/drivers", hour_name(hour_of(now()) - 50))).await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "out_of_retention"));

    // Near, now and in an hour.
    let mut rng = StdRng::seed_from_u64(32);
    for number in 0..60 {
        let centre = (rng.random_range(52.20..52.26), rng.random_range(20.95..21.08));
        let (radius_m, limit) = ([300.0, 2_000.0, 50_000.0][number % 3], [1, 10, 1_000][number / 3 % 3]);
        let (when, which) = if number % 2 == 0 {
            (String::new(), trailing)
        } else {
            let hour = hour_of(now()) - number as i64 % 5;
            (format!("&hour={}", hour_name(hour)), Which::LastOf(hour))
        };
        let tags: &[&str] = [&[][..], &["van"]][number / 2 % 2];
        let tag = tags.first().map(|tag| format!("&tags={tag}")).unwrap_or_default();
        let path =
            format!("/v1/nearby?lat={}&lon={}&radius_m={radius_m}&limit={limit}{when}{tag}", centre.0, centre.1);
        let answer = service.get(&path).await;
        let truncated = answer.json()["truncated"].as_bool().expect("said");
        let near: Vec<_> = answer.page().0.into_iter().map(|d| (d.id, d.distance_m.expect("a distance"))).collect();
        let truth = |radius_m: f64| oracle.nearby(centre, radius_m, which, tags);
        if let Some(difference) = nearby_differs(&near, truncated, &truth, radius_m, limit, 1.0) {
            panic!("{path}: {difference}");
        }
    }

    // How many in each cell.
    for resolution in [0, 5, 7, 9] {
        let cells = service.get(&format!("/v1/density?resolution={resolution}")).await.json();
        let cells = cells["cells"].as_array().expect("cells").iter();
        let cells: BTreeMap<_, _> = cells
            .map(|cell| (cell["h3"].as_str().expect("a cell").to_owned(), cell["drivers"].as_u64().expect("a count")))
            .collect();
        assert_eq!(cells, oracle.density(hour_ago, ahead, resolution), "resolution {resolution}");
    }
    service.stop().await;
}

async fn answers_are_the_same_after_a_restart(kind: Kind) {
    let backing = Backing::new(kind);
    let service = Service::start(&backing.url, now()).await;
    service.report(&fleet()).await;
    let name = hour_name(hour_of(now()) - 1);
    let paths = [
        "/v1/active".to_owned(),
        "/v1/active/count".to_owned(),
        "/v1/drivers/cab:3/track?from=0".to_owned(),
        "/v1/nearby?lat=52.23&lon=21.0&radius_m=5000&limit=50".to_owned(),
        format!("/v1/hours/{name}/drivers"),
        format!("/v1/hours/{name}/positions"),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(service.get(path).await.json());
    }
    let service = service.restart().await;
    service.caught_up().await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(service.get(path).await.json(), before, "{path}");
    }
    service.stop().await;
}

async fn every_window_ends_where_the_contract_says(kind: Kind) {
    let backing = Backing::new(kind);
    let service = Service::start(&backing.url, now()).await;
    let at = |driver: &str, ts: i64| Report {
        driver: driver.to_owned(),
        seen: Seen { ts, lat: 52.23, lon: 21.01, ..Seen::default() },
    };
    service
        .report(&[
            at("ahead", now() + AHEAD_MS),
            at("hour", now() - HOUR_MS),
            at("hour-and-1-ms", now() - HOUR_MS - 1),
            at("minute", now() - 60_000),
            at("minute-and-1-ms", now() - 60_001),
        ])
        .await;
    let minute = vec!["ahead", "minute"];
    let trailing = vec!["ahead", "hour", "minute", "minute-and-1-ms"];
    let all = vec!["ahead", "hour", "hour-and-1-ms", "minute", "minute-and-1-ms"];
    for (age, expected) in
        [("max_age_s=60", &minute), ("max_age_s=3600", &trailing), ("", &trailing), ("max_age_s=3601", &all)]
    {
        let ids = |drivers: Vec<Driver>| drivers.into_iter().map(|driver| driver.id).collect::<Vec<_>>();
        assert_eq!(ids(service.get(&format!("/v1/active?{age}")).await.page().0), *expected, "active, {age}");
        let near = service.get(&format!("/v1/nearby?lat=52.23&lon=21.01&{age}")).await;
        assert_eq!(ids(near.page().0), *expected, "nearby, {age}");
        let count = service.get(&format!("/v1/active/count?{age}")).await.json();
        assert_eq!(count["count"], expected.len(), "{age}");
        let cells = service.get(&format!("/v1/density?{age}")).await.json();
        assert_eq!(cells["cells"][0]["drivers"], expected.len(), "{age}: {cells}");
    }
    // A track is by default one of the trailing hour and of what counts as now.
    for (driver, points) in [("ahead", 1), ("hour", 1), ("hour-and-1-ms", 0)] {
        let track = service.get(&format!("/v1/drivers/{driver}/track")).await.json();
        assert_eq!(track["points"].as_array().map(Vec::len), Some(points), "{driver}: {track}");
    }
    // `from` is in it, `to` is not.
    let ts = now() - 60_000;
    for (from, to, points) in [(ts, ts + 1, 1), (ts + 1, ts + 2, 0), (ts - 1, ts, 0), (ts, ts, 0)] {
        let track = service.get(&format!("/v1/drivers/minute/track?from={from}&to={to}")).await;
        assert_eq!((track.status, track.json()["points"].as_array().map(Vec::len)), (200, Some(points)), "{from}");
    }

    // The retention: of a driver to the millisecond, of an hour as long as any of it is kept. Redis would have forgotten
    // by its own clock.
    if matches!(kind, Kind::Redis) {
        return service.stop().await;
    }
    let last = now() - 48 * HOUR_MS;
    let ended = (hour_of(now()) - 47) * HOUR_MS;
    service.report(&[at("old", last), at("hour", ended - 1), at("hour", ended)]).await;
    let hour = |number: i64| format!("/v1/hours/{}/drivers", hour_name(number));
    let (before, behind) = (hour(hour_of(ended) - 1), hour(hour_of(ended)));
    assert_eq!(service.get("/v1/drivers/old").await.status, 200);
    assert_eq!(service.get(&before).await.json()["drivers"], serde_json::json!(["hour", "old"]), "half-open");
    assert_eq!(service.get(&behind).await.json()["drivers"], serde_json::json!(["hour"]), "half-open");
    let track = format!("/v1/drivers/old/track?from={}", last - HOUR_MS);
    assert_eq!(service.get(&track).await.json()["points"].as_array().map(Vec::len), Some(1));
    service.set_now(now() + 1);
    for path in ["/v1/drivers/old", &track] {
        assert_eq!(service.get(path).await.code(), "not_found", "{path}");
    }
    service.set_now(ended + 48 * HOUR_MS - 1);
    assert_eq!(service.get(&before).await.status, 200);
    service.set_now(ended + 48 * HOUR_MS);
    assert_eq!(service.get(&before).await.code(), "out_of_retention");
    assert_eq!(service.get(&behind).await.status, 200);
    service.stop().await;
}

on_both_stores! {
    every_window_ends_where_the_contract_says,
    every_answer_is_as_brute_force_says,
    answers_are_the_same_after_a_restart,
}
