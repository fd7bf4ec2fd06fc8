//! The service in this process, on a real socket and real files, with a clock that tests set.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use geotrail::app::App;
use geotrail::clock::Clock;
use geotrail::config::{IndexConfig, SecretUrl, ServeConfig, StoreChoice};
use geotrail::model::{Resolution, Timestamp};

use super::http::Http;

/// How long the service keeps points in these tests.
pub(crate) const RETENTION: Duration = Duration::from_hours(48);

/// A running service. It derefs to a client of it.
pub(crate) struct Service {
    app: App,
    http: Http,
    store: String,
    shards: Option<Resolution>,
    now_ms: Arc<AtomicI64>,
    dir: tempfile::TempDir,
}

impl Service {
    /// On an empty data directory; `store` as `--store` takes it.
    pub(crate) async fn start(store: &str, now_ms: i64) -> Self {
        Self::start_sharded(store, None, now_ms).await
    }

    /// The same, with hours in Redis divided into cells of this size.
    pub(crate) async fn start_sharded(store: &str, shards: Option<Resolution>, now_ms: i64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let now_ms = Arc::new(AtomicI64::new(now_ms));
        let app = start(dir.path().join("data"), store, shards, &now_ms).await;
        let http = Http::new(format!("http://{}", app.address()));
        Self { app, http, store: store.to_owned(), shards, now_ms, dir }
    }

    /// Stops it in good order and starts it again on the same directory.
    pub(crate) async fn restart(self) -> Self {
        let Self { app, store, shards, now_ms, dir, .. } = self;
        app.stop().await.expect("it stops");
        let app = start(dir.path().join("data"), &store, shards, &now_ms).await;
        let http = Http::new(format!("http://{}", app.address()));
        Self { app, http, store, shards, now_ms, dir }
    }

    pub(crate) async fn stop(self) {
        self.app.stop().await.expect("it stops");
    }

    pub(crate) fn set_now(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Deref for Service {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

async fn start(data_dir: PathBuf, store: &str, shards: Option<Resolution>, now_ms: &Arc<AtomicI64>) -> App {
    let choice = |store| match store {
        "embedded" => StoreChoice::Embedded,
        url => StoreChoice::Redis(SecretUrl::new(url)),
    };
    let config = ServeConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        keys: None,
        tls: None,
        index: IndexConfig {
            data_dir,
            stores: store.split_whitespace().map(choice).collect(),
            retention: RETENTION,
            redis_prefix: "geotrail".into(),
            redis_ca: None,
            shard_resolution: shards,
        },
        warnings: Vec::new(),
    };
    let now_ms = now_ms.clone();
    let clock = Clock::from_fn(move || Timestamp::from_ms(now_ms.load(Ordering::SeqCst)));
    App::start(config, clock).await.expect("it starts")
}
