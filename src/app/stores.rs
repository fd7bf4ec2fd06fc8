//! One store: made from what the configuration says, measured and audited, with what feeds it and what answers from it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::applier::{Applier, Progress, Wholeness};
use crate::clock::Clock;
use crate::config::{IndexConfig, SecretUrl, StoreChoice};
use crate::health::Fed;
use crate::journal::{Journal, replace};
use crate::peers::{Others, Peers};
use crate::query::{IndexState, Label, Sight, Source};
use crate::store::audited::Audited;
use crate::store::embedded::EmbeddedStore;
use crate::store::measured::Measured;
use crate::store::redis::{Fleet, RedisStore};
use crate::store::{Store, StoreError, embedded, redis};
use crate::telemetry::Metrics;

/// A Redis call ends by then, one way or the other.
const REDIS_DEADLINE: Duration = Duration::from_secs(2);

/// A store that follows the journal.
pub(super) struct Follower {
    pub(super) name: &'static str,
    pub(super) store: Arc<dyn Store>,
    pub(super) fed: Fed,
    /// It was never fed from this directory, or nothing is noted of that.
    pub(super) is_strange: bool,
    redis: Option<Arc<RedisStore>>,
}

/// Where the files of the embedded store are.
pub(super) fn embedded_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("embedded")
}

/// What a file in the data directory says; nothing if it is not there, or was damaged into no text.
fn noted(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
            Ok(String::new())
        }
        read => read.with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// The fleet that is noted in a data directory, or will be when a Redis is met. One for all stores of the process.
pub(super) fn fleet(data_dir: &Path) -> anyhow::Result<Arc<Fleet>> {
    let path = data_dir.join("fleet");
    let noted = Some(noted(&path)?.trim().to_owned()).filter(|id| !id.is_empty());
    Ok(Arc::new(Fleet::new(noted, move |id| replace(&path, &format!("{id}\n")))))
}

/// A store that nothing feeds yet. `instance` is the journal's id, or a command's own.
pub(super) async fn open(
    choice: &StoreChoice,
    config: &IndexConfig,
    instance: String,
    fleet: &Arc<Fleet>,
) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match choice {
        StoreChoice::Embedded => Arc::new(EmbeddedStore::new(embedded::Options {
            dir: config.data_dir.clone(),
            journal: instance,
            memtable_bytes: embedded::Options::DEFAULT_MEMTABLE_BYTES,
        })),
        StoreChoice::Redis(url) => Arc::new(open_redis(url, config, instance, fleet).await?),
    })
}

async fn open_redis(
    url: &SecretUrl,
    config: &IndexConfig,
    instance: String,
    fleet: &Arc<Fleet>,
) -> anyhow::Result<RedisStore> {
    let options = redis::Options {
        url: url.expose().to_owned(),
        ca: config.redis_ca.clone(),
        prefix: config.redis_prefix.clone(),
        instance,
        shard_resolution: config.shard_resolution,
        retention: config.retention,
        deadline: REDIS_DEADLINE,
    };
    Ok(RedisStore::connect(options).await?.of_fleet(fleet.clone()))
}

impl Follower {
    /// Opens a store, measured and audited; [`Follower::feed`] begins to feed it.
    pub(super) async fn open(
        (name, choice): (&'static str, &StoreChoice),
        config: &IndexConfig,
        journal: &Journal,
        metrics: &Metrics,
        fleet: &Arc<Fleet>,
    ) -> anyhow::Result<Self> {
        let instance = journal.id().to_string();
        let redis = match choice {
            StoreChoice::Embedded => None,
            StoreChoice::Redis(url) => {
                let store = open_redis(url, config, instance.clone(), fleet).await?;
                Some(Arc::new(store.timed_in(metrics.redis_transactions())))
            }
        };
        let inner: Arc<dyn Store> = match &redis {
            Some(redis) => redis.clone(),
            None => open(choice, config, instance, fleet).await?,
        };
        let observing = metrics.clone();
        let measured = Measured::new(name, inner, move |operation, took| {
            observing.store_operation(name, operation).observe(took.as_secs_f64());
        });
        let progress = Arc::new(Progress::new(journal.committed()));
        let told = progress.clone();
        let store: Arc<dyn Store> = Arc::new(Audited::new(Arc::new(measured), move |offset| told.lost(offset)));
        let peers = Arc::new(peers((name, &store), &progress, config, journal)?);
        if redis.is_none() {
            peers.alone();
        }
        let source = Arc::new(Source::new(store.clone(), label(&progress, &store, &peers)));
        let is_strange = journal.checkpoint(name).read()?.is_none();
        Ok(Self { name, store, fed: Fed::new(source, progress, peers), is_strange, redis })
    }

    /// Its figures are told at every scrape, as long as it is there.
    pub(super) fn tell(&self, metrics: &Metrics) {
        at_scrape(metrics, self.name, Arc::downgrade(self.fed.progress()));
        if let Some(redis) = &self.redis {
            count_slow_commands(metrics, Arc::downgrade(redis));
        }
    }

    /// Whether it holds another fleet's data.
    pub(super) async fn is_foreign(&self) -> bool {
        match &self.redis {
            Some(redis) => redis.is_foreign().await,
            None => false,
        }
    }

    /// Makes it our fleet's.
    pub(super) async fn adopt(&self) -> Result<(), StoreError> {
        match &self.redis {
            Some(redis) => redis.adopt().await,
            None => Ok(()),
        }
    }

    /// Which databases of which servers it is in, as far as those tell.
    pub(super) async fn servers(&self) -> Vec<String> {
        match &self.redis {
            Some(redis) => redis.servers().await,
            None => Vec::new(),
        }
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
        let progress = self.fed.progress().clone();
        let applier = Applier::new(journal.clone(), gate, progress, clock.clone(), retention);
        tokio::spawn(applier.supervised(stop))
    }
}

/// Where it is noted which instances are on the store of this name.
pub(super) fn instances_file(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(format!("instances-{name}"))
}

/// The other instances on a store, as they were noted.
fn peers(
    (name, store): (&str, &Arc<dyn Store>),
    progress: &Arc<Progress>,
    config: &IndexConfig,
    journal: &Journal,
) -> anyhow::Result<Peers> {
    let path = instances_file(&config.data_dir, name);
    let noted = noted(&path)?;
    let (own, note) = (journal.id().to_string(), move |text: &str| replace(&path, text));
    Ok(Peers::new(own, store.clone(), progress.clone(), config.retention, &noted, note))
}

/// What the applier's progress, what of the store can be asked, and the other instances make of an answer.
fn label(progress: &Arc<Progress>, store: &Arc<dyn Store>, peers: &Arc<Peers>) -> Label {
    let (progress, store, peers) = (progress.clone(), store.clone(), peers.clone());
    Label::from_fn(move || {
        let (is_partial, losses) = (store.is_partial(), progress.losses());
        let state = match progress.wholeness() {
            _ if is_partial => IndexState::Partial { as_of: None },
            Wholeness::Whole => match peers.others(losses) {
                Others::Whole => IndexState::Complete,
                Others::Behind(as_of) => IndexState::Rebuilding { as_of },
                Others::Missing(as_of) => IndexState::Partial { as_of },
            },
            Wholeness::Behind(as_of) => IndexState::Rebuilding { as_of },
            Wholeness::Lacking(as_of) => IndexState::Partial { as_of },
        };
        Sight { state, losses }
    })
}

/// What Redis' own slow log had, of commands that we sent and of all others.
fn count_slow_commands(metrics: &Metrics, store: Weak<RedisStore>) {
    let counted = Mutex::new((0, 0));
    let (own, others) = (metrics.redis_slowlog_entries("geotrail"), metrics.redis_slowlog_entries("other"));
    metrics.at_scrape(move || {
        let Some(store) = store.upgrade() else { return };
        let mut counted = counted.lock();
        let now = store.slow_log_entries();
        own.inc_by(now.0 - counted.0);
        others.inc_by(now.1 - counted.1);
        *counted = now;
    });
}

/// Metrics that are read off where they are known, when they are asked for.
fn at_scrape(metrics: &Metrics, name: &'static str, progress: Weak<Progress>) {
    let counted = Mutex::new((0, 0));
    let (applied, restarts) = (metrics.points_applied(name), metrics.applier_restarts(name));
    let (backlog, rebuild) = (metrics.journal_backlog(name), metrics.rebuild_points(name));
    let dead_letters = metrics.deadletter_points(name);
    let points = |points: u64| i64::try_from(points).unwrap_or(i64::MAX);
    metrics.at_scrape(move || {
        let Some(progress) = progress.upgrade() else { return };
        let mut counted = counted.lock();
        let now = (progress.points_applied(), progress.restarts());
        applied.inc_by(now.0 - counted.0);
        restarts.inc_by(now.1 - counted.1);
        *counted = now;
        backlog.set(points(progress.backlog_points()));
        let pass = progress.pass().unwrap_or_default();
        rebuild.set(points(pass.points_total.saturating_sub(pass.points_done)));
        dead_letters.set(points(progress.set_aside().points));
    });
}
