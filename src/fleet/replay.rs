//! Sends a recorded trace to a running service, at the pace it was recorded, faster, or as fast as it is acknowledged.
//!
//! The file is read as it is sent, never held. It stops at the first request that fails for good: a trace with a hole
//! in it is not replayed.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::client::{Batch, Client, MAX_BATCH, Pass, Pipeline};
use super::progress::Progress;
use super::tally::{SharedTally, Summary};
use super::trace::{Row, Trace, TraceError};
use crate::clock::Clock;
use crate::model::Timestamp;

/// Requests under way at once.
const IN_FLIGHT: usize = 4;
/// How long a batch is repeated: longer than a service takes to be started again.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long an interrupted replay waits for what is under way.
const GRACE: Duration = Duration::from_secs(10);
/// A request holds at most this many bytes, well below the service's limit.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Rows that are due within this time go together.
const TICK: Duration = Duration::from_millis(100);
/// A longer silence in the trace is cut to this.
const MAX_SILENCE: Duration = Duration::from_mins(1);

/// What to replay.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trace.
    pub file: PathBuf,
    /// The service.
    pub to: String,
    /// What it takes to be let in there.
    pub pass: Pass,
    /// How many times faster than recorded; `None`: as fast as it is acknowledged.
    pub speed: Option<f64>,
    /// Whether to shift it so that its newest point is now.
    pub now: bool,
}

/// Replays; the counts come also where the trace turns out to be unreadable in its middle.
pub async fn run(options: &Options) -> anyhow::Result<(Summary, Result<(), TraceError>)> {
    let tally = SharedTally::default();
    let client = Client::new(&options.to, &options.pass, tally.clone(), PATIENCE)?;
    let pipeline = Pipeline::new(client, IN_FLIGHT);
    let shift_ms = if options.now { Some(shift_ms(options.file.clone()).await?) } else { None };
    let trace = Trace::open(&options.file)?;
    let begun = Instant::now();
    let (outcome, interrupted) = tokio::select! {
        outcome = send(options, trace, shift_ms, &pipeline, &tally) => (outcome, false),
        stop = tokio::signal::ctrl_c() => (stop.map(Ok)?, true),
    };
    // Every batch has its own end, unless somebody waits at the keyboard.
    pipeline.finish(if interrupted { GRACE } else { Duration::MAX }).await;
    Ok((Summary { tally: tally.get(), took: begun.elapsed(), interrupted }, outcome))
}

/// From the newest point to now. A trace without any readable `ts` stays as it is.
async fn shift_ms(file: PathBuf) -> anyhow::Result<i64> {
    let newest = tokio::task::spawn_blocking(move || Trace::open(&file)?.newest()).await??;
    Ok(newest.map_or(0, |newest| Clock::system().now().ms_since(newest)))
}

async fn send(
    options: &Options,
    trace: Trace,
    shift_ms: Option<i64>,
    pipeline: &Pipeline,
    tally: &SharedTally,
) -> Result<(), TraceError> {
    let length = std::fs::metadata(&options.file).map(|file| file.len()).ok();
    let mut progress = Progress::new(length);
    let bytes_read = trace.bytes_read();
    let mut rows = read_ahead(trace);
    let mut pace = options.speed.map(Pace::new);
    let mut batch = Collected::default();
    while let Some(row) = rows.recv().await {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                pipeline.send(batch.take()).await;
                return Err(error);
            }
        };
        if let (Some(pace), Some(ts)) = (&mut pace, row.ts()) {
            let due = pace.due(ts);
            if due > Instant::now() {
                pipeline.send(batch.take()).await;
                tokio::time::sleep_until(due.into()).await;
            }
        }
        let row = if let Some(ms) = shift_ms { row.later(ms) } else { row };
        if batch.is_full_with(&row) {
            pipeline.send(batch.take()).await;
        }
        batch.push(&row);
        if batch.points == 1 {
            let so_far = tally.get();
            if so_far.failed_requests() > 0 {
                return Ok(());
            }
            progress.show(bytes_read.load(Ordering::Relaxed), &so_far);
        }
    }
    pipeline.send(batch.take()).await;
    Ok(())
}

/// Reads on a thread of its own, a batch or two ahead.
fn read_ahead(trace: Trace) -> mpsc::Receiver<Result<Row, TraceError>> {
    let (sender, receiver) = mpsc::channel(2 * MAX_BATCH);
    tokio::task::spawn_blocking(move || {
        for row in trace {
            let failed = row.is_err();
            if sender.blocking_send(row).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// The rows of the next request.
#[derive(Default)]
struct Collected {
    body: String,
    points: u64,
}

impl Collected {
    fn is_full_with(&self, row: &Row) -> bool {
        self.points == MAX_BATCH as u64 || self.body.len() + row.json().len() >= MAX_BODY_BYTES
    }

    fn push(&mut self, row: &Row) {
        self.body.push_str(row.json());
        self.body.push('\n');
        self.points += 1;
    }

    fn take(&mut self) -> Batch {
        let Self { body, points } = std::mem::take(self);
        Batch { body: body.into(), points }
    }
}

/// When a row is due: as far behind the first as it was recorded, divided by the factor.
struct Pace {
    factor: f64,
    anchor: Option<(Timestamp, Instant)>,
}

impl Pace {
    const fn new(factor: f64) -> Self {
        Self { factor, anchor: None }
    }

    fn due(&mut self, ts: Timestamp) -> Instant {
        let now = Instant::now();
        let (first, begun) = *self.anchor.get_or_insert((ts, now));
        let behind_s = (ts.ms_since(first).max(0) as f64 / 1_000.0 / self.factor).min(1e9);
        let ticks = (behind_s / TICK.as_secs_f64()).floor();
        let due = begun + TICK.mul_f64(ticks);
        if due.saturating_duration_since(now) > MAX_SILENCE {
            self.anchor = Some((ts, now + MAX_SILENCE));
            return now + MAX_SILENCE;
        }
        due
    }
}
