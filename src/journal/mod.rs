//! The journal: every accepted point, on disk before anybody is told so. Every store is an index of it and can be made
//! again from it.
//!
//! **What is promised.** [`Journal::append`] returns `Ok` only after the batch is written and `fdatasync` came back,
//! into a file whose name and header were synced before. A batch is one record: all of it is there, or none.
//!
//! **Segments.** The journal is a row of files, each named by the offset at which it begins. A start always begins a
//! new one; so does a full one, and a new hour, so that retention can let go of whole files. Offsets count bytes over
//! all of them and only grow; there may be gaps, and nothing is ever written twice at the same offset.
//!
//! **Numbers.** Each point has a sequence number, without gaps over the whole life of the journal save where a write
//! failed (the next header says how far the promised ones went). They make damage countable: whatever happened to the
//! bytes, the number of the next point that can be read tells how many cannot.
//!
//! **Damage costs what is damaged.** A record's header has a checksum of its own, mixed with a random salt of its
//! segment and its own offset. So a reader that lost its footing finds the next record by searching, and neither bytes
//! of an older file nor bytes sent by a client can pass for one. Damage never keeps a service from starting. A version
//! that is not known does: the files of a newer geotrail are not damage.
//!
//! **One writer.** A thread of its own takes all that waits, writes it at once and syncs it at once. Whoever appends
//! encodes its own batch before that. After a failed write nothing of that segment is believed or written again.
//!
//! **Erasure.** What was accepted of one driver can be taken out for good: `erasures` notes it, `scrub` writes the segments
//! anew with filler where its points were.
//!
//! The format, byte by byte, is in `docs/journal.md`; `tests/fixtures/journal-v1` holds it to that.
//!
//! Never here: HTTP, stores, the meaning of a point, the clock (callers pass moments).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::{collections::BTreeMap, fs, io};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::model::{Offset, Point, Timestamp};
use erasures::Erasures;
use files::Files;
use lock::DirectoryLock;
use queue::Queue;
use record::{FRAME_LEN, Frame, encode_point};
use retention::Sealed;
use writer::{Waiting, Writer};

mod checkpoint;
mod erasures;
mod error;
mod files;
mod lock;
mod options;
mod queue;
mod reach;
mod reader;
mod record;
mod recovery;
mod retention;
mod scrub;
mod segment;
mod writer;

pub use checkpoint::{Checkpoint, Note};
pub use erasures::{Erasure, Stage};
pub use error::{AppendError, OpenError};
pub(crate) use files::replace;
pub use options::Options;
pub use reach::Reach;
pub use reader::{Damage, Reader, Record};
pub use recovery::Recovery;
pub use retention::Retained;

/// Encoded, a usual point takes some twenty-five bytes.
const USUAL_POINT_BYTES: usize = 32;

/// Names a journal, and with it the instance that writes it: chosen at random once, for as long as the directory lives.
/// Shown as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId(u64);

impl JournalId {
    fn random() -> Self {
        Self(rand::random())
    }

    /// Reads 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(u64::from_str_radix(text, 16).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A data directory held as its writer would hold it, by somebody who writes nothing to the journal.
#[derive(Debug)]
pub struct Held {
    _lock: DirectoryLock,
}

impl Held {
    /// Takes the directory; an error while another process has it.
    pub fn take(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self { _lock: DirectoryLock::take(&Files::new(dir))? })
    }
}

/// Which journal lies in the data directory `dir`; `None` if there is none, or its name cannot be read.
pub fn id_in(dir: &Path) -> io::Result<Option<JournalId>> {
    Files::new(dir).read_id()
}

/// How much is on disk, synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Behind the last record.
    pub end: Offset,
    /// The sequence number behind the last point: points over the life of the journal, and numbers that failed writes
    /// used up.
    pub points: u64,
}

/// Figures for metrics; the counts are since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Encoded bytes that wait for the disk, those being written included.
    pub waiting_bytes: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Syncs of batches; fewer than batches where they shared one.
    pub fsyncs: u64,
    /// Failed writes, syncs, and tries to make a segment.
    pub failures: u64,
    /// The most that any one reader found lost and damaged.
    pub damage: Damage,
}

/// A handle on an open journal; clones share it. When the last is dropped, the journal closes as by
/// [`Journal::shutdown`].
#[derive(Clone)]
pub struct Journal(Arc<Open>);

struct Open {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles, the writer and the live readers share.
pub(in crate::journal) struct Shared {
    id: JournalId,
    files: Files,
    segment_bytes: u64,
    queue: Queue,
    writable: AtomicBool,
    committed: watch::Sender<Committed>,
    sealed: Mutex<BTreeMap<u64, Sealed>>,
    erasures: Erasures,
    retaining: Mutex<()>,
    counters: Counters,
    /// Taken by the writer as it ends, so that the directory is free as soon as nothing is written to it any more.
    lock: Mutex<Option<DirectoryLock>>,
}

#[derive(Default)]
struct Counters {
    active_bytes: AtomicU64,
    batches: AtomicU64,
    fsyncs: AtomicU64,
    failures: AtomicU64,
    lost_points: AtomicU64,
    damaged_bytes: AtomicU64,
    damage_events: AtomicU64,
}

impl Counters {
    fn met(&self, damage: Damage) {
        self.lost_points.fetch_max(damage.lost_points, Relaxed);
        self.damaged_bytes.fetch_max(damage.damaged_bytes, Relaxed);
        self.damage_events.fetch_max(damage.events, Relaxed);
    }
}

impl Shared {
    fn committed(&self) -> Committed {
        *self.committed.borrow()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("id", &self.id).field("committed", &self.committed()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shared.fmt(f)
    }
}

impl Journal {
    /// Takes the directory, finds where the journal ends, and starts the writer on a fresh segment. A full disk does
    /// not stop it: the journal is then not writable for the time being. Blocking; `now` dates the fresh segment.
    pub fn open(options: Options, now: Timestamp) -> Result<(Self, Recovery), OpenError> {
        let Options { dir, segment_bytes, max_waiting_bytes } = options;
        let files = Files::new(&dir);
        files.create().map_err(OpenError::at(files.journal_dir()))?;
        let lock = DirectoryLock::take(&files)?;
        let (recovery, resume) = recovery::recover(&files)?;
        if files.read_id().map_err(OpenError::at(&files.id()))?.is_none() {
            files.write_id(resume.id).map_err(OpenError::at(&files.id()))?;
        }
        let erasures = Erasures::load(&files).map_err(OpenError::at(&files.erasures()))?;
        scrub::remove_leftovers(&files).map_err(OpenError::at(files.journal_dir()))?;
        let sealed = sealed(&files, &resume.empty).map_err(OpenError::at(files.journal_dir()))?;
        let shared = Arc::new(Shared {
            id: resume.id,
            files,
            segment_bytes,
            queue: Queue::new(max_waiting_bytes),
            writable: AtomicBool::new(false),
            committed: watch::Sender::new(Committed { end: recovery.end, points: recovery.points }),
            sealed: Mutex::new(sealed),
            erasures,
            retaining: Mutex::new(()),
            counters: Counters::default(),
            lock: Mutex::new(Some(lock)),
        });
        let writer = Writer::new(Arc::clone(&shared), &resume, recovery.newest_ts, now);
        let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run());
        let writer = thread.map_err(OpenError::at(&dir))?;
        Ok((Self(Arc::new(Open { shared, writer: Mutex::new(Some(writer)) })), recovery))
    }

    /// The journal's name, and the instance's.
    pub fn id(&self) -> JournalId {
        self.0.shared.id
    }

    /// Puts a batch on disk, all or nothing, and says where it ends. Once the batch is queued, dropping the future
    /// changes nothing about that. An empty batch is on disk already.
    pub async fn append(&self, points: Vec<Point>, received: Timestamp) -> Result<Offset, AppendError> {
        let shared = &self.0.shared;
        shared.queue.admits(points.len() * USUAL_POINT_BYTES)?;
        let Some(newest) = points.iter().map(|point| point.fix.ts).max() else { return Ok(shared.committed().end) };
        if !self.is_writable() {
            return Err(AppendError::Failed);
        }
        let mut bytes = Vec::with_capacity(FRAME_LEN + points.len() * USUAL_POINT_BYTES);
        bytes.resize(FRAME_LEN, 0);
        for point in &points {
            encode_point(point, received, &mut bytes);
        }
        let payload = &bytes[FRAME_LEN..];
        let frame = Frame {
            payload_len: u32::try_from(payload.len()).expect("a request body is far smaller than 4 GiB"),
            points: points.len() as u32,
            payload_crc: crc32c::crc32c(payload),
            first_point: 0,
            received,
            newest,
        };
        let (answer, answered) = oneshot::channel();
        shared.queue.push(Waiting { bytes, frame, answer })?;
        answered.await.unwrap_or(Err(AppendError::Failed))
    }

    /// Whether appends can succeed now.
    pub fn is_writable(&self) -> bool {
        self.0.shared.writable.load(Relaxed)
    }

    /// How much is on disk; changes after each sync.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.0.shared.committed.subscribe()
    }

    /// Reads what is committed, from `from` on.
    pub fn reader(&self, from: Offset) -> Reader {
        Reader::live(Arc::clone(&self.0.shared), from)
    }

    /// The data directory it lies in.
    pub fn data_dir(&self) -> &Path {
        self.0.shared.files.data_dir()
    }

    /// The checkpoint of a store that follows this journal.
    pub fn checkpoint(&self, store: &str) -> Checkpoint {
        Checkpoint::new(self.0.shared.files.data_dir(), store, self.id())
    }

    /// Removes segments, oldest first, as long as every point in them has `ts < cutoff` and they end at `applied` or
    /// before; never the one being written. Blocking.
    pub fn retain(&self, cutoff: Timestamp, applied: Offset) -> io::Result<Retained> {
        retention::retain(&self.0.shared, cutoff, applied)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        let Shared { counters, sealed, queue, .. } = &*self.0.shared;
        let sealed = sealed.lock();
        let active_bytes = counters.active_bytes.load(Relaxed);
        Stats {
            segments: sealed.len() as u64 + u64::from(active_bytes > 0),
            bytes: sealed.values().map(|sealed| sealed.len).sum::<u64>() + active_bytes,
            waiting_bytes: queue.bytes() as u64,
            batches: counters.batches.load(Relaxed),
            fsyncs: counters.fsyncs.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            damage: Damage {
                lost_points: counters.lost_points.load(Relaxed),
                damaged_bytes: counters.damaged_bytes.load(Relaxed),
                events: counters.damage_events.load(Relaxed),
            },
        }
    }

    /// Takes nothing more, answers all that waits, and lets go of the directory. Blocking; may be called twice.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// [`Journal::shutdown`], for a task.
    pub async fn close(self) {
        let joined = tokio::task::spawn_blocking(move || self.shutdown()).await;
        joined.unwrap_or_else(|error| tracing::error!(%error, "the journal's writer could not be joined"));
    }
}

impl Open {
    fn shutdown(&self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer panicked");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The segments of earlier runs.
fn sealed(files: &Files, empty: &[u64]) -> io::Result<BTreeMap<u64, Sealed>> {
    let with_records = files.segments()?.into_iter().filter(|base| !empty.contains(base));
    let sealed = |base| Ok((base, Sealed { len: fs::metadata(files.segment(base))?.len(), known: None }));
    with_records.map(sealed).collect()
}
