//! Taking one driver out: of memory at once, of every file before it returns.
//!
//! Files are written anew without the driver and a manifest names them before the old ones go; whatever moment the
//! process dies at, the manifest names a whole store, and the caller erases again. Until then nobody gets the driver's
//! number, for old runs would lend its new owner somebody else's track.
//!
//! If a run turns out to be damaged, the store cannot be trusted any more and the next start builds it anew from the
//! journal. Then all of its files go.
//!
//! Never here: who is to be erased, and what happens to the journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, io};

use super::disk::{self, DiskError};
use super::manifest::{self, Manifest};
use super::run::{self, Run};
use super::state::HourIndex;
use super::upkeep::{Shared, Upkeep, unnamed};
use crate::model::{DriverId, Hour, Offset};

impl Shared {
    /// Erases all of a driver. The caller keeps points and layers away meanwhile.
    pub(super) fn erase(&self, driver: &DriverId) -> Result<(), DiskError> {
        let mut upkeep = self.upkeep.lock();
        if upkeep.is_closed {
            return Err(io::Error::other("the store is closing").into());
        }
        let number = self.vacate(driver);
        upkeep.vacated.extend(number);
        if !upkeep.is_damaged {
            match self.rewrite(&mut upkeep) {
                Err(DiskError::Damaged(what)) => {
                    tracing::error!(what, "damage met while erasing; the next start rebuilds the embedded store");
                    upkeep.is_damaged = true;
                    self.durable.store(Offset::START.get(), Ordering::Release);
                }
                outcome => outcome?,
            }
        }
        // The next start takes nothing from a damaged store. What is open can be read on.
        let manifest = if upkeep.is_damaged { &Manifest::default() } else { &upkeep.manifest };
        if upkeep.is_damaged {
            remove(&Manifest::path(&self.dir))?;
        }
        for path in unnamed(&self.dir, manifest)? {
            remove(&path)?;
        }
        disk::sync_dir(&self.dir)?;
        let mut state = self.state.write();
        upkeep.vacated.drain(..).for_each(|number| state.whereabouts.fleet.free(number));
        Ok(())
    }

    /// Takes the driver out of memory; its number stays taken.
    fn vacate(&self, driver: &DriverId) -> Option<u32> {
        let mut state = self.state.write();
        let number = state.whereabouts.fleet.number(driver)?;
        state.whereabouts.vacate(number);
        state.whereabouts.fleet.find_newest_ts();
        state.layers.clear();
        state.active.erase(number);
        if let Some(frozen) = &mut state.frozen {
            Arc::get_mut(&mut frozen.table).expect("one upkeep at a time").erase(number);
        }
        for index in state.hours.values_mut() {
            index.present.remove(number);
        }
        Some(number)
    }

    /// Writes anew every file that may have something of erased drivers in it. That of the fleet may always: it knows
    /// also those whom memory has forgotten since.
    fn rewrite(&self, upkeep: &mut Upkeep) -> Result<(), DiskError> {
        let mut manifest = upkeep.manifest.clone();
        let runs: Vec<(Hour, Arc<Run>)> = {
            let state = self.state.read();
            let of_hour = |(hour, index): (&Hour, &HourIndex)| {
                index.runs.iter().map(|run| (*hour, Arc::clone(run))).collect::<Vec<_>>()
            };
            state.hours.iter().flat_map(of_hour).collect()
        };
        let mut rewritten = Vec::new();
        for (hour, run) in runs {
            let mut is_in_it = false;
            for number in &upkeep.vacated {
                is_in_it |= run.has(*number)?;
            }
            if !is_in_it {
                continue;
            }
            let file = manifest.take_file();
            let path = manifest::run_path(&self.dir, hour, file);
            let drivers = run::merge(&path, hour, std::slice::from_ref(&run), &upkeep.vacated)?;
            manifest.runs.retain(|(_, old)| *old != run.number());
            let mut fresh = None;
            if drivers > 0 {
                manifest.runs.push((hour, file));
                fresh = Some(Arc::new(Run::open(path, hour, file, |_| {})?));
            }
            rewritten.push((hour, run.number(), fresh));
        }
        if manifest.fleet > 0 {
            manifest.fleet = manifest.take_file();
            self.write_fleet(&manifest::fleet_path(&self.dir, manifest.fleet))?;
            upkeep.commit(manifest, &self.dir)?;
        }
        let mut state = self.state.write();
        for (hour, old, fresh) in rewritten {
            if let Some(index) = state.hours.get_mut(&hour) {
                index.runs.retain(|run| run.number() != old);
                index.runs.extend(fresh);
            }
        }
        state.hours.retain(|_, index| !index.present.is_empty());
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
