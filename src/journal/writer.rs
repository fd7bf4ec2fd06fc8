//! The one thread that writes.
//!
//! It takes everything that waits, writes it with one call, syncs it with one call, and only then answers everybody:
//! the more arrive while the disk is busy, the more share the next sync. Where small batches were seen to come together it
//! lets more of them gather first, for a sync and all that follows it cost the same for one as for many; who is alone never
//! waits.
//!
//! After a failed write or sync nobody can say what is on disk; a second sync of the same file may succeed without the
//! lost bytes. So all who waited are told, the segment is never written again, its offsets and sequence numbers are
//! never used again, and nothing is acknowledged until a fresh segment is on disk. While that cannot be made, every
//! append fails at once, and the thread tries again each second by itself: nobody sends to an instance that says it is
//! not ready, so waiting for the next append could be for ever.
//!
//! Never here: encoding of points (the callers' own threads did it), reading.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use tokio::sync::oneshot;

use super::error::AppendError;
use super::files::sync_dir;
use super::queue::Work;
use super::record::{FRAME_LEN, Frame};
use super::recovery::Resume;
use super::retention::{Known, Sealed};
use super::segment::{HEADER_LEN, Header, create};
use super::{Committed, Shared};
use crate::model::{Offset, Timestamp};

const RETRY: Duration = Duration::from_secs(1);
/// How long batches that come together gather.
const GATHER: Duration = Duration::from_millis(1);
/// Together they are small if they are no more than this: of larger ones the sync is the least cost.
const SMALL_BYTES: usize = 64 << 10;
/// Room a fresh segment must find, so that a full disk is noticed here and not by the next batch.
const RESERVE_BYTES: u64 = 256 << 10;

/// An encoded batch on its way to the disk. Its first [`FRAME_LEN`] bytes are for the header.
pub(super) struct Waiting {
    pub(super) bytes: Vec<u8>,
    /// All but the sequence number, which only the writer knows.
    pub(super) frame: Frame,
    pub(super) answer: oneshot::Sender<Result<Offset, AppendError>>,
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_base: u64,
    next_point: u64,
    promised: u64,
    newest: Option<Timestamp>,
    /// The last moment anybody told; creation times need no better.
    now: Timestamp,
    tried: Option<Instant>,
    /// Segments without a record. Only their headers matter, and only until the next one is on disk.
    empty: Vec<u64>,
    /// What was last taken was several small batches.
    gathers: bool,
    buffer: Vec<u8>,
}

struct Active {
    file: File,
    base: u64,
    len: u64,
    salt: u64,
    created: Timestamp,
    newest: Option<Timestamp>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, resume: &Resume, newest: Option<Timestamp>, now: Timestamp) -> Self {
        let mut writer = Self {
            shared,
            active: None,
            next_base: resume.next_base,
            next_point: resume.next_point,
            promised: resume.promised,
            newest,
            now,
            tried: None,
            empty: resume.empty.clone(),
            gathers: false,
            buffer: Vec::new(),
        };
        writer.open_segment();
        writer
    }

    /// Until the journal is closed and everything that waited is answered.
    pub(super) fn run(mut self) {
        let _closed = CloseOnExit(Arc::clone(&self.shared));
        loop {
            self.open_segment();
            if self.gathers {
                thread::sleep(GATHER);
            }
            let patience = self.active.is_none().then_some(RETRY);
            let Some(Work { batches, rolls }) = self.shared.queue.take(patience) else { break };
            let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
            self.gathers = batches.len() > 1 && bytes <= SMALL_BYTES;
            self.commit(batches);
            if !rolls.is_empty() {
                let next = self.roll();
                for answer in rolls {
                    // Whoever no longer waits for the answer does not need it.
                    let _ = answer.send(next);
                }
            }
        }
        self.seal();
    }

    fn commit(&mut self, waiting: Vec<Waiting>) {
        let mut waiting = waiting.into_iter().peekable();
        while let Some(next) = waiting.peek() {
            self.now = next.frame.received;
            self.buffer.clear();
            if self.active.is_some() && !self.has_room_for(next) {
                self.seal();
            }
            self.open_segment();
            if self.active.is_none() {
                for refused in waiting {
                    self.answer(refused, Err(AppendError::Failed));
                }
                return;
            }
            let mut group = Vec::new();
            while let Some(batch) = waiting.next_if(|batch| group.is_empty() || self.has_room_for(batch)) {
                group.push(self.place(batch));
            }
            self.write(group);
        }
    }

    /// Where what comes next is written: a segment without a record.
    fn roll(&mut self) -> Offset {
        if self.active.as_ref().is_some_and(|active| active.len > HEADER_LEN) {
            self.seal();
            self.open_segment();
        }
        Offset::new(self.active.as_ref().map_or(self.next_base, |active| active.base))
    }

    /// Gives a batch its sequence number and its place in the buffer.
    fn place(&mut self, mut batch: Waiting) -> (Waiting, Offset) {
        let active = self.active.as_ref().expect("the caller opened a segment");
        batch.frame.first_point = self.next_point;
        self.next_point += u64::from(batch.frame.points);
        let offset = active.base + active.len + self.buffer.len() as u64;
        batch.bytes[..FRAME_LEN].copy_from_slice(&batch.frame.encode(active.salt, offset));
        self.buffer.extend_from_slice(&batch.bytes);
        let end = Offset::new(offset + batch.frame.len());
        (batch, end)
    }

    fn write(&mut self, group: Vec<(Waiting, Offset)>) {
        let active = self.active.as_mut().expect("the caller opened a segment");
        let written = active.file.write_all_at(&self.buffer, active.len).and_then(|()| {
            self.shared.counters.fsyncs.fetch_add(1, Relaxed);
            active.file.sync_data()
        });
        if let Err(error) = written {
            self.fail(&error, group);
            return;
        }
        active.len += self.buffer.len() as u64;
        self.promised = self.next_point;
        for (batch, _) in &group {
            active.newest = active.newest.max(Some(batch.frame.newest));
        }
        self.newest = self.newest.max(active.newest);
        let end = Offset::new(active.base + active.len);
        self.shared.counters.active_bytes.store(active.len, Relaxed);
        self.shared.counters.batches.fetch_add(group.len() as u64, Relaxed);
        self.shared.committed.send_replace(Committed { end, points: self.promised });
        for (batch, end) in group {
            self.answer(batch, Ok(end));
        }
    }

    fn answer(&self, batch: Waiting, answer: Result<Offset, AppendError>) {
        self.shared.queue.release(batch.bytes.len());
        // Whoever no longer waits for the answer does not need it.
        let _ = batch.answer.send(answer);
    }

    /// Whether `batch` belongs in the active segment, behind what is in the buffer.
    fn has_room_for(&self, batch: &Waiting) -> bool {
        self.active.as_ref().is_some_and(|active| {
            active.len + (self.buffer.len() as u64) < self.shared.segment_bytes
                && !rolls_hour(active.created, batch.frame.received)
        })
    }

    /// Makes a fresh segment if there is none and the last try was not just now.
    fn open_segment(&mut self) {
        if self.active.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return;
        }
        let base = self.next_base;
        let path = self.shared.files.segment(base);
        self.next_base += HEADER_LEN;
        match self.create_segment(base) {
            Ok(active) => {
                self.tried = None;
                self.active = Some(active);
                self.shared.counters.active_bytes.store(HEADER_LEN, Relaxed);
                self.shared.writable.store(true, Relaxed);
                for base in self.empty.drain(..) {
                    // One that stays is read over.
                    let _ = fs::remove_file(self.shared.files.segment(base));
                }
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "no fresh journal segment: appends fail");
                self.shared.writable.store(false, Relaxed);
                self.shared.counters.failures.fetch_add(1, Relaxed);
                self.tried = Some(Instant::now());
                // Without a record it is of no use; left behind, it does no harm.
                let _ = fs::remove_file(path);
            }
        }
    }

    fn create_segment(&self, base: u64) -> io::Result<Active> {
        let salt = rand::random();
        let header = Header {
            id: self.shared.id,
            base,
            first_point: self.next_point,
            promised: self.promised,
            created: self.now,
            newest: self.newest,
            salt,
        };
        let file = create(&self.shared.files.segment(base))?;
        file.write_all_at(&header.encode(), 0)?;
        reserve(&file)?;
        file.sync_all()?;
        sync_dir(self.shared.files.journal_dir())?;
        Ok(Active { file, base, len: HEADER_LEN, salt, created: self.now, newest: None })
    }

    /// Writes no more to the active segment.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        self.next_base = active.base + active.len;
        self.shared.counters.active_bytes.store(0, Relaxed);
        if active.len == HEADER_LEN {
            self.empty.push(active.base);
            return;
        }
        let sealed = Sealed { len: active.len, known: Some(Known { end: self.next_base, newest: active.newest }) };
        self.shared.sealed.lock().insert(active.base, sealed);
        // Gives back what was reserved and not used, and what a failed write left; without it, readers step over that.
        let _ = active.file.set_len(active.len);
    }

    fn fail(&mut self, error: &io::Error, group: Vec<(Waiting, Offset)>) {
        self.shared.writable.store(false, Relaxed);
        self.shared.counters.failures.fetch_add(1, Relaxed);
        tracing::error!(%error, batches = group.len(), "journal write failed: segment closed");
        self.seal();
        self.next_base += self.buffer.len() as u64;
        self.tried = None;
        for (batch, _) in group {
            self.answer(batch, Err(AppendError::Failed));
        }
    }
}

/// Batches that cross the hour together arrive in any order, so one hour back is still at home. A clock that jumped
/// further is not.
fn rolls_hour(created: Timestamp, received: Timestamp) -> bool {
    let hours = received.hour().number() - created.hour().number();
    !(-1..=0).contains(&hours)
}

/// Takes room behind the end of the file, where the file system can do that; its length stays honest.
fn reserve(file: &File) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, RESERVE_BYTES) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// However the thread ends, nobody waits for it in vain.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.writable.store(false, Relaxed);
        self.0.queue.close();
        for batch in self.0.queue.take(None).unwrap_or_default().batches {
            let _ = batch.answer.send(Err(AppendError::Failed));
        }
        self.0.lock.lock().take();
    }
}
