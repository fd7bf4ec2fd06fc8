//! The stores by name: made from the configuration, each with what feeds it and what answers from it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::applier::{Applier, Progress, Wholeness};
use crate::clock::Clock;
use crate::config::{IndexConfig, MAX_STORES, SecretUrl, StoreChoice};
use crate::health::Fed;
use crate::journal::Journal;
use crate::query::{IndexState, Label, Sight, Source};
use crate::store::audited::Audited;
use crate::store::embedded::EmbeddedStore;
use crate::store::measured::Measured;
use crate::store::redis::RedisStore;
use crate::store::{Store, embedded, redis};
use crate::telemetry::Metrics;

/// A Redis call ends by then, one way or the other.
const REDIS_DEADLINE: Duration = Duration::from_secs(2);

/// What several Redis are called, in their order.
const REDIS_NAMES: [&str; MAX_STORES] = ["redis", "redis-2", "redis-3", "redis-4"];

/// A store that follows the journal.
pub(super) struct Follower {
    pub(super) name: &'static str,
    pub(super) store: Arc<dyn Store>,
    pub(super) fed: Fed,
}

/// Each store with its name, in the order of the configuration.
pub(super) fn named(stores: &[StoreChoice]) -> Vec<(&'static str, &StoreChoice)> {
    let mut redis = REDIS_NAMES.iter();
    let name = |choice: &StoreChoice| match choice {
        StoreChoice::Embedded => "embedded",
        StoreChoice::Redis(_) => redis.next().expect("the configuration has no more stores than names"),
    };
    stores.iter().map(name).zip(stores).collect()
}

/// A store that nothing feeds yet. `instance` is the journal's id, or a command's own.
pub(super) async fn open(
    choice: &StoreChoice,
    config: &IndexConfig,
    instance: String,
) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match choice {
        StoreChoice::Embedded => Arc::new(EmbeddedStore::new(embedded::Options {
            dir: config.data_dir.clone(),
            journal: instance,
            memtable_bytes: embedded::Options::DEFAULT_MEMTABLE_BYTES,
        })),
        StoreChoice::Redis(url) => Arc::new(open_redis(url, config, instance).await?),
    })
}

async fn open_redis(url: &SecretUrl, config: &IndexConfig, instance: String) -> anyhow::Result<RedisStore> {
    let options = redis::Options {
        url: url.expose().to_owned(),
        ca: config.redis_ca.clone(),
        prefix: config.redis_prefix.clone(),
        instance,
        shard_resolution: config.shard_resolution,
        retention: config.retention,
        deadline: REDIS_DEADLINE,
    };
    Ok(RedisStore::connect(options).await?)
}

impl Follower {
    /// Opens a store, measured and audited; [`Follower::feed`] begins to feed it.
    pub(super) async fn open(
        (name, choice): (&'static str, &StoreChoice),
        config: &IndexConfig,
        journal: &Journal,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let instance = journal.id().to_string();
        let inner = match choice {
            StoreChoice::Embedded => open(choice, config, instance).await?,
            StoreChoice::Redis(url) => {
                let store = Arc::new(open_redis(url, config, instance).await?);
                count_slow_commands(metrics, &store);
                store
            }
        };
        let observing = metrics.clone();
        let measured = Measured::new(name, inner, move |operation, took| {
            observing.store_operation(name, operation).observe(took.as_secs_f64());
        });
        let progress = Arc::new(Progress::new(journal.committed()));
        let told = progress.clone();
        let store: Arc<dyn Store> = Arc::new(Audited::new(Arc::new(measured), move |offset| told.lost(offset)));
        let source = Arc::new(Source::new(store.clone(), label(&progress, &store)));
        at_scrape(metrics, name, &progress);
        Ok(Self { name, store, fed: Fed { source, progress } })
    }

    /// Feeds it by way of `gate`, until `stop`.
    pub(super) fn feed(
        &self,
        gate: Arc<dyn Store>,
        journal: &Journal,
        clock: &Clock,
        retention: Duration,
        stop: CancellationToken,
    ) -> JoinHandle<()> {
        let progress = self.fed.progress.clone();
        let applier = Applier::new(journal.clone(), gate, progress, clock.clone(), retention);
        tokio::spawn(applier.supervised(stop))
    }
}

/// What the applier's progress, and what of the store can be asked, make of an answer.
fn label(progress: &Arc<Progress>, store: &Arc<dyn Store>) -> Label {
    let (progress, store) = (progress.clone(), store.clone());
    Label::from_fn(move || {
        let is_partial = store.is_partial();
        let state = match progress.wholeness() {
            _ if is_partial => IndexState::Partial { as_of: None },
            Wholeness::Whole => IndexState::Complete,
            Wholeness::Behind(as_of) => IndexState::Rebuilding { as_of },
            Wholeness::Lacking(as_of) => IndexState::Partial { as_of },
        };
        Sight { state, losses: progress.losses() }
    })
}

/// What Redis' own slow log had, of commands that we sent and of all others.
fn count_slow_commands(metrics: &Metrics, store: &Arc<RedisStore>) {
    let (store, counted) = (store.clone(), Mutex::new((0, 0)));
    let (own, others) = (metrics.redis_slowlog_entries("geotrail"), metrics.redis_slowlog_entries("other"));
    metrics.at_scrape(move || {
        let mut counted = counted.lock();
        let now = store.slow_log_entries();
        own.inc_by(now.0 - counted.0);
        others.inc_by(now.1 - counted.1);
        *counted = now;
    });
}

/// Metrics that are read off where they are known, when they are asked for.
fn at_scrape(metrics: &Metrics, name: &'static str, progress: &Arc<Progress>) {
    let progress = progress.clone();
    let (applied, restarts) = (metrics.points_applied(name), metrics.applier_restarts(name));
    let (backlog, rebuild) = (metrics.journal_backlog(name), metrics.rebuild_points(name));
    let dead_letters = metrics.deadletter_points(name);
    let points = |points: u64| i64::try_from(points).unwrap_or(i64::MAX);
    metrics.at_scrape(move || {
        applied.inc_by(progress.points_applied().saturating_sub(applied.get()));
        restarts.inc_by(progress.restarts().saturating_sub(restarts.get()));
        backlog.set(points(progress.backlog_points()));
        let pass = progress.pass().unwrap_or_default();
        rebuild.set(points(pass.points_total.saturating_sub(pass.points_done)));
        dead_letters.set(points(progress.set_aside().points));
    });
}
