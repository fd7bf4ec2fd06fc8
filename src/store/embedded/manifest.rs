//! The two small files that say what the store is made of: the manifest names everything else, and the fleet file
//! says who the driver numbers are. A file the manifest does not name does not count.

use std::path::{Path, PathBuf};

use super::disk::{self, DiskError, Fields, MAGIC_BYTES};
use crate::model::{DriverId, Fix, Hour, Offset};
use crate::store::track_codec;

const MANIFEST_MAGIC: [u8; MAGIC_BYTES] = *b"GTMANIFE";
const FLEET_MAGIC: [u8; MAGIC_BYTES] = *b"GTFLEET\0";

/// What the store is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The journal that offsets are of.
    pub(super) journal: String,
    /// Everything before this offset is in the files named here.
    pub(super) checkpoint: Offset,
    /// The fleet file's number.
    pub(super) fleet: u64,
    /// No file with a higher number was ever named.
    pub(super) last_file: u64,
    /// The runs: hour and number.
    pub(super) runs: Vec<(Hour, u64)>,
}

impl Manifest {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("manifest")
    }

    pub(super) fn read(dir: &Path) -> Result<Self, DiskError> {
        let bytes = disk::read_sealed(&Self::path(dir), MANIFEST_MAGIC, "manifest")?;
        let mut fields = Fields::new(&bytes, "manifest");
        let journal = std::str::from_utf8(fields.short()?).map_err(|_| DiskError::Damaged("manifest"))?.to_owned();
        let checkpoint = Offset::new(fields.u64()?);
        let (fleet, last_file) = (fields.u64()?, fields.u64()?);
        let mut runs = Vec::new();
        while !fields.is_empty() {
            runs.push((Hour::from_number(fields.i32()?), fields.u64()?));
        }
        Ok(Self { journal, checkpoint, fleet, last_file, runs })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), DiskError> {
        let mut bytes = disk::header(MANIFEST_MAGIC);
        disk::put_short(&mut bytes, self.journal.as_bytes());
        for field in [self.checkpoint.get(), self.fleet, self.last_file] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        for (hour, file) in &self.runs {
            bytes.extend_from_slice(&hour.number().to_le_bytes());
            bytes.extend_from_slice(&file.to_le_bytes());
        }
        disk::write_sealed(&Self::path(dir), bytes)
    }

    /// A number for a new file.
    pub(super) const fn take_file(&mut self) -> u64 {
        self.last_file += 1;
        self.last_file
    }
}

/// Where a run is kept.
pub(super) fn run_path(dir: &Path, hour: Hour, file: u64) -> PathBuf {
    dir.join(format!("run-{hour}-{file}"))
}

/// Where a fleet is kept.
pub(super) fn fleet_path(dir: &Path, file: u64) -> PathBuf {
    dir.join(format!("fleet-{file}"))
}

/// Collects drivers for the fleet file.
#[derive(Debug)]
pub(super) struct FleetWriter(Vec<u8>);

impl FleetWriter {
    pub(super) fn new() -> Self {
        Self(disk::header(FLEET_MAGIC))
    }

    pub(super) fn push(&mut self, number: u32, id: &DriverId, newest: &Fix) {
        let hour = newest.ts.hour();
        let mut chunk = Vec::with_capacity(32);
        track_codec::encode_chunk(hour, std::slice::from_ref(newest), &mut chunk);
        self.0.extend_from_slice(&number.to_le_bytes());
        disk::put_short(&mut self.0, id.as_str().as_bytes());
        self.0.extend_from_slice(&hour.number().to_le_bytes());
        disk::put_short(&mut self.0, &chunk);
    }

    pub(super) fn write(self, path: &Path) -> Result<(), DiskError> {
        disk::write_sealed(path, self.0)
    }
}

/// Every driver in a fleet file: number, id, newest fix.
pub(super) fn read_fleet(path: &Path, mut driver: impl FnMut(u32, DriverId, Fix) -> bool) -> Result<(), DiskError> {
    let bytes = disk::read_sealed(path, FLEET_MAGIC, "fleet")?;
    let mut fields = Fields::new(&bytes, "fleet");
    while !fields.is_empty() {
        let number = fields.u32()?;
        let id = std::str::from_utf8(fields.short()?).ok().and_then(|id| DriverId::new(id).ok());
        let hour = Hour::from_number(fields.i32()?);
        let fix = track_codec::decoder(hour, fields.short()?).next().and_then(Result::ok);
        let (Some(id), Some(fix)) = (id, fix) else { return Err(fields.damaged()) };
        if !driver(number, id, fix) {
            return Err(fields.damaged());
        }
    }
    Ok(())
}
