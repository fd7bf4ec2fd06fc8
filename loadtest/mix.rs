//! What is asked: the kinds of traffic, and the request that each arrival of one brings.
//!
//! Never here: when it is asked (`schedule`), in which words (`http`, `resp`).

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::fleet::scatter;

/// Points of a phone that was cut off, and the time between two of them.
pub(crate) const BACKLOG_POINTS: u32 = 60;
pub(crate) const BACKLOG_EVERY: Duration = Duration::from_secs(5);
/// Everybody is back within so long.
const STAMPEDE_WITHIN: Duration = Duration::from_secs(1);
/// How far a customer looks for drivers.
const RADII_M: [u32; 3] = [1_000, 3_000, 10_000];
/// Of so many requests of the mixed traffic the last is a question.
const MIXED_CYCLE: u64 = 10;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mix {
    /// Reports in batches
    Ingest,
    /// Reports, a point a request
    Single,
    /// Of ten requests nine reports of one point each, and a question who is near
    Mixed,
    /// Questions who is near, limit 10, at 1, 3 and 10 km in turn
    Dispatch,
    /// The end of an outage: every phone sends what it kept, all within a second
    Stampede,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A report of each of `count` drivers from `first` on, the `round`th of theirs.
    Report { first: usize, count: usize, round: u32 },
    /// What the phone of `driver` kept: [`BACKLOG_POINTS`], one every [`BACKLOG_EVERY`], the newest from now.
    Backlog { driver: usize },
    /// The ten drivers nearest to where `who` began.
    Nearby { who: usize, radius_m: u32 },
}

/// What requests are told apart by in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Report,
    Backlog,
    Nearby,
}

impl Ask {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Report { .. } => Kind::Report,
            Self::Backlog { .. } => Kind::Backlog,
            Self::Nearby { .. } => Kind::Nearby,
        }
    }

    /// How many points it brings.
    pub(crate) const fn points(self) -> u64 {
        match self {
            Self::Report { count, .. } => count as u64,
            Self::Backlog { .. } => BACKLOG_POINTS as u64,
            Self::Nearby { .. } => 0,
        }
    }
}

/// A mix over a fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) mix: Mix,
    pub(crate) drivers: usize,
    /// Points of a request of [`Mix::Ingest`].
    pub(crate) batch: usize,
    /// How many requests came before: the fleet drives on from one run to the next.
    pub(crate) begun: u64,
}

impl Traffic {
    /// What arrival `number` of a run asks.
    pub(crate) fn ask(&self, number: u64) -> Ask {
        let number = self.begun + number;
        match self.mix {
            Mix::Ingest => self.report(number, self.batch),
            Mix::Single => self.report(number, 1),
            Mix::Mixed if number % MIXED_CYCLE == MIXED_CYCLE - 1 => self.nearby(number / MIXED_CYCLE),
            Mix::Mixed => self.report(number - number / MIXED_CYCLE, 1),
            Mix::Dispatch => self.nearby(number),
            Mix::Stampede => Ask::Backlog { driver: (number % self.drivers as u64) as usize },
        }
    }

    /// Round 0 brought everybody in.
    fn report(&self, number: u64, batch: usize) -> Ask {
        let batches = self.drivers.div_ceil(batch) as u64;
        let first = (number % batches) as usize * batch;
        Ask::Report { first, count: batch.min(self.drivers - first), round: 1 + (number / batches) as u32 }
    }

    fn nearby(&self, number: u64) -> Ask {
        let radius_m = RADII_M[(number % 3) as usize];
        Ask::Nearby { who: (scatter(number) % self.drivers as u64) as usize, radius_m }
    }
}

impl Mix {
    /// Requests a second, unless told otherwise: what one core can do with half its time.
    pub(crate) const fn usual_rate(self) -> f64 {
        match self {
            Self::Ingest => 20.0,
            Self::Single | Self::Mixed | Self::Dispatch => 2_000.0,
            Self::Stampede => f64::NAN,
        }
    }

    /// How many connections, unless told otherwise. Eight dispatchers are busy; a phone has one of its own.
    pub(crate) const fn usual_connections(self) -> usize {
        match self {
            Self::Ingest | Self::Dispatch => 8,
            Self::Single | Self::Mixed => 64,
            Self::Stampede => 1_000,
        }
    }

    /// The requests of a run and the time between two of them; `rate` is that of every mix but the stampede.
    pub(crate) fn schedule(self, rate: f64, run: Duration, drivers: usize) -> (u64, Duration) {
        match self {
            Self::Stampede => (drivers as u64, STAMPEDE_WITHIN.div_f64(drivers as f64)),
            _ => ((rate * run.as_secs_f64()).ceil() as u64, Duration::from_secs_f64(1.0 / rate)),
        }
    }

    /// How long a request may take, and how long after the last arrival there may still be some.
    pub(crate) const fn patience(self) -> Duration {
        match self {
            Self::Stampede => Duration::from_mins(1),
            _ => Duration::from_secs(5),
        }
    }

    /// Whether who is asked to come back later (429, 503) does.
    pub(crate) const fn comes_back(self) -> bool {
        matches!(self, Self::Stampede)
    }

    /// Whether plain commands of a peer can do the same: they keep no history.
    pub(crate) const fn suits_peers(self) -> bool {
        !matches!(self, Self::Stampede)
    }
}
