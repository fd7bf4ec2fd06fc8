//! Instances whose clocks are wrong, on one Redis: five minutes behind, five minutes ahead, two hours ahead; and one that
//! is right until it jumps by more than the retention, dies, and comes back so. Each takes what is right by its own clock.
//!
//! Whatever anybody took must be in the hour of its `ts` in the end, no key may go early or stay, no journal may lose what
//! is not over, and everybody must be told whose clock is wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::watch::{Seat, Watch};
use super::{Plan, outcome};
use crate::harness::eventually;
use crate::harness::http::Http;
use crate::harness::process::{Process, geotrail};
use crate::harness::redis::RedisServer;
use crate::harness::skewed_clock::SkewedClock;
use crate::harness::traffic::{at, now_ms};
use crate::oracle::Report;

/// The first is right, and jumps later.
const AHEAD_S: [i64; 4] = [0, -300, 300, 7_200];
const JUMPER: usize = 0;
const FAR: usize = 3;
/// More than the retention.
const JUMP_S: i64 = 5 * 3_600;
const RETENTION_H: i64 = 3;
/// How long ago, in minutes, who is parked now reported. The one who is two hours ahead keeps one hour of that.
const PARKED_AGO: [i64; 6] = [10, 40, 75, 110, 140, 165];
const PARKED: usize = 60;
/// What phones may be ahead, and some seconds less.
const PHONE_AHEAD_MS: i64 = 110_000;

/// What comparing may take: what is over by then need not be there.
const A_WHILE_MS: i64 = 60_000;

struct Instance {
    service: Process,
    clock: SkewedClock,
}

pub(crate) async fn campaign(plan: &Plan) -> Value {
    let Some(mut clocks) =
        AHEAD_S.iter().map(|ahead_s| SkewedClock::new(ahead_s * 1_000)).collect::<Option<Vec<_>>>()
    else {
        return json!({ "skipped": "there is no C compiler" });
    };
    let (server, dir) = (block_in_place(RedisServer::start), tempfile::tempdir().expect("a directory"));
    let home = |number: usize| dir.path().join(format!("instance-{number}"));
    let far = clocks.remove(FAR);
    let mut instances = Vec::new();
    for (number, clock) in clocks.into_iter().enumerate() {
        let service = serve(&home(number), &server, &clock).await;
        instances.push(Instance { service, clock });
    }
    let now = now_ms();
    let parked =
        |minutes: i64| (0..PARKED).map(move |n| at(&format!("parked-{n}"), now - minutes * 60_000 - n as i64 * 7));
    let past: Vec<Report> = PARKED_AGO.into_iter().flat_map(parked).collect();
    for (number, instance) in instances.iter().enumerate() {
        instance.service.report(&past.iter().skip(number).step_by(FAR).cloned().collect::<Vec<_>>()).await;
    }
    // It forgets at once what is over; by its own clock that is what the others were just given.
    let service = serve(&home(FAR), &server, &far).await;
    instances.push(Instance { service, clock: far });

    let mut alarms_ms = json!({});
    for (Instance { service, .. }, ahead_s) in instances.iter().zip(AHEAD_S) {
        alarms_ms[ahead_s.to_string()] = json!(told(service, ahead_s).await);
    }
    let answer = instances[1].service.try_post("/v1/points", &[at("moving-0", now_ms())]).await.expect("an answer");
    assert_eq!(answer.json()["errors"][0]["code"], "ts_in_future", "who is behind says so: {answer:?}");

    let seats = instances.iter().zip(AHEAD_S).map(|(instance, ahead_s)| seat(&instance.service, ahead_s)).collect();
    let watch = Watch::on_all(seats, plan.seed, plan.ask_pause, &past).await;
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut sent = own_way(&instances, plan.skewed_for, &mut rng).await;
    block_in_place(|| server.cli(&["FLUSHALL"]));
    sent.extend(own_way(&instances, plan.skewed_for, &mut rng).await);
    all_whole(&instances).await;

    // By its clock all is over now that anybody has, and it has it from a segment that is written no more.
    watch.is_left_alone(JUMPER).await;
    instances[JUMPER].clock.set(JUMP_S * 1_000);
    let jump_told_ms = told(&instances[JUMPER].service, JUMP_S).await;
    let Instance { service, clock } = instances.swap_remove(JUMPER);
    service.kill().await;
    let service = serve(&home(JUMPER), &server, &clock).await;
    told(&service, JUMP_S).await;
    block_in_place(|| server.cli(&["FLUSHALL"]));
    // Those who are right say so only when it has put back what it took.
    all_whole(&instances).await;
    watch.for_a(plan.skewed_for).await;
    clock.set(0);
    told(&service, 0).await;
    watch.returns(JUMPER, seat(&service, 0));
    instances.push(Instance { service, clock });
    let newest = instances.len() - 1;
    instances.swap(JUMPER, newest);
    all_whole(&instances).await;
    watch.settled();
    // What its journal still has can come back once more.
    block_in_place(|| server.cli(&["FLUSHALL"]));
    watch.for_a(Duration::from_millis(1_500)).await;
    all_whole(&instances).await;
    watch.whole().await;

    let own_ways = sent.len();
    sent.extend(watch.acknowledged());
    let (count, wrong) = watch.end().await;
    assert!(wrong.is_empty(), "{} mislabelled, first: {}", wrong.len(), wrong[0].what);
    assert_eq!(count.refused, 0);
    for Instance { service, .. } in &instances {
        service.caught_up().await;
    }
    let all = outcome::accepted((0..AHEAD_S.len()).map(|number| home(number).join("data")).collect()).await;
    let lost = sent.iter().filter(|(driver, ts)| all.track(driver, *ts, ts + 1).is_empty()).count();
    assert_eq!(lost, 0, "of {} acknowledged points", sent.len());
    let mut compared = Vec::new();
    for number in [JUMPER, FAR] {
        let Instance { service, .. } = &instances[number];
        let now = now_ms() + AHEAD_S[number] * 1_000;
        let from = now - RETENTION_H * 3_600_000 + A_WHILE_MS;
        let (points, wrong) = outcome::differences(service, &all, from, now + PHONE_AHEAD_MS).await;
        assert!(wrong.is_empty(), "instance {number}: {} differences, first: {}", wrong.len(), wrong[0]);
        compared.push(points);
    }
    let (keys, wrong) = outcome::wrong_expiries(&server, RETENTION_H * 3_600);
    assert!(wrong.is_empty(), "{} keys, first: {}", wrong.len(), wrong[0]);
    for Instance { service, .. } in instances {
        assert!(service.terminate().await.success());
    }
    json!({
        "clocks_s": AHEAD_S, "jump_s": JUMP_S, "retention_h": RETENTION_H, "told_after_ms": alarms_ms,
        "jump_told_after_ms": jump_told_ms, "answers": count.answers(), "complete": count.complete,
        "mislabelled": count.mislabelled, "acknowledged": count.acknowledged + own_ways, "lost": lost,
        "points_compared_in_the_end": compared, "keys_of_right_expiry": keys,
    })
}

async fn serve(home: &Path, server: &RedisServer, clock: &SkewedClock) -> Process {
    std::fs::create_dir_all(home).expect("a directory");
    let mut command = geotrail();
    command.args(["serve", "--listen", "127.0.0.1:0", "--retention", &format!("{RETENTION_H}h"), "--data-dir"]);
    command.arg(home.join("data")).args(["--store", &server.url()]);
    clock.under(&mut command);
    Process::begin(home, command).await.expect("it starts")
}

fn seat(service: &Http, ahead_s: i64) -> Seat {
    let keeps_ms = RETENTION_H * 3_600_000 - ahead_s * 1_000 - A_WHILE_MS;
    Seat::new(service, ahead_s, keeps_ms)
}

/// Waits until an instance says how its clock stands, in `/health` if it is wrong and in its metrics; how long that took.
async fn told(service: &Http, ahead_s: i64) -> u64 {
    let began = Instant::now();
    eventually("that it is said how the clock stands", async || {
        let health = service.get("/health").await.json().to_string();
        let words = match ahead_s {
            0 => None,
            1.. => Some("ahead of the store's"),
            _ => Some("behind the store's"),
        };
        let is_said = words.map_or_else(|| !health.contains("this instance's clock"), |words| health.contains(words));
        let metrics = String::from_utf8(service.get("/metrics").await.body).expect("text");
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("geotrail_clock_skew_seconds{store=\"redis\"} "))?;
        let skew_s: f64 = line.parse().expect("a number");
        (is_said && (skew_s - ahead_s as f64).abs() < 1.0).then_some(())
    })
    .await;
    began.elapsed().as_millis() as u64
}

/// For so long, reports that only some would take: late ones through everybody, and such as are ahead by as much as the
/// clock of who takes them. Who and when: all were taken.
async fn own_way(instances: &[Instance], while_: Duration, rng: &mut StdRng) -> Vec<(String, i64)> {
    let (until, mut taken) = (Instant::now() + while_, Vec::new());
    while Instant::now() < until {
        for (number, Instance { service, .. }) in instances.iter().enumerate() {
            let ago_ms = 360_000 + rng.random_range(0..1_800_000);
            let late = at(&format!("late-{}", rng.random_range(0..9)), now_ms() - ago_ms);
            let ahead_ms = AHEAD_S[number] * 1_000 + rng.random_range(0..PHONE_AHEAD_MS);
            let own = at(&format!("own-{number}-{}", rng.random_range(0..9)), now_ms() + ahead_ms);
            taken.extend([&late, &own].map(|report| (report.driver.clone(), report.seen.ts)));
            let answer = service.try_post("/v1/points", &[late, own]).await.expect("an answer");
            assert_eq!((answer.status, &answer.json()["accepted"]), (202, &json!(2)), "{answer:?}");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    taken
}

async fn all_whole(instances: &[Instance]) {
    for Instance { service, .. } in instances {
        eventually("complete answers", async || {
            let answer = service.get("/v1/active/count").await;
            (answer.header("geotrail-index") == "complete").then_some(())
        })
        .await;
    }
}
