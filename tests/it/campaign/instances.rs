//! Three instances on one Redis, the same drivers through all of them, shuffled and repeated; and in rounds, by the seed:
//! Redis loses everything, one of them is killed, both, in either order, and it comes back. All are asked all along.
//!
//! In the end everything that any journal holds must be there, and everything that was acknowledged must be in a journal.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::watch::{Seat, Watch};
use super::{Plan, outcome, percentile};
use crate::harness::eventually;
use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::traffic::{now_ms, past};

const INSTANCES: usize = 3;

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Round {
    /// Redis loses everything, and all are there.
    Flushed,
    /// One is killed, and comes back soon.
    Killed,
    /// One is killed while what was lost is put back, and comes back when the others have put back theirs.
    FlushedThenKilled,
    /// One is killed, and Redis loses everything while it is away.
    KilledThenFlushed,
}

impl Round {
    const ALL: [Self; 4] = [Self::FlushedThenKilled, Self::Flushed, Self::KilledThenFlushed, Self::Killed];
}

/// Milliseconds, by what was waited for.
#[derive(Default)]
struct Times {
    whole_after_a_loss: Vec<f64>,
    /// From the loss until each of the others has put back all of its own, and names who is missing.
    others_back: Vec<f64>,
    /// From the start of its process until all call themselves complete.
    whole_after_its_return: Vec<f64>,
    whole_after_a_kill: Vec<f64>,
}

struct Fleet {
    server: RedisServer,
    dir: tempfile::TempDir,
    services: Vec<Option<Process>>,
}

impl Fleet {
    fn home(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("instance-{number}"))
    }

    async fn start(&mut self, number: usize) {
        let service = serve(&self.home(number), &self.server).await;
        self.services[number] = Some(service);
    }

    fn there(&self) -> impl Iterator<Item = &Process> {
        self.services.iter().flatten()
    }

    /// Waits until every instance that is there says this of its answers.
    async fn all_say(&self, word: &str) {
        join_all(self.there().map(async |service| eventually(word, async || says(service, word).await).await)).await;
    }

    /// Waits until everybody knows that this one is away, and has put back all of its own. Whether it is missed: one
    /// that had put its part back before it died is not.
    async fn all_miss(&self, id: &str) -> bool {
        let misses = async |service: &Process| {
            let others = service.get("/v1/admin/instances").await.json()["others"].as_array().cloned();
            let state =
                others.into_iter().flatten().find(|row| row["instance"] == id).map(|row| row["state"].clone());
            match state.as_ref().and_then(Value::as_str) {
                Some("missing") => says(service, "partial").await.map(|()| true),
                Some("silent") => says(service, "complete").await.map(|()| false),
                _ => None,
            }
        };
        let all = self
            .there()
            .map(async |service| eventually("that all know who is away", async || misses(service).await).await);
        join_all(all).await.into_iter().any(|is_missed| is_missed)
    }

    /// Until all are complete, seen by those who ask all the time as well.
    async fn whole(&self, watch: &Watch) {
        self.all_say("complete").await;
        watch.whole().await;
    }
}

async fn says(service: &Http, word: &str) -> Option<()> {
    let answer = service.get("/v1/active/count").await;
    (answer.header("geotrail-index") == word).then_some(())
}

async fn serve(home: &Path, server: &RedisServer) -> Process {
    std::fs::create_dir_all(home).expect("a directory");
    Process::serve(home, &server.url()).await
}

/// As many rounds as planned, unless the time is over.
pub(crate) async fn campaign(plan: &Plan) -> Value {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let server = block_in_place(RedisServer::start);
    let mut fleet = Fleet { server, dir: tempfile::tempdir().expect("a directory"), services: Vec::new() };
    fleet.services.resize_with(INSTANCES, || None);
    for number in 0..INSTANCES {
        fleet.start(number).await;
    }
    let (reports, seats) = (past(), fleet.there().map(|service| Seat::from(&**service)).collect());
    for (number, service) in fleet.there().enumerate() {
        service.report(&reports.iter().skip(number).step_by(INSTANCES).cloned().collect::<Vec<_>>()).await;
    }
    let watch = Watch::on_all(seats, plan.seed, plan.ask_pause, &reports).await;
    let (mut times, mut rounds) = (Times::default(), Vec::new());
    let deadline = Instant::now() + plan.rounds_take;
    while rounds.len() < plan.rounds && Instant::now() < deadline {
        let round = Round::ALL[rounds.len() % Round::ALL.len()];
        fleet.whole(&watch).await;
        watch.settled();
        watch.for_a(Duration::from_millis(rng.random_range(100..1_500))).await;
        play(round, &mut fleet, &watch, &mut rng, &mut times).await;
        rounds.push(round);
    }
    fleet.whole(&watch).await;
    watch.settled();
    watch.for_a(Duration::from_secs(1)).await;
    let sent = watch.acknowledged();
    let (count, wrong) = watch.end().await;
    assert!(wrong.is_empty(), "{} mislabelled, first: {}", wrong.len(), wrong[0].what);
    assert_eq!(count.refused, 0, "points must be taken whatever happens to Redis or to others");

    for service in fleet.there() {
        service.caught_up().await;
    }
    let accepted = outcome::accepted((0..INSTANCES).map(|number| fleet.home(number).join("data")).collect()).await;
    let lost = sent.iter().filter(|(driver, ts)| accepted.track(driver, *ts, ts + 1).is_empty()).count();
    assert_eq!(lost, 0, "of {} acknowledged points", sent.len());
    let mut compared = 0;
    for service in fleet.there() {
        let (points, differences) = outcome::differences(service, &accepted, 0, now_ms()).await;
        assert!(differences.is_empty(), "{} differences, first: {}", differences.len(), differences[0]);
        compared = points;
    }
    let (keys, wrong_expiries) = outcome::wrong_expiries(&fleet.server, 72 * 3_600);
    assert!(wrong_expiries.is_empty(), "{} keys, first: {}", wrong_expiries.len(), wrong_expiries[0]);
    for service in fleet.services.into_iter().flatten() {
        assert!(service.terminate().await.success());
    }
    let figures = |mut times: Vec<f64>| json!({ "times": times.len(), "p50_ms": percentile(&mut times, 0.5), "most_ms": percentile(&mut times, 1.0) });
    let played = |round| rounds.iter().filter(|played| **played == round).count();
    json!({
        "instances": INSTANCES, "rounds": rounds.len(),
        "flushed": played(Round::Flushed), "killed": played(Round::Killed),
        "flushed_then_killed": played(Round::FlushedThenKilled), "killed_then_flushed": played(Round::KilledThenFlushed),
        "answers": count.answers(), "complete": count.complete, "mislabelled": count.mislabelled,
        "acknowledged": count.acknowledged, "lost": lost, "points_compared_in_the_end": compared, "keys_of_right_expiry": keys,
        "whole_after_a_loss": figures(times.whole_after_a_loss), "others_back_with_one_away": figures(times.others_back),
        "whole_after_its_return": figures(times.whole_after_its_return),
        "whole_after_a_kill_and_return": figures(times.whole_after_a_kill),
    })
}

async fn play(round: Round, fleet: &mut Fleet, watch: &Watch, rng: &mut StdRng, times: &mut Times) {
    let victim = rng.random_range(0..INSTANCES);
    let a_moment = Duration::from_millis(rng.random_range(0..700));
    let mut lost_at = None;
    if matches!(round, Round::Flushed | Round::FlushedThenKilled) {
        lost_at = Some(flush(fleet));
        watch.for_a(a_moment).await;
    }
    if round == Round::Flushed {
        // What nobody knows of yet does not count as whole.
        watch.for_a(Duration::from_millis(1_500)).await;
        fleet.whole(watch).await;
        let whole = watch.incomplete().max(lost_at);
        times.whole_after_a_loss.extend(since(lost_at, whole));
        return;
    }
    watch.leaves(victim);
    let service = fleet.services[victim].take().expect("it is there");
    let id = service.get("/v1/admin/instances").await.json()["instance"].as_str().expect("an id").to_owned();
    service.kill().await;
    if round == Round::KilledThenFlushed {
        watch.for_a(a_moment).await;
        lost_at = Some(flush(fleet));
    }
    if lost_at.is_some() && fleet.all_miss(&id).await {
        times.others_back.extend(since(lost_at, Some(Instant::now())));
    }
    watch.for_a(Duration::from_millis(rng.random_range(0..500))).await;
    let returned = Some(Instant::now());
    fleet.start(victim).await;
    watch.returns(victim, Seat::from(&**fleet.services[victim].as_ref().expect("it was started")));
    fleet.whole(watch).await;
    let took = since(returned, Some(Instant::now()));
    if lost_at.is_some() { times.whole_after_its_return.extend(took) } else { times.whole_after_a_kill.extend(took) }
}

fn flush(fleet: &Fleet) -> Instant {
    let at = Instant::now();
    block_in_place(|| fleet.server.cli(&["FLUSHALL"]));
    at
}

fn since(from: Option<Instant>, to: Option<Instant>) -> Option<f64> {
    Some(to?.saturating_duration_since(from?).as_secs_f64() * 1e3)
}
