//! The note of erasures: who was erased, up to where in this journal, and how far that has come.
//!
//! One small file beside the segments, replaced whole, on disk before anything else is done about an erasure. It is
//! no record in the journal, for three reasons: a start must know what is unfinished without reading the journal; what
//! was carried out must be remembered for longer than segments are kept; and once it is carried out, nothing is left
//! in the journal that a record could speak about.
//!
//! The offset of an erasure is where a segment begins: what was accepted before is in older segments, what comes later
//! is new and in none of them. From the moment an erasure is noted, no reader hands over what it erases.
//!
//! A driver's id stands in the note while its erasure is unfinished at the instance that was asked for it, which has to
//! name the driver to its store until the store is done. After that, and at other instances, there is the tombstone
//! alone.
//!
//! A line that is damaged is left out. The erasure is then heard of again from the other instances, if there are any.

use std::collections::HashMap;
use std::{fmt, fs, io};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::error::AppendError;
use super::files::{Files, checked_line, replace, with_checksum};
use super::{Journal, scrub};
use crate::model::{DriverId, Offset, Point, Timestamp, Tombstone};

const NOBODY: &str = "-";

/// How far an erasure has come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It is noted: what it erases is not read any more.
    Noted,
    /// No segment holds a byte of it.
    Scrubbed,
    /// Nothing is left to do.
    Done,
}

/// One erasure, as this journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Of whom.
    pub tombstone: Tombstone,
    /// When it was asked for.
    pub at: Timestamp,
    /// What lies before this in the journal is erased.
    pub end: Offset,
    /// How far it has come.
    pub stage: Stage,
    /// By name, at the instance that was asked, until it is done.
    pub driver: Option<DriverId>,
}

impl Erasure {
    /// Whether it is of this driver.
    pub fn is_of(&self, driver: &DriverId) -> bool {
        self.driver.as_ref().map_or_else(|| self.tombstone.is_of(driver), |own| own == driver)
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [tombstone, at, end, stage, driver] = words.try_into().ok()?;
        Some(Self {
            tombstone: Tombstone::parse(tombstone)?,
            at: Timestamp::from_ms(at.parse().ok()?),
            end: Offset::new(end.parse().ok()?),
            stage: match stage {
                "noted" => Stage::Noted,
                "scrubbed" => Stage::Scrubbed,
                "done" => Stage::Done,
                _ => return None,
            },
            driver: if driver == NOBODY { None } else { Some(DriverId::new(driver).ok()?) },
        })
    }
}

impl fmt::Display for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tombstone, at, end, stage, driver } = self;
        let stage = match stage {
            Stage::Noted => "noted",
            Stage::Scrubbed => "scrubbed",
            Stage::Done => "done",
        };
        let driver = driver.as_ref().map_or(NOBODY, DriverId::as_str);
        write!(f, "{tombstone} {} {end} {stage} {driver}", at.as_ms())
    }
}

/// Tells of drivers whether any of `erasures` is of them. A hash is worth remembering: drivers come again and again.
pub(super) fn verdicts(erasures: &[&Erasure]) -> impl FnMut(&DriverId) -> bool {
    let mut known: HashMap<DriverId, bool> = HashMap::new();
    move |driver| {
        if let Some(verdict) = known.get(driver) {
            return *verdict;
        }
        let verdict = erasures.iter().any(|erasure| erasure.is_of(driver));
        known.insert(driver.clone(), verdict);
        verdict
    }
}

/// All erasures that a journal knows, oldest first.
#[derive(Debug, Default)]
pub(super) struct Erasures(Mutex<Vec<Known>>);

#[derive(Clone, Debug)]
struct Known {
    erasure: Erasure,
    /// It was not done when this process began: what it erases may be in somebody's hands.
    strikes: bool,
}

impl Erasures {
    pub(super) fn load(files: &Files) -> io::Result<Self> {
        let text = match fs::read(files.erasures()) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let read = |line: &str| {
            let erasure = checked_line(line).and_then(Erasure::parse);
            if erasure.is_none() {
                tracing::error!("a line of the note of erasures is damaged: that erasure may be unfinished");
            }
            erasure.map(|erasure| Known { strikes: erasure.stage != Stage::Done, erasure })
        };
        Ok(Self(Mutex::new(text.split_inclusive('\n').filter_map(read).collect())))
    }

    /// `points`, which end at `end` or before, without those that are to be erased; `None` if all may stay.
    pub(super) fn strike(&self, points: &[Point], end: Offset) -> Option<Vec<Point>> {
        let known = self.0.lock();
        let erasures: Vec<&Erasure> = known
            .iter()
            .filter(|known| known.strikes && end <= known.erasure.end)
            .map(|known| &known.erasure)
            .collect();
        let mut is_erased = verdicts(&erasures);
        let is_struck = !erasures.is_empty() && points.iter().any(|point| is_erased(&point.driver));
        is_struck.then(|| points.iter().filter(|point| !is_erased(&point.driver)).cloned().collect())
    }

    pub(super) fn snapshot(&self) -> Vec<Erasure> {
        self.0.lock().iter().map(|known| known.erasure.clone()).collect()
    }

    /// Changes what is known, on disk first.
    fn change(&self, files: &Files, change: impl FnOnce(&mut Vec<Known>)) -> io::Result<()> {
        let mut known = self.0.lock();
        let mut changed = known.clone();
        change(&mut changed);
        let lines: String = changed.iter().map(|known| with_checksum(&known.erasure.to_string())).collect();
        replace(&files.erasures(), &lines)?;
        *known = changed;
        Ok(())
    }
}

impl Journal {
    /// All erasures known here, oldest first.
    pub fn erasures(&self) -> Vec<Erasure> {
        self.0.shared.erasures.snapshot()
    }

    /// `points`, which end at `end` or before, without those that are to be erased; `None` if all may stay. Whoever holds
    /// points that were read a while ago asks before passing them on.
    pub fn strike(&self, points: &[Point], end: Offset) -> Option<Vec<Point>> {
        self.0.shared.erasures.strike(points, end)
    }

    /// Notes an erasure of all that was acknowledged until now; on disk when this returns. `driver` is named if the
    /// store has to be told.
    pub async fn note_erasure(
        &self,
        tombstone: Tombstone,
        at: Timestamp,
        driver: Option<DriverId>,
    ) -> Result<(), AppendError> {
        let (answer, answered) = oneshot::channel();
        self.0.shared.queue.push_roll(answer)?;
        let end = answered.await.map_err(|_| AppendError::Closed)?;
        let erasure = Erasure { tombstone, at, end, stage: Stage::Noted, driver };
        let noted = self.change_erasures(move |known| known.push(Known { erasure, strikes: true })).await;
        noted.map_err(|error| {
            tracing::error!(%error, "an erasure could not be noted");
            AppendError::Failed
        })
    }

    /// Takes every byte of what `noted` names out of the segments, and notes that.
    pub async fn scrub(&self, noted: Vec<Erasure>) -> io::Result<()> {
        let journal = self.clone();
        let scrub = move || {
            let shared = &journal.0.shared;
            scrub::scrub(shared, &noted)?;
            shared.erasures.change(&shared.files, |known| {
                let is_scrubbed = |known: &&mut Known| noted.iter().any(|n| n.tombstone == known.erasure.tombstone);
                known.iter_mut().filter(is_scrubbed).for_each(|known| known.erasure.stage = Stage::Scrubbed);
            })
        };
        tokio::task::spawn_blocking(scrub).await.map_err(io::Error::other)?
    }

    /// Notes that nothing is left to do for an erasure. The driver's name goes.
    pub async fn erasure_done(&self, tombstone: Tombstone) -> io::Result<()> {
        let is_it = move |known: &&mut Known| known.erasure.tombstone == tombstone;
        self.change_erasures(move |known| {
            if let Some(Known { erasure, .. }) = known.iter_mut().find(is_it) {
                (erasure.stage, erasure.driver) = (Stage::Done, None);
            }
        })
        .await
    }

    /// Forgets erasures that were asked for before `cutoff` and are done.
    pub async fn forget_erasures(&self, cutoff: Timestamp) -> io::Result<()> {
        let is_over = move |known: &Known| known.erasure.stage == Stage::Done && known.erasure.at < cutoff;
        if self.0.shared.erasures.0.lock().iter().any(is_over) {
            self.change_erasures(move |known| known.retain(|known| !is_over(known))).await?;
        }
        Ok(())
    }

    async fn change_erasures(&self, change: impl FnOnce(&mut Vec<Known>) + Send + 'static) -> io::Result<()> {
        let journal = self.clone();
        let write = move || journal.0.shared.erasures.change(&journal.0.shared.files, change);
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}
