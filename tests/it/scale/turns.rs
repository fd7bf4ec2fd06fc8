//! What writes cost, straight into the store and end to end, beside a bare client: one after the other, and that several
//! times, for machines differ from minute to minute. A ratio is of one turn; its median counts.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use geotrail::model::Point;
use tempfile::TempDir;

use super::fleet::Fleet;
use super::{ROUNDS, Server, how, join_in, own_cpu_s, write, write_bare};
use crate::harness::process::Process;

/// Batches on their way at once, end to end.
const SENDERS: usize = 8;
/// Points to measure by, end to end: of a few, what begins and ends would be much of it.
const POINTS: usize = 400_000;

const HEAD: &str = "\
| drivers | hours | Redis: a point, of plain commands | end to end, of the bare client | points/s | geotrail: a point, µs \
| Redis: a point, µs | the sender: a point, µs |
|---|---|---|---|---|---|---|---|";

/// What came of points end to end.
struct EndToEnd {
    rate: f64,
    own_us: f64,
    redis_us: f64,
    sender_us: f64,
}

/// Of some numbers the middle one, the least and the greatest.
struct Spread([f64; 3]);

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_unstable_by(f64::total_cmp);
        Self([numbers[numbers.len() / 2], numbers[0], numbers[numbers.len() - 1]])
    }

    fn show(&self, digits: usize) -> String {
        let Self([median, least, most]) = self;
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// What it takes to bring points through HTTP, the journal and its fsync, until Redis has them.
async fn end_to_end(drivers: usize, resolution: Option<u8>, among_others: bool) -> EndToEnd {
    let mut server = Server::start();
    let dir = TempDir::new().expect("a directory");
    let service = Process::serve_with(dir.path(), &server.redis.url(), |command| {
        if let Some(resolution) = resolution {
            command.args(["--shard-resolution", &resolution.to_string()]);
        }
        command.env("RUST_LOG", "warn");
    })
    .await;
    let mut fleet = Fleet::new(drivers);
    let body = |points: &[Point]| {
        let mut body = String::new();
        for Point { driver, fix } in points {
            let (ts, lat, lon) = (fix.ts.as_ms(), fix.position.lat(), fix.position.lon());
            writeln!(body, r#"{{"driver_id":"{driver}","ts":{ts},"lat":{lat:.7},"lon":{lon:.7}}}"#)
                .expect("memory takes all");
        }
        body
    };
    let bodies = |points: &[Point]| points.chunks(1_000).map(body).collect::<Vec<_>>();
    let send = async |bodies: Vec<String>| {
        let posts = bodies.into_iter().map(|body| service.post("/v1/points", "application/x-ndjson", body));
        let statuses: Vec<u16> =
            stream::iter(posts).buffer_unordered(SENDERS).map(|answer| answer.status).collect().await;
        assert!(statuses.iter().all(|status| *status == 202), "{statuses:?}");
        // The service takes points faster than Redis.
        let is_behind = async || service.get("/v1/admin/stores").await.json()["stores"][0]["backlog_points"] != 0;
        let patience = Duration::from_secs(30 + drivers as u64 / 1_000);
        let begun = Instant::now();
        while is_behind().await {
            assert!(begun.elapsed() < patience, "Redis does not have them");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first = fleet.report();
    send(bodies(&first)).await;
    if among_others {
        join_in(&server, resolution, &first).await;
    }
    // A service that is asked keeps the trailing hour in memory, fed by what it writes.
    assert_eq!(service.get("/v1/active/count").await.status, 200);
    let rounds = (POINTS / drivers).clamp(ROUNDS, 5 * ROUNDS);
    let reports: Vec<String> = (0..rounds).flat_map(|_| bodies(&fleet.report())).collect();
    server.begin();
    let (begun, cpu_before_s, sent_before_s) = (Instant::now(), own_cpu_s(service.pid()), own_cpu_s(None));
    send(reports).await;
    let points = (drivers * rounds) as f64;
    let rate = points / begun.elapsed().as_secs_f64();
    let own_us = (own_cpu_s(service.pid()) - cpu_before_s) * 1e6 / points;
    let sender_us = (own_cpu_s(None) - sent_before_s) * 1e6 / points;
    EndToEnd { rate, own_us, redis_us: server.cpu_us() / points, sender_us }
}

/// Prints rows for each way to divide hours: written by one instance alone, and where another writes the same drivers.
async fn fleet(drivers: usize, resolutions: &[Option<u8>]) {
    // A large fleet takes minutes.
    let turns = (300_000 / drivers).clamp(1, 5);
    let ways: Vec<(Option<u8>, bool)> = resolutions.iter().flat_map(|by| [(*by, false), (*by, true)]).collect();
    let mut ratios = vec![Vec::new(); ways.len()];
    let mut ends: Vec<Vec<(f64, EndToEnd)>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..turns {
        let plain = write_bare(drivers).row;
        for (at, (resolution, among_others)) in ways.iter().enumerate() {
            ratios[at].push(write(drivers, *resolution, *among_others).await.row.write_us / plain.write_us);
            let end = end_to_end(drivers, *resolution, *among_others).await;
            ends[at].push((end.rate / plain.rate, end));
        }
    }
    for (((resolution, among_others), ratios), ends) in ways.into_iter().zip(ratios).zip(ends) {
        let of = |number: fn(&(f64, EndToEnd)) -> f64, digits| Spread::of(ends.iter().map(number)).show(digits);
        println!(
            "| {drivers} | {}{} | {} | {} | {} | {} | {} | {} |",
            how(resolution),
            if among_others { ", among others" } else { "" },
            Spread::of(ratios.into_iter()).show(2),
            of(|(ratio, _)| *ratio, 2),
            of(|(_, end)| end.rate, 0),
            of(|(_, end)| end.own_us, 1),
            of(|(_, end)| end.redis_us, 1),
            of(|(_, end)| end.sender_us, 1)
        );
    }
}

pub(super) async fn table(sizes: &[usize], resolutions: &[Option<u8>]) {
    println!("\nWrites, in turns; end to end with HTTP and fsync, batches of 1,000, {SENDERS} at once:\n\n{HEAD}");
    for drivers in sizes {
        fleet(*drivers, resolutions).await;
    }
}
