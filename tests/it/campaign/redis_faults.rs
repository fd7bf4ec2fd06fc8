//! Redis hurt in every way of the list, under a fleet that reports and people who ask. Points must be taken all along, as
//! fast as ever; answers must say of themselves how whole they are; and everything must come back by itself.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::Plan;
use super::watch::{Count, Mislabelled, Watch};
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::switch::Switch;
use crate::harness::traffic::{becomes_whole, logged, now_ms};
use crate::oracle::{hour_name, hour_of};

/// What may be done to Redis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    KilledBackEmpty,
    KilledBackWithAnOldDump,
    Flushall,
    Swapdb,
    KeysOfAnHourUnlinked,
    Frozen,
    OutOfMemory,
    ReadOnly,
    Loading,
    LaggingFailover,
    ReplacedByAnEmptyOne,
    ConnectionsCut,
    HalfOpen,
    ScriptsFlushed,
    Evicting,
    /// Nothing: another Redis is killed and back empty, which the service does not use. A control.
    BystanderKilled,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::KilledBackEmpty,
        Self::KilledBackWithAnOldDump,
        Self::Flushall,
        Self::Swapdb,
        Self::KeysOfAnHourUnlinked,
        Self::Frozen,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::Loading,
        Self::LaggingFailover,
        Self::ReplacedByAnEmptyOne,
        Self::ConnectionsCut,
        Self::HalfOpen,
        Self::ScriptsFlushed,
        Self::Evicting,
    ];

    /// Whether it takes something away, or keeps Redis from answering: then some answer must say so.
    const fn must_be_noticed(self) -> bool {
        !matches!(self, Self::ConnectionsCut | Self::ScriptsFlushed | Self::BystanderKilled)
    }
}

/// Puts a part of the ballast there.
const BALLAST: &str =
    "for n = 1, 125 do redis.call('SET', 'ballast:' .. ARGV[1] .. ':' .. n, string.rep('x', 4096)) end";
const BALLAST_STEPS: u32 = 12;
/// All of it, roughly: twice what there is room for.
const BALLAST_BYTES: f64 = 12.0 * 125.0 * 4_096.0;
/// How long what Redis has let go of may be unnoticed: INFO is asked for it every second, and that may take a while.
const EVICTION_UNNOTICED: Duration = Duration::from_millis(1_500);
/// An answer may take so long.
const ANSWERED: Duration = Duration::from_secs(2);

/// A Redis, and what is between it and the service.
pub(crate) struct Backing {
    server: RedisServer,
    spare: RedisServer,
    switch: Switch,
    /// Between the server and the spare, if that is to be a replica.
    replication: Switch,
    lasts: Duration,
    /// Stretches of time in which keys were evicted.
    evictions: Vec<(Instant, Instant)>,
}

impl Backing {
    pub(crate) async fn for_fault(fault: Fault, lasts: Duration) -> Self {
        // Reading its dump, such a server answers LOADING for a while.
        let slow =
            ["--rdbcompression", "no", "--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"];
        let quick = ["--repl-diskless-sync-delay", "0"];
        let extra = if fault == Fault::Loading { &slow[..] } else { &quick[..] };
        let (server, spare) = block_in_place(|| (RedisServer::start_with(extra), RedisServer::start()));
        let (switch, replication) = (Switch::to(server.port()).await, Switch::to(server.port()).await);
        Self { server, spare, switch, replication, lasts, evictions: Vec::new() }
    }

    /// What must be so before the fault.
    async fn prepare(&mut self, fault: Fault, watch: &Watch) {
        match fault {
            Fault::KilledBackWithAnOldDump => {
                self.say(&["SAVE"]);
                watch.for_a(Duration::from_secs(1)).await;
            }
            Fault::LaggingFailover => {
                let port = self.replication.port().to_string();
                self.spare.cli(&["REPLICAOF", "127.0.0.1", &port]);
                let is_up = || self.spare.cli(&["INFO", "replication"]).contains("master_link_status:up");
                block_in_place(|| crate::harness::redis::eventually("a replica in step", is_up));
                watch.for_a(Duration::from_millis(300)).await;
                self.replication.swallow();
                watch.for_a(self.lasts).await;
            }
            _ => {}
        }
    }

    /// Does it. Returns when it was done; what lasts is over by then too.
    pub(crate) async fn strike(&mut self, fault: Fault, watch: &Watch) {
        match fault {
            Fault::KilledBackEmpty | Fault::KilledBackWithAnOldDump => block_in_place(|| self.server.restart()),
            Fault::BystanderKilled => block_in_place(|| self.spare.restart()),
            Fault::Flushall => self.say(&["FLUSHALL"]),
            Fault::Swapdb => self.say(&["SWAPDB", "0", "1"]),
            Fault::KeysOfAnHourUnlinked => {
                let hour = format!("{{{}}}", hour_name(hour_of(now_ms()) - 2));
                let keys = self.server.keys();
                let keys: Vec<&str> = keys.iter().map(String::as_str).filter(|key| key.contains(&hour)).collect();
                self.say(&[&["UNLINK"], keys.as_slice()].concat());
            }
            Fault::Frozen => {
                self.server.stop();
                watch.for_a(self.lasts).await;
                self.server.cont();
            }
            Fault::OutOfMemory => {
                self.say(&["CONFIG", "SET", "maxmemory", "1"]);
                watch.for_a(self.lasts).await;
                self.say(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::ReadOnly => {
                self.say(&["REPLICAOF", "127.0.0.1", "1"]);
                watch.for_a(self.lasts).await;
                self.say(&["REPLICAOF", "NO", "ONE"]);
            }
            Fault::Loading => {
                self.say(&["SAVE"]);
                block_in_place(|| self.server.restart());
            }
            Fault::LaggingFailover => {
                self.server.kill();
                self.spare.cli(&["REPLICAOF", "NO", "ONE"]);
                self.switch.turn_to(self.spare.port());
            }
            Fault::ReplacedByAnEmptyOne => self.switch.turn_to(self.spare.port()),
            Fault::ConnectionsCut => {
                let began = Instant::now();
                while began.elapsed() < self.lasts {
                    self.switch.turn_to(self.server.port());
                    watch.for_a(Duration::from_millis(37)).await;
                }
            }
            Fault::HalfOpen => {
                self.switch.swallow();
                watch.for_a(self.lasts).await;
                self.switch.forward_again();
                self.switch.turn_to(self.server.port());
            }
            Fault::Evicting => {
                // Somebody else fills the rest of it.
                let room = self.server.info("used_memory") + BALLAST_BYTES / 2.0;
                self.say(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
                self.say(&["CONFIG", "SET", "maxmemory", &format!("{room:.0}")]);
                for step in 0..BALLAST_STEPS {
                    let (from, before) = (Instant::now(), self.server.info("evicted_keys"));
                    self.say(&["EVAL", BALLAST, "0", &step.to_string()]);
                    watch.for_a(self.lasts / BALLAST_STEPS).await;
                    if self.server.info("evicted_keys") > before {
                        self.evictions.push((from, Instant::now()));
                    }
                }
                self.say(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
                self.say(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::ScriptsFlushed => {
                for _ in 0..10 {
                    self.say(&["SCRIPT", "FLUSH"]);
                    watch.for_a(self.lasts / 10).await;
                }
            }
        }
    }

    fn say(&self, command: &[&str]) {
        block_in_place(|| self.server.cli(command));
    }

    pub(crate) fn url(&self) -> String {
        RedisServer::url_at(&format!("127.0.0.1:{}", self.switch.port()))
    }
}

/// All faults of the plan, one after the other, each on a Redis and a service of its own.
pub(crate) async fn campaign(plan: &Plan) -> Value {
    let mut faults = json!({});
    let (mut all, mut wrong, mut slowest) = (Count::default(), Vec::new(), 0.0_f64);
    for &fault in plan.faults {
        let (figures, count, mislabelled) = one(fault, plan).await;
        eprintln!("    {fault:?}: {figures}");
        slowest = slowest.max(figures["ack_p99_ms"].as_f64().unwrap_or_default());
        faults[format!("{fault:?}")] = figures;
        all.add(count);
        wrong.extend(mislabelled.into_iter().map(|answer| format!("{fault:?}: {}", answer.what)));
    }
    let figures = json!({
        "answers": all.answers(), "complete": all.complete, "degraded": all.degraded, "unavailable": all.unavailable,
        "mislabelled": all.mislabelled, "batches_refused": all.refused, "slowest_ack_p99_ms": slowest, "each": faults,
    });
    assert!(wrong.is_empty(), "{} mislabelled, first: {}", wrong.len(), wrong[0]);
    assert_eq!(all.refused, 0, "{figures}");
    figures
}

async fn one(fault: Fault, plan: &Plan) -> (Value, Count, Vec<Mislabelled>) {
    let mut backing = Backing::for_fault(fault, plan.fault_lasts).await;
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url()).await;
    let watch = Watch::on(&service, plan.seed).await;
    watch.acks();
    watch.for_a(plan.baseline).await;
    let before = watch.acks();
    backing.prepare(fault, &watch).await;
    watch.await_notice();
    let began = Instant::now();
    backing.strike(fault, &watch).await;
    let over = Instant::now();
    if fault.must_be_noticed() {
        let notice = async || watch.noticed();
        crate::harness::eventually("an answer that says that something is missing", notice).await;
    }
    if fault == Fault::Evicting {
        // Tracks that are missed would give it away too, later where there are more of them.
        logged(dir.path(), "let go of keys; putting everything in once more", 1).await;
        watch.for_a(EVICTION_UNNOTICED).await;
    }
    watch.whole().await;
    let whole = watch.incomplete().unwrap_or(over);
    let during = watch.acks();
    watch.for_a(plan.baseline / 4).await;
    let noticed_ms = watch.noticed().map(|noticed| noticed.saturating_duration_since(began).as_millis() as u64);
    let (mut count, mut wrong) = watch.end().await;
    // What was evicted within the last second need not be known yet: that much is promised, and no more.
    let is_too_early = |asked: Instant| {
        backing.evictions.iter().any(|(from, to)| *from < asked + ANSWERED && asked < *to + EVICTION_UNNOTICED)
    };
    wrong.retain(|answer| !is_too_early(answer.asked));
    let unnoticed_yet = count.mislabelled - wrong.len();
    count.mislabelled = wrong.len();
    assert!(fault != Fault::Evicting || !backing.evictions.is_empty(), "nothing was evicted");
    becomes_whole(&service, dir.path(), &backing.url()).await;
    assert!(service.terminate().await.success());
    let mut figures = json!({
        "first_answer_not_complete_ms": noticed_ms,
        "fault_lasted_ms": (over - began).as_millis() as u64,
        "whole_after_it_ms": whole.saturating_duration_since(over).as_millis() as u64,
        "baseline_ack_p99_ms": before.percentile_ms(0.99), "baseline_acks": before.samples(),
        "ack_p99_ms": during.percentile_ms(0.99), "acks": during.samples(),
        "answers": count.answers(), "complete": count.complete, "mislabelled": count.mislabelled,
        "batches_refused": count.refused,
    });
    if fault == Fault::Evicting {
        figures["keys_evicted"] = json!(backing.server.info("evicted_keys"));
        figures["wrong_within_a_second_of_eviction"] = json!(unnoticed_yet);
    }
    (figures, count, wrong)
}

/// How long it takes until a loss is noticed by a service to which nobody reports and which nobody asks: its own looking
/// after Redis alone.
pub(crate) async fn detection(plan: &Plan) -> Value {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(plan.seed);
    let mut backing = Backing::for_fault(Fault::Flushall, Duration::ZERO).await;
    let dir = tempfile::tempdir().expect("a directory");
    let service = Process::serve(dir.path(), &backing.url()).await;
    let watch = Watch::on(&service, plan.seed).await;
    let mut took_ms = Vec::new();
    for trial in 0..plan.trials {
        watch.pause(false);
        watch.whole().await;
        watch.pause(true);
        // What was on its way has arrived by then, and the looking is at any of its moments.
        watch.for_a(Duration::from_millis(700 + rng.random_range(0..1_000))).await;
        let known = losses_told(dir.path());
        let began = Instant::now();
        match trial % 4 {
            0 => backing.say(&["FLUSHALL"]),
            1 => backing.say(&["SWAPDB", "0", "1"]),
            2 => block_in_place(|| backing.server.restart()),
            _ => {
                let emptied = if trial % 8 == 3 { &backing.spare } else { &backing.server };
                block_in_place(|| emptied.cli(&["FLUSHALL"]));
                backing.switch.turn_to(emptied.port());
            }
        }
        // SWAPDB and replacements change which one is the other: from now on it is this one.
        if trial % 8 == 3 {
            std::mem::swap(&mut backing.server, &mut backing.spare);
        }
        crate::harness::eventually("that the loss is noticed", async || {
            (losses_told(dir.path()) > known).then_some(())
        })
        .await;
        took_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    watch.pause(false);
    watch.whole().await;
    let (count, wrong) = watch.end().await;
    assert!(wrong.is_empty(), "{} mislabelled, first: {}", wrong.len(), wrong[0].what);
    assert_eq!(count.refused, 0);
    assert!(service.terminate().await.success());
    json!({
        "trials": took_ms.len(), "p50_ms": super::percentile(&mut took_ms, 0.5),
        "p99_ms": super::percentile(&mut took_ms, 0.99), "answers": count.answers(), "mislabelled": count.mislabelled,
    })
}

/// How often the service has said that its store lost data, or that it cannot be asked.
pub(crate) fn losses_told(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default().matches("the store lost data").count()
}
