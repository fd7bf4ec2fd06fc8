//! The habits all files of the store share: little endian, a magic and a version in front, a checksum behind, written
//! under another name, fsynced and renamed, the directory fsynced. Reading never panics.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::store::StoreError;

/// Bytes of the magic.
pub(super) const MAGIC_BYTES: usize = 8;
const VERSION: u32 = 1;

/// Why a file cannot be read or written.
#[derive(Debug, Error)]
pub(super) enum DiskError {
    /// The disk said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The content is not what was written, or of another version.
    #[error("damaged or of another version: {0}")]
    Damaged(&'static str),
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io(error) => Self::Unavailable(error.to_string()),
            DiskError::Damaged(what) => Self::Corrupt(what.into()),
        }
    }
}

/// The beginning of a file.
pub(super) fn header(magic: [u8; MAGIC_BYTES]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Puts the checksum behind a whole file, and the file in its place.
pub(super) fn write_sealed(path: &Path, mut bytes: Vec<u8>) -> Result<(), DiskError> {
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, &bytes)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(path))
}

/// Reads what [`write_sealed`] wrote; the content behind the header.
pub(super) fn read_sealed(path: &Path, magic: [u8; MAGIC_BYTES], what: &'static str) -> Result<Vec<u8>, DiskError> {
    let mut bytes = fs::read(path)?;
    let header = header(magic);
    let sealed = bytes.len().checked_sub(4).ok_or(DiskError::Damaged(what))?;
    let crc = crc32c::crc32c(&bytes[..sealed]).to_le_bytes();
    if bytes[sealed..] != crc || !bytes[..sealed].starts_with(&header) {
        return Err(DiskError::Damaged(what));
    }
    bytes.truncate(sealed);
    bytes.drain(..header.len());
    Ok(bytes)
}

/// Makes new, renamed and removed names last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    Ok(File::open(dir)?.sync_all()?)
}

/// Takes fields off the front of bytes.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) const fn damaged(&self) -> DiskError {
        DiskError::Damaged(self.what)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DiskError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(DiskError::Damaged(self.what))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DiskError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DiskError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DiskError> {
        self.array().map(i32::from_le_bytes)
    }

    /// Bytes behind their length in a u16.
    pub(super) fn short(&mut self) -> Result<&'a [u8], DiskError> {
        let length = u16::from_le_bytes(self.array()?);
        let (taken, rest) = self.bytes.split_at_checked(length.into()).ok_or(DiskError::Damaged(self.what))?;
        self.bytes = rest;
        Ok(taken)
    }
}

/// Appends bytes behind their length in a u16.
pub(super) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("ids and single fixes are far below 64 KiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
