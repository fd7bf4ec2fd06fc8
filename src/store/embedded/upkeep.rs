//! What goes on between memory and disk: loading, writing out, merging, forgetting. All of it blocks, and one lock
//! keeps it in single file; readers and the applier go on meanwhile.
//!
//! Whatever moment the process dies at, the manifest names a whole store: new files are complete and fsynced before
//! a manifest names them, and files are removed only after a manifest without them is in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::SLICE;
use super::disk::{self, DiskError};
use super::manifest::{self, FleetWriter, Manifest};
use super::run::{self, Run, RunWriter};
use super::state::State;
use crate::model::{DriverId, Hour, Offset, Timestamp};

/// More runs of an hour than this become one.
const MAX_RUNS_PER_HOUR: usize = 8;

/// The store, as its tasks share it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    journal: String,
    pub(super) state: RwLock<State>,
    pub(super) durable: AtomicU64,
    pub(super) is_open: AtomicBool,
    pub(super) upkeep: Mutex<Upkeep>,
}

#[derive(Debug, Default)]
pub(super) struct Upkeep {
    pub(super) manifest: Manifest,
    pub(super) is_closed: bool,
    pub(super) is_damaged: bool,
    /// Numbers of erased drivers that may still stand in files.
    pub(super) vacated: Vec<u32>,
}

impl Upkeep {
    /// Makes `manifest` the one that counts. A damaged store has none: the next start must not take it for whole.
    pub(super) fn commit(&mut self, manifest: Manifest, dir: &Path) -> Result<(), DiskError> {
        if !self.is_damaged {
            manifest.write(dir)?;
        }
        self.manifest = manifest;
        Ok(())
    }
}

impl Shared {
    pub(super) fn new(dir: PathBuf, journal: String) -> Self {
        Self {
            dir,
            journal,
            state: RwLock::default(),
            durable: AtomicU64::new(Offset::START.get()),
            is_open: AtomicBool::new(false),
            upkeep: Mutex::default(),
        }
    }

    /// Loads what is on disk, and says from where the journal must be applied. What cannot be trusted is dropped,
    /// and everything built anew from the journal.
    pub(super) fn load(&self) -> Result<Offset, DiskError> {
        let mut upkeep = self.upkeep.lock();
        fs::create_dir_all(&self.dir)?;
        let (manifest, state) = match load(&self.dir, &self.journal) {
            Ok(loaded) => loaded,
            Err(DiskError::Damaged(what)) => {
                tracing::warn!(what, "the embedded store is damaged and will be rebuilt from the journal");
                if let Err(error) = fs::remove_file(Manifest::path(&self.dir))
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error.into());
                }
                disk::sync_dir(&self.dir)?;
                (Manifest::default(), State::default())
            }
            Err(error) => return Err(error),
        };
        let manifest = Manifest { journal: self.journal.clone(), ..manifest };
        remove_unnamed(&self.dir, &manifest)?;
        let checkpoint = manifest.checkpoint;
        upkeep.manifest = manifest;
        *self.state.write() = state;
        self.durable.store(checkpoint.get(), Ordering::Release);
        self.is_open.store(true, Ordering::Release);
        Ok(checkpoint)
    }

    /// Writes the frozen memtable out, if there is one.
    pub(super) fn write_out(&self) -> Result<(), DiskError> {
        let mut upkeep = self.upkeep.lock();
        let frozen = self.state.read().frozen.clone();
        let Some(frozen) = frozen.filter(|_| !upkeep.is_closed) else { return Ok(()) };
        let mut manifest = upkeep.manifest.clone();
        let mut runs = Vec::new();
        for hour in frozen.table.hours() {
            let file = manifest.take_file();
            let path = manifest::run_path(&self.dir, hour, file);
            let mut writer = RunWriter::create(&path, hour)?;
            for number in frozen.table.numbers(hour) {
                let mut fixes = frozen.table.fixes(hour, number);
                run::settle(&mut fixes);
                writer.push(number, &fixes)?;
            }
            writer.finish()?;
            runs.push((hour, Arc::new(Run::open(path, hour, file, |_| {})?)));
            manifest.runs.push((hour, file));
        }
        let old_fleet = manifest::fleet_path(&self.dir, manifest.fleet);
        manifest.fleet = manifest.take_file();
        self.write_fleet(&manifest::fleet_path(&self.dir, manifest.fleet))?;
        manifest.checkpoint = frozen.checkpoint;
        upkeep.commit(manifest, &self.dir)?;
        {
            let mut state = self.state.write();
            for (hour, run) in runs {
                state.hours.entry(hour).or_default().runs.push(run);
            }
            state.frozen = None;
            state.writes += 1;
        }
        if !upkeep.is_damaged {
            self.durable.store(frozen.checkpoint.get(), Ordering::Release);
        }
        drop(frozen);
        remove(&old_fleet);
        self.merge(&mut upkeep)
    }

    /// The fleet as it is now: it may know of points beyond the checkpoint, which are applied once more then.
    pub(super) fn write_fleet(&self, path: &Path) -> Result<(), DiskError> {
        let mut writer = FleetWriter::new();
        let mut after: Option<DriverId> = None;
        loop {
            let state = self.state.read();
            let mut last = None;
            for (id, number) in state.whereabouts.fleet.after(after.as_ref()).take(SLICE) {
                if let Some(driver) = state.whereabouts.fleet.get(number) {
                    writer.push(number, id, &driver.newest);
                }
                last = Some(id);
            }
            if last.is_none() {
                break;
            }
            after = last.cloned();
        }
        writer.write(path)
    }

    fn merge(&self, upkeep: &mut Upkeep) -> Result<(), DiskError> {
        let crowded: Vec<(Hour, Vec<Arc<Run>>)> = {
            let state = self.state.read();
            let hours = state.hours.iter().filter(|(_, index)| index.runs.len() > MAX_RUNS_PER_HOUR);
            hours.map(|(hour, index)| (*hour, index.runs.clone())).collect()
        };
        for (hour, runs) in crowded {
            let mut manifest = upkeep.manifest.clone();
            let file = manifest.take_file();
            let path = manifest::run_path(&self.dir, hour, file);
            run::merge(&path, hour, &runs, &[])?;
            let merged = Arc::new(Run::open(path, hour, file, |_| {})?);
            manifest.runs.retain(|(_, file)| runs.iter().all(|run| run.number() != *file));
            manifest.runs.push((hour, file));
            upkeep.commit(manifest, &self.dir)?;
            if let Some(index) = self.state.write().hours.get_mut(&hour) {
                index.runs = vec![merged];
            }
            for run in runs {
                remove(run.path());
            }
        }
        Ok(())
    }

    /// Forgets hours that ended before `cutoff`, and drivers with nothing since.
    pub(super) fn forget_before(&self, cutoff: Timestamp) -> Result<(), DiskError> {
        let mut upkeep = self.upkeep.lock();
        let mut manifest = upkeep.manifest.clone();
        manifest.runs.retain(|(hour, _)| hour.end() > cutoff);
        let dropped: Vec<(Hour, u64)> =
            upkeep.manifest.runs.iter().copied().filter(|run| !manifest.runs.contains(run)).collect();
        if !dropped.is_empty() {
            upkeep.commit(manifest, &self.dir)?;
        }
        let numbers = {
            let mut state = self.state.write();
            state.forget_hours(cutoff);
            state.whereabouts.fleet.numbers()
        };
        for first in (0..numbers).step_by(SLICE) {
            let beyond = numbers.min(first + SLICE as u32);
            self.state.write().whereabouts.forget_before(cutoff, first..beyond);
        }
        for (hour, file) in dropped {
            remove(&manifest::run_path(&self.dir, hour, file));
        }
        Ok(())
    }

    /// Does work on files. If they turn out to be damaged, the next start rebuilds the store from the journal.
    pub(super) fn watched<T>(&self, work: impl FnOnce(&Self) -> Result<T, DiskError>) -> Result<T, DiskError> {
        work(self).inspect_err(|error| {
            if matches!(error, DiskError::Damaged(_)) {
                self.distrust();
            }
        })
    }

    fn distrust(&self) {
        let mut upkeep = self.upkeep.lock();
        if upkeep.is_damaged || upkeep.is_closed {
            return;
        }
        upkeep.is_damaged = true;
        self.durable.store(Offset::START.get(), Ordering::Release);
        tracing::error!("a run of the embedded store is damaged; the next start rebuilds it from the journal");
        remove(&Manifest::path(&self.dir));
    }

    /// Fills the layer of an hour.
    pub(super) fn fill_layer(&self, hour: Hour) -> Result<(), DiskError> {
        loop {
            let (runs, writes) = {
                let mut state = self.state.write();
                let Some(index) = state.hours.get(&hour) else { return Ok(()) };
                let runs = index.runs.clone();
                state.layers.begin(hour);
                (runs, state.writes)
            };
            for run in runs {
                run.lasts(|lasts| {
                    let mut state = self.state.write();
                    for (number, fix) in lasts {
                        state.layers.offer(*number, fix);
                    }
                })?;
            }
            let mut from = 0;
            loop {
                let mut state = self.state.write();
                let Some(index) = state.hours.get(&hour) else { return Ok(()) };
                let numbers = index.present.from(from, SLICE);
                for number in &numbers {
                    if let Some(fix) = state.last_in_memory(hour, *number) {
                        state.layers.offer(*number, &fix);
                    }
                }
                let Some(last) = numbers.last() else {
                    // What was in memory at first and on disk by now may have slipped through: look again.
                    if state.writes == writes {
                        state.layers.complete(hour);
                        return Ok(());
                    }
                    break;
                };
                from = last + 1;
            }
        }
    }

    /// Waits for upkeep in progress; none begins afterwards.
    pub(super) fn close(&self) {
        self.upkeep.lock().is_closed = true;
    }
}

fn load(dir: &Path, journal: &str) -> Result<(Manifest, State), DiskError> {
    let manifest = match Manifest::read(dir) {
        Ok(manifest) => manifest,
        Err(DiskError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Manifest::default(), State::default()));
        }
        Err(error) => return Err(error),
    };
    if manifest.journal != journal {
        return Err(DiskError::Damaged("index of another journal"));
    }
    let mut state = State { applied: manifest.checkpoint, ..State::default() };
    let path = manifest::fleet_path(dir, manifest.fleet);
    named(manifest::read_fleet(&path, |number, id, fix| state.whereabouts.restore(number, id, fix)))?;
    state.whereabouts.fleet.restored();
    for (hour, file) in &manifest.runs {
        let index = state.hours.entry(*hour).or_default();
        let present = &mut index.present;
        let mut is_known = true;
        let run = Run::open(manifest::run_path(dir, *hour, *file), *hour, *file, |number| {
            is_known &= state.whereabouts.fleet.get(number).is_some();
            if is_known {
                present.insert(number);
            }
        });
        index.runs.push(Arc::new(named(run)?));
        if !is_known {
            return Err(DiskError::Damaged("run with a driver the fleet does not know"));
        }
    }
    Ok((manifest, state))
}

/// A file the manifest names must be there, and as long as it was.
fn named<T>(result: Result<T, DiskError>) -> Result<T, DiskError> {
    result.map_err(|error| match error {
        DiskError::Io(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            DiskError::Damaged("missing or short file")
        }
        error => error,
    })
}

fn remove_unnamed(dir: &Path, manifest: &Manifest) -> Result<(), DiskError> {
    unnamed(dir, manifest)?.iter().for_each(|path| remove(path));
    Ok(())
}

/// Files that the manifest does not name.
pub(super) fn unnamed(dir: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>, DiskError> {
    let mut named: Vec<PathBuf> =
        manifest.runs.iter().map(|(hour, file)| manifest::run_path(dir, *hour, *file)).collect();
    named.push(Manifest::path(dir));
    named.push(manifest::fleet_path(dir, manifest.fleet));
    let mut unnamed = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !named.contains(&path) {
            unnamed.push(path);
        }
    }
    Ok(unnamed)
}

/// Removes a file that no manifest names; if it cannot, the next start tries again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a file of the embedded store could not be removed");
    }
}
