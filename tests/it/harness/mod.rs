//! What tests run against: the service in this process or as a child, and Redis servers of their own.

pub(crate) mod app;
pub(crate) mod authority;
pub(crate) mod cluster;
pub(crate) mod faulty_disk;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod skewed_clock;
pub(crate) mod switch;
pub(crate) mod traffic;

use std::time::{Duration, Instant};

use redis::RedisServer;

/// How long anything may take that tests wait for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Which store a test runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Embedded,
    Redis,
}

/// A store, and the server it lives on if it needs one.
pub(crate) struct Backing {
    /// As `--store` takes it.
    pub(crate) url: String,
    pub(crate) server: Option<RedisServer>,
}

impl Backing {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Embedded => Self { url: "embedded".into(), server: None },
            Kind::Redis => {
                let server = RedisServer::start();
                Self { url: server.url(), server: Some(server) }
            }
        }
    }
}

/// Asks again and again until the answer is `Some`; `what` is waited for at most [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a test once for each store, under its own name.
macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::harness::Kind::Embedded).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::harness::Kind::Redis).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;
