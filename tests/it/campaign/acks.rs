//! Whether acknowledgements become slower while Redis is hurt: many of them, in stretches of equal length with and without
//! the fault by turns, so that what else goes on is in both. The controls do the same to a Redis that the service does not
//! use, once beside a service on another Redis, once beside one that uses none.
//!
//! Never here: whether answers are right (the other campaign looks at that as well).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Plan;
use super::redis_faults::{Backing, Fault};
use super::watch::{Acks, Watch};
use crate::harness::process::Process;

/// What is done, and whether the service under it uses Redis.
const CASES: [(&str, Fault, bool); 4] = [
    ("KilledBackEmpty", Fault::KilledBackEmpty, true),
    ("HalfOpen", Fault::HalfOpen, true),
    ("control_another_redis_killed", Fault::BystanderKilled, true),
    ("control_no_redis_used", Fault::BystanderKilled, false),
];

pub(crate) async fn campaign(plan: &Plan) -> Value {
    let mut cases = json!({});
    for (name, fault, uses_redis) in CASES {
        let figures = case(fault, uses_redis, plan).await;
        eprintln!("    {name}: {figures}");
        cases[name] = figures;
    }
    cases
}

async fn case(fault: Fault, uses_redis: bool, plan: &Plan) -> Value {
    let mut backing = Backing::for_fault(fault, plan.fault_lasts).await;
    let dir = tempfile::tempdir().expect("a directory");
    let store = if uses_redis { backing.url() } else { "embedded".to_owned() };
    let service = Process::serve(dir.path(), &store).await;
    let watch = Watch::on(&service, plan.seed).await;
    let (mut without, mut with) = (Acks::default(), Acks::default());
    for _ in 0..plan.ack_turns {
        watch.whole().await;
        watch.acks();
        watch.for_a(plan.ack_stretch).await;
        without.add(watch.acks());
        let until = Instant::now() + plan.ack_stretch;
        backing.strike(fault, &watch).await;
        watch.for_a(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(500))).await;
        with.add(watch.acks());
    }
    let (count, _) = watch.end().await;
    assert_eq!(count.refused, 0);
    assert!(service.terminate().await.success());
    let of = |acks: &Acks| {
        json!({
            "samples": acks.samples(), "p50_ms": acks.percentile_ms(0.5), "p99_ms": acks.percentile_ms(0.99),
            "p999_ms": acks.percentile_ms(0.999),
        })
    };
    json!({ "turns": plan.ack_turns, "without": of(&without), "with": of(&with) })
}
