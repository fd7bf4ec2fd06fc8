//! How many drivers a transaction has. It holds Redis up as a whole, and for how long depends on the machine, on how large
//! the hour is, and on how many of them are new to it: so Redis tells of each what it took (`link`), and the next ones of the
//! same shard have as many drivers as it can take in [`BUDGET_US`].
//!
//! Never here: what a transaction does.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Histogram;

use super::shard::Shard;
use crate::model::Timestamp;

/// What a transaction should take, in µs. One in a hundred takes up to three times as much (`docs/performance.md`), and the
/// promise is a millisecond.
const BUDGET_US: f64 = 300.0;
/// Never fewer drivers, however slow Redis is: what any transaction takes would be most of it.
pub(super) const FEWEST: usize = 10;
/// By how much a measurement moves what is believed, up or down.
const STEP: f64 = 1.05;

/// What transactions took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What a driver takes, in µs, in each shard of which it was measured.
    costs: Mutex<BTreeMap<Shard, f64>>,
    /// Of each transaction, in seconds.
    durations: Option<Histogram>,
}

impl Pace {
    /// Each is told to `durations`, too.
    pub(super) fn tell(&mut self, durations: Histogram) {
        self.durations = Some(durations);
    }

    /// Cuts what is for one shard into transactions of about as many each, and of `most` at most; half of it, where
    /// nothing is known: an hour begins with drivers who are new to it, and they take up to three times as much.
    pub(super) fn cut<'a, T>(&self, shard: Shard, drivers: &'a [T], most: usize) -> impl Iterator<Item = &'a [T]> {
        let limit = self.limit(shard, most);
        let transactions = drivers.len().div_ceil(limit).max(1);
        drivers.chunks(drivers.len().div_ceil(transactions).max(1))
    }

    /// A transaction for so many drivers of a shard, [`Self::cut`] with this `most`, took so long.
    pub(super) fn took(&self, shard: Shard, drivers: usize, most: usize, took: Duration) {
        if let Some(durations) = &self.durations {
            durations.observe(took.as_secs_f64());
        }
        let took_us = took.as_secs_f64() * 1e6;
        // Of a small one most is what any transaction takes, whoever is in it.
        if took_us <= BUDGET_US && 2 * drivers < self.limit(shard, most) {
            return;
        }
        let mut costs = self.costs.lock();
        let cost = costs.entry(shard).or_insert_with(|| BUDGET_US / first(most) as f64);
        // So it comes to lie where as many take more as take less, however much more: a machine that lets Redis wait now and
        // then says nothing of what drivers take.
        let is_dearer = took_us > *cost * drivers as f64;
        let moved = *cost * if is_dearer { STEP } else { STEP.recip() };
        // What would change nothing is not believed: so that it is not far to go back.
        *cost = moved.clamp(BUDGET_US / most as f64, BUDGET_US / FEWEST as f64);
    }

    /// Forgets hours that ended before `cutoff`.
    pub(super) fn forget_before(&self, cutoff: Timestamp) {
        self.costs.lock().retain(|shard, _| shard.hour().end() >= cutoff);
    }

    fn limit(&self, shard: Shard, most: usize) -> usize {
        let cost = self.costs.lock().get(&shard).copied();
        cost.map_or(first(most), |cost| (BUDGET_US / cost) as usize).clamp(FEWEST, most)
    }
}

const fn first(most: usize) -> usize {
    most / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hour;

    const MOST: usize = 50;

    fn sizes(pace: &Pace, shard: Shard, drivers: usize) -> Vec<usize> {
        pace.cut(shard, &vec![(); drivers], MOST).map(<[()]>::len).collect()
    }

    /// Each driver takes so long, in µs, for so many batches.
    fn apply(pace: &Pace, shard: Shard, batches: usize, cost_us: u64) {
        for _ in 0..batches {
            for drivers in sizes(pace, shard, 400) {
                pace.took(shard, drivers, MOST, Duration::from_micros(cost_us * drivers as u64));
            }
        }
    }

    fn shard(number: i32) -> Shard {
        Shard::whole(Hour::from_number(number))
    }

    #[test]
    fn the_dearer_a_driver_is_the_fewer_are_in_a_transaction() {
        let pace = Pace::default();
        assert_eq!(sizes(&pace, shard(1), 400), [25; 16]);
        for (cost_us, most) in [(40, FEWEST), (20, 15), (4, MOST), (10, 30), (1_000, FEWEST), (1, MOST)] {
            apply(&pace, shard(1), 40, cost_us);
            let largest = sizes(&pace, shard(1), 400).into_iter().max();
            assert!(largest.is_some_and(|largest| largest.abs_diff(most) <= 3), "{cost_us} us: {largest:?}");
        }
        assert_eq!(sizes(&pace, shard(2), 400), [25; 16], "another shard's");
    }

    #[test]
    fn they_are_about_as_large_as_each_other() {
        let pace = Pace::default();
        assert_eq!(sizes(&pace, shard(1), 0), [0_usize; 0]);
        assert_eq!(sizes(&pace, shard(1), 1), [1]);
        assert_eq!(sizes(&pace, shard(1), 26), [13, 13]);
        assert_eq!(sizes(&pace, shard(1), 70), [24, 24, 22]);
    }

    #[test]
    fn neither_a_pause_nor_a_small_transaction_tells_what_a_driver_takes() {
        let pace = Pace::default();
        apply(&pace, shard(1), 40, 4);
        let before = sizes(&pace, shard(1), 400);
        for drivers in 1..=20 {
            pace.took(shard(1), drivers, MOST, Duration::from_micros(250));
        }
        assert_eq!(sizes(&pace, shard(1), 400), before);
        for _ in 0..20 {
            pace.took(shard(1), 50, MOST, Duration::from_secs(3));
            pace.took(shard(1), 50, MOST, Duration::from_micros(200));
        }
        assert_eq!(sizes(&pace, shard(1), 400), before);
    }

    #[test]
    fn small_ones_that_take_too_long_tell_it() {
        let pace = Pace::default();
        apply(&pace, shard(1), 40, 4);
        for _ in 0..40 {
            pace.took(shard(1), 20, MOST, Duration::from_millis(1));
        }
        assert_eq!(sizes(&pace, shard(1), 20), [10, 10]);
    }

    #[test]
    fn hours_that_are_over_are_forgotten() {
        let pace = Pace::default();
        for hour in 1..=3 {
            apply(&pace, shard(hour), 1, 4);
        }
        pace.forget_before(Hour::from_number(2).end());
        assert_eq!(pace.costs.lock().keys().copied().collect::<Vec<_>>(), [shard(2), shard(3)]);
    }
}
