//! The stores that answer, in their order: changed while questions are asked, and drawn from by lot.
//!
//! Each has a share of the reads. Where all are whole, the lot decides who is asked. A store that is not whole is asked
//! before one that is only if nobody has a choice: shares move work, never the honesty of an answer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::RngExt as _;

use super::{IndexState, Source};

/// The stores that answer. Clones share them.
#[derive(Clone)]
pub struct Sources(Arc<ArcSwap<Vec<Arc<Source>>>>);

impl Sources {
    /// In the order in which they stand in for each other; there is at least one.
    pub fn new(sources: Vec<Arc<Source>>) -> Self {
        let all = Self(Arc::default());
        all.set(sources);
        all
    }

    /// From now on these answer; there is at least one.
    pub fn set(&self, sources: Vec<Arc<Source>>) {
        assert!(!sources.is_empty(), "somebody has to answer");
        self.0.store(Arc::new(sources));
    }

    /// In the order in which they are to be asked now, beginning with the one that is drawn.
    pub(super) fn drawn(&self) -> Vec<Arc<Source>> {
        let mut sources = Vec::clone(&self.0.load());
        if sources.len() == 1 {
            return sources;
        }
        let lot = draw(sources.iter().map(|source| source.reads_percent()));
        let chosen = lot.map(|number| sources[number].clone());
        let is_chosen = |source: &Arc<Source>| chosen.as_ref().is_some_and(|chosen| Arc::ptr_eq(chosen, source));
        sources.sort_by_cached_key(|source| (source.rank(), !is_chosen(source), source.reads_percent() == 0));
        sources
    }

    /// What an answer would be labelled at this moment.
    pub(super) fn state(&self) -> (Arc<Source>, IndexState) {
        let first = self.drawn().swap_remove(0);
        let state = first.state();
        (first, state)
    }

    /// Who is to be asked the same as `asked` was, if anybody is: by the lot of each.
    pub(super) fn shadow_of(&self, asked: &Arc<Source>) -> Option<Arc<Source>> {
        let is_drawn = |percent: u8| percent > 0 && rand::rng().random_range(0..100) < percent;
        let all = self.0.load();
        let mut others = all.iter().filter(|source| !Arc::ptr_eq(source, asked));
        others.find(|source| is_drawn(source.shadow_percent())).cloned()
    }
}

/// The number of whoever is drawn, each by its share of all shares; `None` if nobody has any.
fn draw(shares: impl Iterator<Item = u8> + Clone) -> Option<usize> {
    let all: u32 = shares.clone().map(u32::from).sum();
    if all == 0 {
        return None;
    }
    let mut lot = rand::rng().random_range(0..all);
    shares.map(u32::from).position(|share| {
        let is_it = lot < share;
        lot = lot.saturating_sub(share);
        is_it
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lot_falls_by_share_and_never_on_who_has_none() {
        assert_eq!(draw([0, 0].into_iter()), None);
        assert_eq!(draw([0, 100, 0].into_iter()), Some(1));
        let mut drawn = [0_u32; 3];
        for _ in 0..10_000 {
            drawn[draw([90, 0, 10].into_iter()).expect("there are shares")] += 1;
        }
        assert_eq!(drawn[1], 0);
        assert!((8_700..9_300).contains(&drawn[0]), "{drawn:?}");
    }
}
