//! Reports a made-up fleet to a running service, as evenly as a real one would.
//!
//! Each interval is cut into slots; each slot is a batch of drivers. When the service is slower than the fleet, the
//! fleet waits: what is in flight is bounded, and nobody's reports pile up.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::city::City;
use super::client::{Batch, Client, MAX_BATCH, Pass, Pipeline};
use super::progress::Progress;
use super::tally::{SharedTally, Summary};
use crate::clock::Clock;

/// Requests under way at once.
const IN_FLIGHT: usize = 16;
/// No more slots than one in this time.
const MIN_SLOT: Duration = Duration::from_millis(100);
/// How long a batch is repeated.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long the end waits for what is still under way.
const GRACE: Duration = Duration::from_secs(10);

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service.
    pub to: String,
    /// What it takes to be let in there.
    pub pass: Pass,
    /// How many drivers.
    pub drivers: u32,
    /// How often each reports.
    pub interval: Duration,
    /// How long; `None`: until Ctrl-C.
    pub duration: Option<Duration>,
    /// The same seed drives the same ways.
    pub seed: u64,
}

/// Drives and reports until the time is up or Ctrl-C.
pub async fn run(options: &Options) -> anyhow::Result<Summary> {
    let tally = SharedTally::default();
    let client = Client::new(&options.to, &options.pass, tally.clone(), PATIENCE)?;
    let pipeline = Pipeline::new(client, IN_FLIGHT);
    let begun = Instant::now();
    let interrupted = tokio::select! {
        () = report(options, &pipeline, &tally) => false,
        stop = tokio::signal::ctrl_c() => stop.map(|()| true)?,
    };
    pipeline.finish(GRACE).await;
    Ok(Summary { tally: tally.get(), took: begun.elapsed(), interrupted })
}

async fn report(options: &Options, pipeline: &Pipeline, tally: &SharedTally) {
    let mut city = City::new(options.drivers, options.seed);
    let clock = Clock::system();
    let mut progress = Progress::new(options.duration.map(|duration| duration.as_millis() as u64));
    let drivers = options.drivers as usize;
    let slots = slots(drivers, options.interval);
    let begun = Instant::now();
    let end = options.duration.map(|duration| begun + duration);
    let mut round_begun = begun;
    // Before the first round nobody has driven yet, and everybody is on duty.
    let mut seconds = 0.0;
    loop {
        for slot in 0..slots {
            let due = round_begun + options.interval.mul_f64(slot as f64 / slots as f64);
            if end.is_some_and(|end| due.max(Instant::now()) >= end) {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
            let who = slot * drivers / slots..(slot + 1) * drivers / slots;
            pipeline.send(batch(&mut city, who, seconds, clock.now().as_ms())).await;
            progress.show(begun.elapsed().as_millis() as u64, &tally.get());
        }
        seconds = options.interval.as_secs_f32();
        // A fleet that was held up goes on from now; it does not catch up.
        round_begun = (round_begun + options.interval).max(Instant::now());
    }
}

/// Into how many batches an interval is cut: no batch over the limit, no more of them than are of use.
fn slots(drivers: usize, interval: Duration) -> usize {
    let at_most = (interval.as_millis() / MIN_SLOT.as_millis()).max(1) as usize;
    drivers.div_ceil(MAX_BATCH).max(drivers.min(at_most))
}

fn batch(city: &mut City, who: std::ops::Range<usize>, seconds: f32, ts: i64) -> Batch {
    let mut body = String::new();
    let mut points = 0;
    for driver in who {
        let Some(report) = city.drive(driver, seconds) else { continue };
        let [vehicle, availability] = report.tags;
        let heading = report.heading_deg.map(|deg| format!(r#""heading_deg":{deg:.1},"#)).unwrap_or_default();
        let _infallible = writeln!(
            body,
            r#"{{"driver_id":"sim-{driver:06}","ts":{ts},"lat":{:.6},"lon":{:.6},"speed_mps":{:.1},{heading}"accuracy_m":{:.1},"tags":["{vehicle}","{availability}"]}}"#,
            report.lat, report.lon, report.speed_mps, report.accuracy_m,
        );
        points += 1;
    }
    Batch { body: body.into(), points }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_spread_the_fleet_without_breaking_the_limit() {
        let five = Duration::from_secs(5);
        assert_eq!(slots(1, five), 1);
        assert_eq!(slots(20, five), 20);
        assert_eq!(slots(500, five), 50);
        assert_eq!(slots(1_000_000, five), 1_000);
        assert_eq!(slots(1_000_000, Duration::from_millis(100)), 1_000);
    }
}
