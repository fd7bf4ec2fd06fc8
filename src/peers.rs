//! The other instances on a store: whether what each of them accepted is in it, and what becomes of our answers if not.
//!
//! Every instance says at the store's board, twice a second, how it stands. One that is on its way to be whole makes our
//! answers wait for it: they say `rebuilding`. One that is gone, and whose part the store lost or never got, makes them
//! `partial`, and is named, until it is back, or somebody says that it will not come ([`Peers::dismiss`]), or all it had
//! is out of the retention. One that was whole when it was last seen may have accepted something in its last moments:
//! that is told as well, and does not change answers.
//!
//! Who is known is kept on disk, for the store may lose that too.
//!
//! Never here: how instances reach each other (the store's board), or what this instance itself has put in, other than to
//! say it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::applier::{Progress, Wholeness};
use crate::model::Timestamp;
use crate::store::{Attendance, BOARD_LAPSE, Board, Line, Standing, Store};

/// A peer's points are over when they are out of the retention; clocks may differ by this.
const MARGIN_MS: i64 = 3_600_000;
/// How often what is kept on disk is renewed where only the time has changed.
const NOTE_EVERY_MS: i64 = 60_000;
/// What a line says with which somebody is dismissed.
const DISMISSED: &str = "dismissed";

/// How the others stand, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// What they accepted is in the store, or there are none.
    Whole,
    /// Some of it is on its way; what was received up to this moment is in.
    Behind(Option<Timestamp>),
    /// Some of it is not, and nobody is there to bring it; what was received up to this moment is in.
    Missing(Option<Timestamp>),
}

/// What is known of another instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// When it was last at the board.
    pub seen: Timestamp,
    /// What it said then.
    pub standing: Standing,
    /// It has not been there for longer than [`BOARD_LAPSE`].
    pub is_away: bool,
}

impl Peer {
    /// In a word.
    pub const fn word(&self) -> &'static str {
        match (self.standing, self.is_away) {
            (Standing::Left, _) => "left",
            (Standing::Whole, false) => "whole",
            (Standing::Whole, true) => "silent",
            (Standing::Behind(_), false) => "rebuilding",
            (Standing::Behind(_), true) => "missing",
            (Standing::Lacking(_), _) => "lacking",
        }
    }

    /// What it makes of answers.
    fn makes(&self) -> Others {
        match (self.standing, self.is_away) {
            (Standing::Whole | Standing::Left, _) => Others::Whole,
            (Standing::Behind(as_of), false) => Others::Behind(as_of),
            (Standing::Behind(as_of), true) => Others::Missing(Some(as_of.unwrap_or(self.seen))),
            (Standing::Lacking(as_of), _) => Others::Missing(as_of),
        }
    }
}

/// Keeps on disk what it is given. Blocking.
type Note = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// The other instances on one store.
pub struct Peers {
    own: String,
    retention: Duration,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    state: Mutex<State>,
    note: Box<Note>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<String, Peer>,
    dismissed: Vec<Line>,
    /// How many losses there had been when the board was last visited; `None` before that.
    heard_at: Option<u64>,
    /// What all of them make of answers.
    others: Option<Others>,
    noted: String,
    noted_at: Option<Timestamp>,
}

impl Peers {
    /// Of the instance `own` on `store`, which it feeds as far as `progress` says. `noted` is what `note` was last given.
    pub fn new(
        own: String,
        store: Arc<dyn Store>,
        progress: Arc<Progress>,
        retention: Duration,
        noted: &str,
        note: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let known = noted.lines().filter_map(read).collect();
        let state = Mutex::new(State { known, ..State::default() });
        Self { own, retention, store, progress, state, note: Box::new(note) }
    }

    /// What this instance has to say of itself.
    pub fn standing(&self) -> Standing {
        match self.progress.wholeness() {
            _ if self.store.is_partial() => Standing::Behind(None),
            Wholeness::Whole => Standing::Whole,
            Wholeness::Behind(as_of) => Standing::Behind(as_of),
            Wholeness::Lacking(as_of) => Standing::Lacking(as_of),
        }
    }

    /// Losses so far: to be asked before a visit.
    pub fn losses(&self) -> u64 {
        self.progress.losses()
    }

    /// What should stand on the board of who was dismissed.
    pub fn lines(&self) -> Vec<Line> {
        self.state.lock().dismissed.clone()
    }

    /// There is no board: nobody else uses the store.
    pub fn alone(&self) {
        let mut state = self.state.lock();
        (state.heard_at, state.others) = (Some(0), Some(Others::Whole));
    }

    /// What was read off the board, on a visit that began after so many `losses`. Returns what is to be kept on disk, if
    /// that changed, for [`Peers::keep`].
    pub fn heard(&self, board: &Board, losses: u64, now: Timestamp) -> Option<String> {
        let mut state = self.state.lock();
        for peer in state.known.values_mut() {
            peer.standing = Standing::Behind(None);
        }
        for Attendance { instance, ago, standing } in board.roll.iter().filter(|said| said.instance != self.own) {
            let seen = now.plus_ms(-millis(*ago));
            state.known.insert(instance.clone(), Peer { seen, standing: *standing, is_away: false });
        }
        state.dismissed = board.lines.iter().filter(|line| dismissed(line).is_some()).cloned().collect();
        let State { known, dismissed: lines, .. } = &mut *state;
        let oldest = now.plus_ms(-millis(self.retention) - MARGIN_MS);
        let is_dismissed =
            |id: &str, seen: Timestamp| lines.iter().any(|line| dismissed(line) == Some(id) && line.at >= seen);
        known.retain(|id, peer| peer.seen >= oldest && !is_dismissed(id, peer.seen));
        for peer in known.values_mut() {
            peer.is_away = now.ms_since(peer.seen) > millis(BOARD_LAPSE);
        }
        state.heard_at = Some(losses);
        state.others = Some(all(state.known.values()));
        state.note_anew(now)
    }

    /// Keeps what [`Peers::heard`] gave. Blocking.
    pub fn keep(&self, text: &str) -> io::Result<()> {
        (self.note)(text)
    }

    /// How all of them stand, when there were so many `losses`.
    pub fn others(&self, losses: u64) -> Others {
        let state = self.state.lock();
        match state.others {
            // Whoever lost something does not know yet what the others lost.
            Some(_) if state.heard_at != Some(losses) && !state.known.is_empty() => Others::Behind(None),
            Some(others) => others,
            None => Others::Behind(None),
        }
    }

    /// All that are known.
    pub fn list(&self) -> BTreeMap<String, Peer> {
        self.state.lock().known.clone()
    }

    /// This instance will not come back: nobody waits for it any more. False if it is not known, or is there.
    pub fn dismiss(&self, instance: &str, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        if !state.known.get(instance).is_some_and(|peer| peer.is_away) {
            return false;
        }
        state.known.remove(instance);
        state.dismissed.push(Line { text: format!("{DISMISSED} {instance}"), at: now });
        state.others = state.others.map(|_| all(state.known.values()));
        true
    }

    /// In words for an operator, who is not there and may be missed; `None` if nobody.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        let words: Vec<String> = state
            .known
            .iter()
            .filter_map(|(id, peer)| {
                let what = match peer.word() {
                    "missing" => "what it accepted is missing",
                    "silent" => "what it accepted in its last moments may be missing",
                    _ => return None,
                };
                Some(format!("instance {id} is away since {}: {what}", peer.seen))
            })
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl State {
    /// What is to be kept on disk, if it has changed.
    fn note_anew(&mut self, now: Timestamp) -> Option<String> {
        let lines: Vec<String> = self.known.iter().map(|(id, peer)| format!("{id} {}", peer.seen.as_ms())).collect();
        let text = lines.join("\n");
        let ids = |text: &str| text.lines().filter_map(read).map(|(id, _)| id).collect::<Vec<_>>();
        let is_due = self.noted_at.is_none_or(|at| now.ms_since(at) >= NOTE_EVERY_MS);
        if ids(&self.noted) == ids(&text) && !(is_due && self.noted != text) {
            return None;
        }
        (self.noted, self.noted_at) = (text.clone(), Some(now));
        Some(text)
    }
}

/// What several make of answers: the worst, and the earliest moment.
fn all<'a>(peers: impl Iterator<Item = &'a Peer>) -> Others {
    peers.map(Peer::makes).fold(Others::Whole, |all, one| match (all, one) {
        (Others::Missing(a), Others::Missing(b)) => Others::Missing(a.min(b)),
        (Others::Missing(as_of), _) | (_, Others::Missing(as_of)) => Others::Missing(as_of),
        (Others::Behind(a), Others::Behind(b)) => Others::Behind(a.min(b)),
        (Others::Behind(as_of), _) | (_, Others::Behind(as_of)) => Others::Behind(as_of),
        (Others::Whole, Others::Whole) => Others::Whole,
    })
}

/// Who is dismissed by a line of the board, if anybody is.
fn dismissed(line: &Line) -> Option<&str> {
    line.text.strip_prefix(DISMISSED)?.strip_prefix(' ')
}

/// A line of what was noted.
fn read(line: &str) -> Option<(String, Peer)> {
    let (id, seen) = line.split_once(' ')?;
    let seen = Timestamp::from_ms(seen.parse().ok()?);
    Some((id.to_owned(), Peer { seen, standing: Standing::Behind(None), is_away: true }))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
