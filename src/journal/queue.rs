//! The batches that wait for the disk: bounded in bytes, those being written included.

use std::mem;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::error::AppendError;
use super::writer::Waiting;
use crate::model::Offset;

pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    max_bytes: usize,
}

/// What the writer is to do, in this order.
#[derive(Default)]
pub(super) struct Work {
    /// To be put on disk.
    pub(super) batches: Vec<Waiting>,
    /// To be told where the segment begins that holds none of the batches, nor any before them.
    pub(super) rolls: Vec<oneshot::Sender<Offset>>,
}

#[derive(Default)]
struct State {
    waiting: Work,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), max_bytes }
    }

    /// Whether a batch of `bytes` may come in now.
    pub(super) fn admits(&self, bytes: usize) -> Result<(), AppendError> {
        self.state.lock().admits(bytes, self.max_bytes)
    }

    pub(super) fn push(&self, batch: Waiting) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        state.admits(batch.bytes.len(), self.max_bytes)?;
        state.bytes += batch.bytes.len();
        state.waiting.batches.push(batch);
        self.arrived.notify_one();
        Ok(())
    }

    pub(super) fn push_roll(&self, answer: oneshot::Sender<Offset>) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(AppendError::Closed);
        }
        state.waiting.rolls.push(answer);
        self.arrived.notify_one();
        Ok(())
    }

    /// Everything that waits, as soon as there is anything; nothing once `patience` is over; `None` when closed and
    /// empty.
    pub(super) fn take(&self, patience: Option<Duration>) -> Option<Work> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.is_closed {
            match patience {
                None => self.arrived.wait(&mut state),
                Some(patience) => {
                    if self.arrived.wait_for(&mut state, patience).timed_out() {
                        break;
                    }
                }
            }
        }
        let is_over = state.is_closed && state.waiting.is_empty();
        (!is_over).then(|| mem::take(&mut state.waiting))
    }

    /// A batch of `bytes` was answered.
    pub(super) fn release(&self, bytes: usize) {
        self.state.lock().bytes -= bytes;
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.arrived.notify_all();
    }

    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.rolls.is_empty()
    }
}

impl State {
    fn admits(&self, bytes: usize, max_bytes: usize) -> Result<(), AppendError> {
        if self.is_closed {
            Err(AppendError::Closed)
        } else if self.bytes > 0 && self.bytes + bytes > max_bytes {
            Err(AppendError::Overloaded)
        } else {
            Ok(())
        }
    }
}
