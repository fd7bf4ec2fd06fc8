//! A segment file: its header, and finding the frames in it.
//!
//! The header is written twice, one copy behind the other, because without its salt no frame of the segment can be told
//! from garbage.
//!
//! Never here: which segments there are, what a reader does about damage.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::JournalId;
use super::record::{FRAME_LEN, FRAME_MAGIC, Frame, u32_at, u64_at};
use crate::model::{Point, Timestamp};

/// The version this code writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;
/// Where the first frame of a segment begins.
pub(super) const HEADER_LEN: u64 = 2 * COPY_LEN as u64;

const MAGIC: [u8; 8] = *b"geotrail";
const COPY_LEN: usize = 72;
const CHUNK: usize = 1 << 20;
const NEVER: i64 = i64::MIN;

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: JournalId,
    pub(super) base: u64,
    /// The sequence number of its first point.
    pub(super) first_point: u64,
    /// Points with a lower number were acknowledged before it was made. Less than `first_point` after a failed write,
    /// whose numbers are never used again: whoever misses those misses nothing that was promised.
    pub(super) promised: u64,
    pub(super) created: Timestamp,
    /// The newest `ts` the journal had met.
    pub(super) newest: Option<Timestamp>,
    pub(super) salt: u64,
}

/// What the first bytes of a segment turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    Valid(Header),
    /// Of a version not known here.
    Unsupported(u32),
    /// Cut short, or wrong in both copies.
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&VERSION.to_le_bytes());
        for field in [self.id.0, self.base, self.first_point, self.promised] {
            copy.extend_from_slice(&field.to_le_bytes());
        }
        copy.extend_from_slice(&self.created.as_ms().to_le_bytes());
        copy.extend_from_slice(&self.newest.map_or(NEVER, Timestamp::as_ms).to_le_bytes());
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        copy.repeat(2)
    }

    /// Reads the first bytes of the segment named by `base`.
    pub(super) fn decode(bytes: &[u8], base: u64) -> HeaderRead {
        let copies = || bytes.chunks_exact(COPY_LEN).take(2);
        if let Some(header) = copies().find_map(|copy| Self::decode_copy(copy, base)) {
            return HeaderRead::Valid(header);
        }
        // Whatever a later version changes, magic and version stay where they are.
        match bytes.get(..12) {
            Some(start) if start[..8] == MAGIC && u32_at(start, 8) != VERSION => {
                HeaderRead::Unsupported(u32_at(start, 8))
            }
            _ => HeaderRead::Damaged,
        }
    }

    fn decode_copy(copy: &[u8], base: u64) -> Option<Self> {
        let is_whole = copy[..8] == MAGIC
            && u32_at(copy, 8) == VERSION
            && u64_at(copy, 20) == base
            && u32_at(copy, COPY_LEN - 4) == crc32c::crc32c(&copy[..COPY_LEN - 4]);
        let newest = u64_at(copy, 52) as i64;
        is_whole.then(|| Self {
            id: JournalId(u64_at(copy, 12)),
            base,
            first_point: u64_at(copy, 28),
            promised: u64_at(copy, 36),
            created: Timestamp::from_ms(u64_at(copy, 44) as i64),
            newest: (newest != NEVER).then(|| Timestamp::from_ms(newest)),
            salt: u64_at(copy, 60),
        })
    }
}

/// Makes a new file, for the owner alone. One that is already there is an error, never overwritten.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)
}

/// A frame, where it begins, and its points; `None` for the points if they are damaged.
pub(super) type Next = (u64, Frame, Option<Vec<Point>>);

/// A segment being read, through a window of a mebibyte or one record, whichever is larger.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    base: u64,
    header: HeaderRead,
    window: Vec<u8>,
    window_at: u64,
}

impl Segment {
    pub(super) fn open(path: &Path, base: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut segment = Self { file, base, header: HeaderRead::Damaged, window: Vec::new(), window_at: 0 };
        segment.fill(0, HEADER_LEN as usize)?;
        segment.header = Header::decode(&segment.window, base);
        Ok(segment)
    }

    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    pub(super) const fn header(&self) -> HeaderRead {
        self.header
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether another file has taken its name: its records are the same, but for what was erased in them.
    pub(super) fn is_replaced(&self, path: &Path) -> io::Result<bool> {
        match std::fs::metadata(path) {
            Ok(now) => Ok(now.ino() != self.file.metadata()?.ino()),
            // What retention took is read to its end.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets what was read, where it may have been read too early.
    pub(super) fn forget(&mut self) {
        self.window.clear();
    }

    /// The first whole frame that begins at `from` or later and ends at `limit` or earlier, with where it begins; both
    /// count from the beginning of the file. A frame further than `from` means that the bytes between are damaged.
    pub(super) fn find(&mut self, from: u64, limit: u64) -> io::Result<Option<(u64, Frame)>> {
        let HeaderRead::Valid(Header { salt, base, .. }) = self.header else { return Ok(None) };
        let mut at = from.max(HEADER_LEN);
        while at + FRAME_LEN as u64 <= limit {
            let Some(bytes) = self.bytes(at, FRAME_LEN)? else { return Ok(None) };
            if let Some(frame) = Frame::decode(bytes, salt, base + at)
                && at + frame.len() <= limit
            {
                return Ok(Some((at, frame)));
            }
            at += 1;
            at += self.distance_to_magic(at);
        }
        Ok(None)
    }

    /// The payload of the frame that begins at `at`; `None` if the file ends before it does.
    pub(super) fn payload(&mut self, at: u64, frame: &Frame) -> io::Result<Option<&[u8]>> {
        Ok(self.bytes(at, frame.len() as usize)?.map(|bytes| &bytes[FRAME_LEN..]))
    }

    /// The next frame, as found by [`Segment::find`], and what it holds.
    pub(super) fn decode_next(&mut self, from: u64, limit: u64) -> io::Result<Option<Next>> {
        let Some((at, frame)) = self.find(from, limit)? else { return Ok(None) };
        let payload = self.payload(at, &frame)?;
        Ok(payload.map(|payload| (at, frame, frame.decode_points(payload))))
    }

    /// How far from `at` the next magic may be, as far as the window tells.
    fn distance_to_magic(&self, at: u64) -> u64 {
        let seen = self.window.get((at - self.window_at) as usize..).unwrap_or_default();
        let magic = seen.windows(FRAME_MAGIC.len()).position(|bytes| bytes == FRAME_MAGIC);
        magic.unwrap_or((seen.len() + 1).saturating_sub(FRAME_MAGIC.len())) as u64
    }

    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let is_seen = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !is_seen {
            self.fill(at, len.max(CHUNK))?;
        }
        let start = (at - self.window_at) as usize;
        Ok(self.window.get(start..start + len))
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.window_at = at;
        let within_file = self.len()?.saturating_sub(at).min(len as u64) as usize;
        self.window.resize(within_file, 0);
        let mut filled = 0;
        while filled < within_file {
            match self.file.read_at(&mut self.window[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        self.window.truncate(filled);
        Ok(())
    }
}
