//! Shadow answers: the same question, put to a second store, whose answer nobody is given; what differs is counted.
//!
//! Two stores are fed side by side, never at one instant, and drivers move. So where two answers differ, both stores
//! are asked once more after a while. A row that stayed as it was in both is settled: what was acknowledged before the
//! first look is in both at the second. If the two hold different things there, or one holds nothing, the answers
//! differ in truth. Rows that changed meanwhile tell nothing; an answer of such rows alone is incomparable, and so is
//! one of a store that was not whole all the while.
//!
//! Never here: what an answer holds, in a log or a label. Rows are compared by their hashes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::source::Seen;
use super::{IndexState, QueryError, Source, TrackPage};
use crate::model::DriverId;
use crate::store::{Located, Near, Page, Store};

/// Twice the time that a point may take into every answer.
const SETTLES: Duration = Duration::from_secs(1);
/// Comparisons under way at once; beyond that, none begin.
const AT_ONCE: usize = 16;

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stores say the same, as far as it stood still.
    Equal,
    /// They do not.
    Different,
    /// Everything moved, or one of them was not whole.
    Incomparable,
}

impl Outcome {
    /// Each, once.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Different, Self::Incomparable];

    /// For a metric.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Incomparable => "incomparable",
        }
    }
}

/// An answer as hashes: of what each row is about, and of what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prints {
    rows: BTreeMap<u64, u64>,
    /// There was more than the limit, so that a row may be missing because of another.
    is_cut: bool,
}

/// An answer that can be taken apart.
pub(super) trait Rows {
    fn prints(&self) -> Prints;
}

/// Compares answers in the background. Clones count together.
#[derive(Clone)]
pub(super) struct Shadows {
    room: Arc<Semaphore>,
    tell: Arc<dyn Fn(&'static str, &'static str, Outcome) + Send + Sync>,
}

impl Shadows {
    pub(super) fn new(tell: impl Fn(&'static str, &'static str, Outcome) + Send + Sync + 'static) -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)), tell: Arc::new(tell) }
    }

    /// Begins to compare what `asked` just answered with what `shadow` says, if there is room for that.
    pub(super) fn compare<T, F>(
        &self,
        kind: &'static str,
        answer: &Result<T, QueryError>,
        asked: Arc<Source>,
        shadow: Arc<Source>,
        question: impl Fn(Arc<dyn Store>) -> F + Send + Sync + 'static,
    ) where
        T: Rows + Send + 'static,
        F: Future<Output = Result<Seen<T>, QueryError>> + Send + 'static,
    {
        let Some(first) = prints(answer) else { return };
        let Ok(room) = self.room.clone().try_acquire_owned() else { return };
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let ask = async |source: &Source| match source.ask(question(source.store().clone())).await {
                (answer, IndexState::Complete) => prints(&answer),
                _ => None,
            };
            let beside = ask(&shadow).await;
            let outcome = match beside {
                None => Outcome::Incomparable,
                Some(beside) if beside == first => Outcome::Equal,
                Some(beside) => {
                    tokio::time::sleep(SETTLES).await;
                    match (ask(&asked).await, ask(&shadow).await) {
                        (Some(second), Some(beside_again)) => judge([&first, &second], [&beside, &beside_again]),
                        _ => Outcome::Incomparable,
                    }
                }
            };
            tell(shadow.store().name(), kind, outcome);
            drop(room);
        });
    }
}

/// That nobody was found is an answer too. `None`: no store was asked, or none answered.
fn prints<T: Rows>(answer: &Result<T, QueryError>) -> Option<Prints> {
    match answer {
        Ok(value) => Some(value.prints()),
        Err(QueryError::NotFound) => Some(Prints::default()),
        Err(QueryError::NotFoundYet(_) | QueryError::OutOfRetention | QueryError::Unavailable(_)) => None,
    }
}

/// What two stores said, each twice.
fn judge(one: [&Prints; 2], other: [&Prints; 2]) -> Outcome {
    let all = [one[0], one[1], other[0], other[1]];
    let is_cut = all.iter().any(|prints| prints.is_cut);
    let (mut settled, mut moved, mut displaced) = (0, 0, 0);
    for row in all.iter().flat_map(|prints| prints.rows.keys()) {
        let says = |prints: &Prints| prints.rows.get(row).copied();
        if says(one[0]) != says(one[1]) || says(other[0]) != says(other[1]) {
            moved += 1;
        } else if says(one[1]) == says(other[1]) {
            settled += 1;
        } else if is_cut && (says(one[1]).is_none() || says(other[1]).is_none()) {
            displaced += 1;
        } else {
            return Outcome::Different;
        }
    }
    match (settled, moved, displaced) {
        // Nothing moved that could have pushed a row over the edge of the page.
        (_, 0, 1..) => Outcome::Different,
        (0, 1.., _) => Outcome::Incomparable,
        _ => Outcome::Equal,
    }
}

fn print(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl Rows for u64 {
    fn prints(&self) -> Prints {
        Prints { rows: BTreeMap::from([(0, *self)]), is_cut: false }
    }
}

impl Rows for Located {
    fn prints(&self) -> Prints {
        Prints { rows: BTreeMap::from([(print(&self.driver), print(&self.fix))]), is_cut: false }
    }
}

impl Rows for (Vec<Near>, bool) {
    fn prints(&self) -> Prints {
        let rows = self.0.iter().map(|Near { located, .. }| (print(&located.driver), print(&located.fix)));
        Prints { rows: rows.collect(), is_cut: self.1 }
    }
}

impl Rows for Page<Located> {
    fn prints(&self) -> Prints {
        let rows = self.items.iter().map(|located| (print(&located.driver), print(&located.fix)));
        Prints { rows: rows.collect(), is_cut: self.next.is_some() }
    }
}

impl Rows for Page<DriverId> {
    fn prints(&self) -> Prints {
        Prints { rows: self.items.iter().map(|driver| (print(driver), 0)).collect(), is_cut: self.next.is_some() }
    }
}

impl Rows for TrackPage {
    fn prints(&self) -> Prints {
        let rows = self.fixes.iter().map(|fix| (print(fix.ts), print(fix)));
        Prints { rows: rows.collect(), is_cut: self.next_from.is_some() }
    }
}

impl Rows for BTreeMap<h3o::CellIndex, u64> {
    fn prints(&self) -> Prints {
        Prints { rows: self.iter().map(|(cell, drivers)| (print(cell), *drivers)).collect(), is_cut: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(rows: [(u64, u64); N], is_cut: bool) -> Prints {
        Prints { rows: rows.into(), is_cut }
    }

    #[test]
    fn only_what_stood_still_in_both_tells_a_difference() {
        type Rows<'a> = &'a [(u64, u64)];
        use Outcome::{Different, Equal, Incomparable};
        let whole = |of: Rows| Prints { rows: of.iter().copied().collect(), is_cut: false };
        let cases: [(&str, [Rows; 4], Outcome); 7] = [
            (
                "one moves, another stands",
                [&[(1, 1), (2, 1)], &[(1, 2), (2, 1)], &[(1, 1), (2, 1)], &[(1, 1), (2, 1)]],
                Equal,
            ),
            ("the one there is moves", [&[(1, 1)], &[(1, 2)], &[(1, 2)], &[(1, 2)]], Incomparable),
            ("a lagging store catches up", [&[(1, 2)], &[(1, 2)], &[(1, 1)], &[(1, 2)]], Incomparable),
            ("they hold different things", [&[(1, 2)], &[(1, 2)], &[(1, 1)], &[(1, 1)]], Different),
            ("one holds nothing", [&[(1, 2)], &[(1, 2)], &[], &[]], Different),
            (
                "a difference beside what moves",
                [&[(1, 1), (2, 1)], &[(1, 2), (2, 1)], &[(1, 1)], &[(1, 1)]],
                Different,
            ),
            ("nobody, twice", [&[], &[], &[], &[]], Equal),
        ];
        for (what, [a, b, c, d], outcome) in cases {
            let [a, b, c, d] = [a, b, c, d].map(whole);
            assert_eq!(judge([&a, &b], [&c, &d]), outcome, "{what}");
            assert_eq!(judge([&c, &d], [&a, &b]), outcome, "{what}, the other way round");
        }
    }

    #[test]
    fn what_moves_may_push_another_over_the_edge_of_a_page() {
        let (with, without) = (rows([(1, 1), (2, 1)], true), rows([(1, 1), (3, 1)], true));
        let moved = rows([(1, 1), (3, 2)], true);
        assert_eq!(judge([&with, &with], [&without, &moved]), Outcome::Equal);
        assert_eq!(judge([&with, &with], [&without, &without]), Outcome::Different);
    }
}
