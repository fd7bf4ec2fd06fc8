//! A run: one hour's fixes as they were written out together, in a file that never changes.
//!
//! Header (magic, version, hour); a block a driver in the order of numbers, its fixes in the order of time, each
//! millisecond once; the last fix of each driver; an index; a footer. The index stays on disk: memory keeps every
//! 64th number, so that finding a driver is one read of 64 entries.
//!
//! Opening verifies everything but the blocks (they are most of the file: reading them would make a restart take
//! as long as the history is long). Each block has a checksum of its own, verified whenever it is read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{self, DiskError, Fields, MAGIC_BYTES};
use crate::model::{Fix, Hour};
use crate::store::track_codec;

const MAGIC: [u8; MAGIC_BYTES] = *b"GTRUN\0\0\0";
const HEADER_BYTES: u64 = 16;
const ENTRY_BYTES: usize = 28;
const FOOTER_BYTES: usize = 32;
const FENCE_EVERY: usize = 64;
const READ_ENTRIES: usize = 1_024;
const DAMAGED: DiskError = DiskError::Damaged("run");

/// Puts fixes of one driver in the order of time, each millisecond once: of two the greater wins.
pub(super) fn settle(fixes: &mut Vec<Fix>) {
    fixes.sort_unstable_by(|a, b| b.cmp(a));
    fixes.dedup_by_key(|fix| fix.ts);
    fixes.reverse();
}

/// An open run.
#[derive(Debug)]
pub(super) struct Run {
    hour: Hour,
    number: u64,
    path: PathBuf,
    file: File,
    lasts_at: u64,
    index_at: u64,
    count: usize,
    fences: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    driver: u32,
    block_bytes: u32,
    block_at: u64,
    block_crc: u32,
    last_at: u32,
    last_bytes: u32,
}

impl Run {
    /// Opens and verifies; tells `driver` every driver number in it.
    pub(super) fn open(
        path: PathBuf,
        hour: Hour,
        number: u64,
        mut driver: impl FnMut(u32),
    ) -> Result<Self, DiskError> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let footer_at = length.checked_sub(FOOTER_BYTES as u64).ok_or(DAMAGED)?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_at)?;
        let mut fields = Fields::new(&footer, "run");
        let (lasts_at, index_at, count) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (tail_crc, footer_crc) = (fields.u32()?, fields.u32()?);
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &footer[..FOOTER_BYTES - 4]);
        let is_whole = header == self::header(hour)[..]
            && crc == footer_crc
            && HEADER_BYTES <= lasts_at
            && lasts_at <= index_at
            && count.checked_mul(ENTRY_BYTES as u64).and_then(|bytes| bytes.checked_add(index_at)) == Some(footer_at);
        if !is_whole || read_crc(&file, lasts_at, footer_at)? != tail_crc {
            return Err(DAMAGED);
        }
        let fences = Vec::with_capacity(count as usize / FENCE_EVERY + 1);
        let mut run = Self { hour, number, path, file, lasts_at, index_at, count: count as usize, fences };
        let mut index = 0;
        while index < run.count {
            for entry in run.entries(index, READ_ENTRIES)? {
                if index % FENCE_EVERY == 0 {
                    run.fences.push(entry.driver);
                }
                driver(entry.driver);
                index += 1;
            }
        }
        Ok(run)
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether anything of a driver is in it.
    pub(super) fn has(&self, driver: u32) -> Result<bool, DiskError> {
        Ok(self.find(driver)?.is_some())
    }

    /// The fixes of a driver, in the order of time.
    pub(super) fn fixes(&self, driver: u32) -> Result<Vec<Fix>, DiskError> {
        self.find(driver)?.map_or(Ok(Vec::new()), |entry| self.block(&entry))
    }

    /// The last fix of a driver.
    pub(super) fn last(&self, driver: u32) -> Result<Option<Fix>, DiskError> {
        let Some(entry) = self.find(driver)? else { return Ok(None) };
        let mut bytes = vec![0; entry.last_bytes as usize];
        self.file.read_exact_at(&mut bytes, self.lasts_at + u64::from(entry.last_at))?;
        self.last_in(&bytes).map(Some)
    }

    /// The last fix of every driver, some hundreds at a time.
    pub(super) fn lasts(&self, mut some: impl FnMut(&[(u32, Fix)])) -> Result<(), DiskError> {
        for index in (0..self.count).step_by(READ_ENTRIES) {
            let entries = self.entries(index, READ_ENTRIES)?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else { break };
            let from = first.last_at;
            let bytes = (last.last_at + last.last_bytes).checked_sub(from).ok_or(DAMAGED)?;
            let mut lasts = vec![0; bytes as usize];
            self.file.read_exact_at(&mut lasts, self.lasts_at + u64::from(from))?;
            let mut decoded = Vec::with_capacity(entries.len());
            for entry in &entries {
                let at = entry.last_at.checked_sub(from).ok_or(DAMAGED)? as usize;
                let bytes = lasts.get(at..at + entry.last_bytes as usize).ok_or(DAMAGED)?;
                decoded.push((entry.driver, self.last_in(bytes)?));
            }
            some(&decoded);
        }
        Ok(())
    }

    fn last_in(&self, bytes: &[u8]) -> Result<Fix, DiskError> {
        track_codec::decoder(self.hour, bytes).next().and_then(Result::ok).ok_or(DAMAGED)
    }

    fn block(&self, entry: &Entry) -> Result<Vec<Fix>, DiskError> {
        let mut bytes = vec![0; entry.block_bytes as usize];
        self.file.read_exact_at(&mut bytes, entry.block_at)?;
        if crc32c::crc32c(&bytes) != entry.block_crc {
            return Err(DAMAGED);
        }
        track_codec::decode(self.hour, &bytes).map_err(|_| DAMAGED)
    }

    fn find(&self, driver: u32) -> Result<Option<Entry>, DiskError> {
        let fence = self.fences.partition_point(|first| *first <= driver);
        let Some(fence) = fence.checked_sub(1) else { return Ok(None) };
        let entries = self.entries(fence * FENCE_EVERY, FENCE_EVERY)?;
        Ok(entries.into_iter().find(|entry| entry.driver == driver))
    }

    /// At most `limit` entries of the index from `index` on.
    fn entries(&self, index: usize, limit: usize) -> Result<Vec<Entry>, DiskError> {
        let mut bytes = vec![0; (self.count - index).min(limit) * ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, self.index_at + (index * ENTRY_BYTES) as u64)?;
        bytes.chunks_exact(ENTRY_BYTES).map(|bytes| Entry::read(bytes, self.lasts_at, self.index_at)).collect()
    }
}

impl Entry {
    /// Reads an entry; it must point inside the file.
    fn read(bytes: &[u8], blocks_beyond: u64, index_from: u64) -> Result<Self, DiskError> {
        let mut fields = Fields::new(bytes, "run");
        let (driver, block_bytes) = (fields.u32()?, fields.u32()?);
        let (block_at, block_crc) = (fields.u64()?, fields.u32()?);
        let (last_at, last_bytes) = (fields.u32()?, fields.u32()?);
        let block_end = block_at.checked_add(block_bytes.into()).ok_or(DAMAGED)?;
        let last_end = u64::from(last_at) + u64::from(last_bytes);
        if block_end > blocks_beyond || last_end > index_from - blocks_beyond || last_end > u64::from(u32::MAX) {
            return Err(DAMAGED);
        }
        Ok(Self { driver, block_bytes, block_at, block_crc, last_at, last_bytes })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.driver.to_le_bytes());
        out.extend_from_slice(&self.block_bytes.to_le_bytes());
        out.extend_from_slice(&self.block_at.to_le_bytes());
        out.extend_from_slice(&self.block_crc.to_le_bytes());
        out.extend_from_slice(&self.last_at.to_le_bytes());
        out.extend_from_slice(&self.last_bytes.to_le_bytes());
    }
}

fn header(hour: Hour) -> Vec<u8> {
    let mut header = disk::header(MAGIC);
    header.extend_from_slice(&hour.number().to_le_bytes());
    header
}

fn read_crc(file: &File, from: u64, to: u64) -> Result<u32, DiskError> {
    let (mut at, mut crc) = (from, 0);
    let mut buffer = vec![0; 256 * 1_024];
    while at < to {
        let bytes = (to - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..bytes], at)?;
        crc = crc32c::crc32c_append(crc, &buffer[..bytes]);
        at += bytes as u64;
    }
    Ok(crc)
}

/// Writes a run, driver by driver.
#[derive(Debug)]
pub(super) struct RunWriter {
    hour: Hour,
    file: BufWriter<File>,
    header: Vec<u8>,
    at: u64,
    block: Vec<u8>,
    lasts: Vec<u8>,
    index: Vec<u8>,
    count: u64,
}

impl RunWriter {
    pub(super) fn create(path: &Path, hour: Hour) -> Result<Self, DiskError> {
        let mut file = BufWriter::with_capacity(256 * 1_024, File::create(path)?);
        let header = header(hour);
        file.write_all(&header)?;
        let (block, lasts, index) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { hour, file, header, at: HEADER_BYTES, block, lasts, index, count: 0 })
    }

    /// Adds the settled fixes of a driver. Numbers must ascend.
    pub(super) fn push(&mut self, driver: u32, fixes: &[Fix]) -> Result<(), DiskError> {
        let Some(last) = fixes.last() else { return Ok(()) };
        self.block.clear();
        track_codec::encode_chunk(self.hour, fixes, &mut self.block);
        let last_at = self.lasts.len() as u32;
        track_codec::encode_chunk(self.hour, std::slice::from_ref(last), &mut self.lasts);
        let entry = Entry {
            driver,
            block_bytes: self.block.len() as u32,
            block_at: self.at,
            block_crc: crc32c::crc32c(&self.block),
            last_at,
            last_bytes: self.lasts.len() as u32 - last_at,
        };
        entry.write(&mut self.index);
        self.file.write_all(&self.block)?;
        self.at += self.block.len() as u64;
        self.count += 1;
        Ok(())
    }

    /// Completes the file and fsyncs it; the directory is the caller's.
    pub(super) fn finish(mut self) -> Result<(), DiskError> {
        let index_at = self.at + self.lasts.len() as u64;
        let tail_crc = crc32c::crc32c_append(crc32c::crc32c(&self.lasts), &self.index);
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend_from_slice(&self.at.to_le_bytes());
        footer.extend_from_slice(&index_at.to_le_bytes());
        footer.extend_from_slice(&self.count.to_le_bytes());
        footer.extend_from_slice(&tail_crc.to_le_bytes());
        let footer_crc = crc32c::crc32c_append(crc32c::crc32c(&self.header), &footer);
        footer.extend_from_slice(&footer_crc.to_le_bytes());
        for part in [&self.lasts, &self.index, &footer] {
            self.file.write_all(part)?;
        }
        self.file.flush()?;
        Ok(self.file.get_ref().sync_all()?)
    }
}

/// Writes all that `runs` of one hour hold as one, but for the drivers in `without`. Says of how many drivers.
pub(super) fn merge(path: &Path, hour: Hour, runs: &[Arc<Run>], without: &[u32]) -> Result<u64, DiskError> {
    let mut writer = RunWriter::create(path, hour)?;
    let mut walks: Vec<Walk<'_>> = runs.iter().map(|run| Walk { run, index: 0, entries: Vec::new() }).collect();
    loop {
        let mut nearest = None;
        for walk in &mut walks {
            nearest = match (nearest, walk.peek()?) {
                (Some(a), Some(b)) => Some(std::cmp::min::<u32>(a, b)),
                (a, b) => a.or(b),
            };
        }
        let Some(driver) = nearest else { break };
        let mut fixes = Vec::new();
        for walk in &mut walks {
            if walk.peek()? == Some(driver)
                && let Some(entry) = walk.entries.pop()
            {
                fixes.append(&mut walk.run.block(&entry)?);
            }
        }
        if !without.contains(&driver) {
            settle(&mut fixes);
            writer.push(driver, &fixes)?;
        }
    }
    let drivers = writer.count;
    writer.finish()?;
    Ok(drivers)
}

/// A walk along the index of a run; what was read ahead waits in reverse.
struct Walk<'a> {
    run: &'a Run,
    index: usize,
    entries: Vec<Entry>,
}

impl Walk<'_> {
    fn peek(&mut self) -> Result<Option<u32>, DiskError> {
        if self.entries.is_empty() && self.index < self.run.count {
            self.entries = self.run.entries(self.index, READ_ENTRIES)?;
            self.index += self.entries.len();
            self.entries.reverse();
        }
        Ok(self.entries.last().map(|entry| entry.driver))
    }
}
