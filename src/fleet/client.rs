//! Sends batches to `POST /v1/points` and repeats each until the service has judged it.
//!
//! Repeated: what the network broke, 408, 429 and every 5xx, after the time the service asks for or a growing,
//! jittered one. Given up: any other answer at once, the rest when the client's patience ends.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rand::RngExt as _;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url, header};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::tally::SharedTally;

/// The most points in one request.
pub const MAX_BATCH: usize = 1_000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A service that asks for more patience than this is asked again sooner.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Points on their way: NDJSON.
#[derive(Clone, Debug)]
pub struct Batch {
    /// A point a line.
    pub body: Bytes,
    /// How many.
    pub points: u64,
}

/// A client of one service. Clones share connections and counts.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    tally: SharedTally,
    patience: Duration,
    /// Whether the last try of any batch met with a setback: one line in the log for an outage, not thousands.
    troubled: Arc<AtomicBool>,
}

/// Why one try did not settle a batch.
enum Setback {
    /// Worth another try, perhaps not before a time the service named.
    Passing { why: String, after: Option<Duration> },
    /// The service will never take it.
    Final(String),
}

#[derive(Deserialize)]
struct Judgement {
    #[serde(default)]
    accepted: u64,
    #[serde(default)]
    errors: Vec<Rejection>,
    rejected: Option<u64>,
}

#[derive(Deserialize)]
struct Rejection {
    code: String,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
}

/// Why the certificate that was shown is not believed, if that is what went wrong.
fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return Some(error.to_string());
    }
    // What is within an error of this kind is not its source, but that one's source is.
    let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    within.and_then(|within| distrust(within)).or_else(|| distrust(error.source()?))
}

/// What it takes to be let in by a service, and to know it.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The header that has the API key.
    key: Option<HeaderValue>,
    /// A file of certificates to trust; `None`: those of the system.
    ca: Option<PathBuf>,
}

impl Pass {
    /// With an API key, and trust in a file of certificates. An error if the key is no text for a header. It never shows.
    pub fn new(key: Option<&str>, ca: Option<PathBuf>) -> anyhow::Result<Self> {
        let header = |key: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        };
        Ok(Self { key: key.map(header).transpose()?, ca })
    }
}

impl Client {
    /// For the service at `to`, adding to `tally`. A batch is repeated for as long as `patience`.
    pub fn new(to: &str, pass: &Pass, tally: SharedTally, patience: Duration) -> anyhow::Result<Self> {
        let headers: HeaderMap = pass.key.iter().map(|key| (header::AUTHORIZATION, key.clone())).collect();
        let url = Url::parse(&format!("{}/v1/points", to.trim_end_matches('/')))?;
        let mut http = reqwest::Client::builder();
        if let Some(ca) = &pass.ca {
            let pem = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
            let trusted = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|trusted| !trusted.is_empty());
            http = http.tls_certs_only(trusted.with_context(|| format!("{}: no certificates", ca.display()))?);
        }
        let http = http
            .no_proxy()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { http, url, tally, patience, troubled: Arc::default() })
    }

    /// Sends a batch until it is judged or given up; either way it is counted.
    pub async fn send(&self, batch: Batch) {
        self.tally.add(|tally| tally.sent += batch.points);
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (why, after) = match self.attempt(&batch).await {
                Ok(()) => {
                    if self.troubled.swap(false, Ordering::Relaxed) {
                        tracing::info!("the service takes points again");
                    }
                    return;
                }
                Err(Setback::Final(why)) => return self.fail(why),
                Err(Setback::Passing { why, after }) => (why, after),
            };
            let jitter = rand::rng().random_range(0.5..1.0);
            let wait = after.map_or(pause.mul_f64(jitter), |after| after.min(MAX_RETRY_AFTER).max(FIRST_PAUSE));
            if begun.elapsed() + wait > self.patience {
                return self.fail(why);
            }
            if !self.troubled.swap(true, Ordering::Relaxed) {
                tracing::warn!("the service takes no points ({why}): trying again");
            }
            self.tally.add(|tally| tally.retries += 1);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn fail(&self, why: String) {
        self.tally.add(|tally| *tally.failed.entry(why).or_default() += 1);
    }

    async fn attempt(&self, batch: &Batch) -> Result<(), Setback> {
        let request = self.http.post(self.url.clone()).header(header::CONTENT_TYPE, "application/x-ndjson");
        let unreachable = |error: reqwest::Error| match distrust(&error) {
            Some(why) => Setback::Final(format!("its certificate is not trusted: {why}")),
            None => Setback::Passing { why: "unreachable".to_owned(), after: None },
        };
        let response = request.body(batch.body.clone()).send().await.map_err(unreachable)?;
        let status = response.status();
        let after = retry_after(&response);
        let answer = response.bytes().await.map_err(unreachable)?;
        // 422 with `errors` judges every point; without, it refuses the request.
        let judgement = serde_json::from_slice::<Judgement>(&answer).ok();
        match (status, judgement) {
            (StatusCode::OK | StatusCode::ACCEPTED, Some(judgement)) => self.count(batch, judgement),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(judgement)) if !judgement.errors.is_empty() => {
                self.count(batch, judgement);
            }
            (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => {
                return Err(Setback::Passing { why: describe(status, &answer), after });
            }
            _ if status.is_server_error() => {
                return Err(Setback::Passing { why: describe(status, &answer), after });
            }
            _ => return Err(Setback::Final(describe(status, &answer))),
        }
        Ok(())
    }

    fn count(&self, batch: &Batch, judgement: Judgement) {
        let mut rejected = BTreeMap::<String, u64>::new();
        for rejection in judgement.errors {
            *rejected.entry(rejection.code).or_default() += 1;
        }
        let listed: u64 = rejected.values().sum();
        let unlisted = judgement.rejected.unwrap_or(batch.points - judgement.accepted.min(batch.points));
        if unlisted > listed {
            rejected.insert("unlisted".to_owned(), unlisted - listed);
        }
        self.tally.add(|tally| {
            tally.accepted += judgement.accepted;
            for (code, count) in rejected {
                *tally.rejected.entry(code).or_default() += count;
            }
        });
    }
}

/// Several batches under way at once, and no more than that.
#[derive(Debug)]
pub struct Pipeline {
    client: Client,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Pipeline {
    /// At most `in_flight` batches under way.
    pub fn new(client: Client, in_flight: usize) -> Self {
        Self { client, permits: Arc::new(Semaphore::new(in_flight)), tasks: TaskTracker::new() }
    }

    /// Waits until there is room, then sends in the background. An empty batch is nothing to send.
    pub async fn send(&self, batch: Batch) {
        if batch.points == 0 {
            return;
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("nobody closes the semaphore");
        let client = self.client.clone();
        self.tasks.spawn(async move {
            client.send(batch).await;
            drop(permit);
        });
    }

    /// Waits for what is under way, at most `grace`; what is then left counts as failed.
    pub async fn finish(self, grace: Duration) {
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len() as u64;
            self.client.tally.add(|tally| *tally.failed.entry("unfinished".to_owned()).or_default() += left);
        }
    }
}

/// The status, and the problem's code if there is one.
fn describe(status: StatusCode, answer: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(answer) {
        Ok(problem) => format!("{} {}", status.as_u16(), problem.code),
        Err(_) => status.as_u16().to_string(),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
