//! What a track was seen to hold of a driver's part of a batch that may have come before.
//!
//! Tracks may be long, and whoever writes one while it is read makes the reading of all that were read with it have been in
//! vain (`link` says why). So what was seen is remembered: the next look reads only what was appended since. Else a
//! repetition might never get on beside others who write to the same long tracks.
//!
//! A track only grows, or goes and begins anew. It is known again by its first bytes and by the last that were read; one
//! that is not is taken to hold nothing: a fix that comes twice costs memory alone. One that went, and by now begins alike
//! and has the like in that place, is mistaken for the one that was seen; then it is as if it had gone after the write.
//!
//! Never here: commands.

use bytes::Bytes;

use super::fold::Folded;
use crate::store::track_codec;

/// Bytes of a track that count as held: two hours' worth of a fix a second. What lies behind them comes twice.
const BYTES: usize = 128 * 1024;
/// So many of the first: where and when it begins, and how it goes on.
const FIRST: usize = 16;
/// So many of the last: some eight fixes.
const LAST: usize = 64;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Held {
    /// Of each fix of the batch, whether it is there, or a greater one in its place.
    fixes: Vec<bool>,
    /// Bytes that were read.
    read: usize,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Held {
    /// Nothing yet.
    pub(super) fn nothing_of(folded: &Folded<'_>) -> Self {
        Self { fixes: vec![false; folded.fixes().len()], read: 0, first: Vec::new(), last: Vec::new() }
    }

    /// The first and the last byte of each part that is to be read next: where it begins, if that is known, and what may
    /// be new.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let beginning = (self.read > 0).then(|| (0, self.first.len() - 1));
        beginning.into_iter().chain([(self.read - self.last.len(), BYTES - 1)])
    }

    /// Takes in what lies there.
    pub(super) fn take_in(&mut self, folded: &Folded<'_>, parts: &[Bytes]) {
        let Some((bytes, beginning)) = parts.split_last() else { return };
        let new = if beginning.concat() == self.first { bytes.strip_prefix(&*self.last) } else { None };
        let Some(new) = new else {
            *self = Self::nothing_of(folded);
            return;
        };
        // What cannot be read any more does not count as held.
        for fix in track_codec::decoder(folded.hour, new).map_while(Result::ok) {
            if let Ok(at) = folded.fixes().binary_search_by_key(&fix.ts, |own| own.ts) {
                self.fixes[at] |= fix >= folded.fixes()[at];
            }
        }
        if self.read == 0 {
            self.first = new[..new.len().min(FIRST)].to_vec();
        }
        self.read += new.len();
        self.last = bytes[bytes.len().saturating_sub(LAST)..].to_vec();
    }

    /// What is not there, as one chunk; nothing if all is.
    pub(super) fn missing(&self, folded: &Folded<'_>) -> Vec<u8> {
        let missing = folded.fixes().iter().zip(&self.fixes).filter(|(_, is_held)| !**is_held);
        let mut chunk = Vec::new();
        track_codec::encode_chunk(folded.hour, missing.map(|(fix, _)| fix), &mut chunk);
        chunk
    }
}
