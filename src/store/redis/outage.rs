//! What becomes of writes and answers while some primaries of a cluster cannot be asked, and others can.
//!
//! **Writing.** A primary that has been silent for too long is not waited for: what belongs to its shards is left out of
//! batches, and *owed*, from the beginning of the first such batch. As soon as it answers again, or another in its
//! place, an audit tells so, and the journal brings it once more.
//!
//! **Reading.** What such a primary has is left out of answers about many drivers, and the answer *lacks* it. What an
//! answer has is true all the same: a driver of whom the newest fix may lie there is left out.
//!
//! **Coming back.** Whoever connects anew may have lost what it had, so nothing counts as whole until every mark was
//! compared since.
//!
//! Never here: how it is found out that a primary is silent (`link` knows).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Index;
use super::link::{Command, Reply};
use super::shard::Shard;
use crate::model::{Offset, Timestamp};
use crate::store::StoreError;

/// What the store is short of.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Of each shard, from where on the journal was not put in.
    owed: Mutex<BTreeMap<Shard, Offset>>,
    /// How many connections had been made when all marks were last compared.
    compared: AtomicU64,
    omissions: AtomicU64,
}

/// Whether an answer lacks something.
#[derive(Debug, Default)]
pub(super) struct Lacks(AtomicBool);

impl Lacks {
    /// It does.
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error if it does: for who can do without nothing.
    pub(super) fn nothing(&self) -> Result<(), StoreError> {
        let lacks = self.0.load(Ordering::Relaxed);
        if lacks {
            Err(StoreError::Unavailable("a primary that has some of it cannot be asked".into()))
        } else {
            Ok(())
        }
    }
}

impl Outage {
    /// What belongs to `shard` in the journal from `from` on was not put in.
    pub(super) fn owe(&self, shard: Shard, from: Offset) {
        self.owed.lock().entry(shard).and_modify(|owed| *owed = from.min(*owed)).or_insert(from);
    }

    /// From where on anything is owed.
    pub(super) fn owed(&self) -> Option<Offset> {
        self.owed.lock().values().min().copied()
    }

    /// From where on the journal must come again for the shards that are not away any more, which then are owed nothing.
    pub(super) fn collect(&self, is_away: impl Fn(Shard) -> bool) -> Option<Offset> {
        let mut from: Option<Offset> = None;
        self.owed.lock().retain(|shard, owed| {
            let stays = is_away(*shard);
            if !stays {
                from = Some(from.map_or(*owed, |from| from.min(*owed)));
            }
            stays
        });
        from
    }

    /// Drops what ended before `cutoff`: nobody misses it.
    pub(super) fn forget_before(&self, cutoff: Timestamp) {
        self.owed.lock().retain(|shard, _| shard.hour().end() >= cutoff);
    }

    /// Nothing is owed: what follows is told from where the journal must be applied.
    pub(super) fn reset(&self) {
        self.owed.lock().clear();
    }

    /// All marks were compared after so many connections had been made.
    pub(super) fn compared(&self, arrivals: u64) {
        self.compared.store(arrivals, Ordering::Release);
    }

    /// Something was left out of an answer.
    pub(super) fn omitted(&self) {
        self.omissions.fetch_add(1, Ordering::Release);
    }

    pub(super) fn omissions(&self) -> u64 {
        self.omissions.load(Ordering::Acquire)
    }
}

impl Index {
    /// Whether what is in `shard` cannot be asked, and is not waited for.
    pub(super) fn is_away(&self, shard: Shard) -> bool {
        self.link.outage().is_some() && self.link.is_away(&self.keys.marks(shard))
    }

    /// Whether somebody connected since all marks were compared, when so many connections had been made.
    pub(super) fn has_arrivals(&self, arrivals: u64) -> bool {
        self.link.is_cluster() && self.outage.compared.load(Ordering::Acquire) != arrivals
    }

    /// Whether answers may be less than everything.
    pub(super) fn is_partial(&self) -> bool {
        self.link.outage().is_some() || self.outage.owed().is_some() || self.has_arrivals(self.link.arrivals())
    }

    /// Sends commands, and notes in `lacks` if some are not answered: they have no reply.
    pub(super) async fn replies(
        &self,
        commands: Vec<Command>,
        lacks: &Lacks,
    ) -> Result<Vec<Option<Reply>>, StoreError> {
        let replies = self.link.each(commands).await.into_iter();
        replies.map(|reply| self.or_lacking(reply, lacks)).collect()
    }

    /// Notes in `lacks` if a reply is wanting that others of the cluster can do without.
    pub(super) fn or_lacking(
        &self,
        reply: Result<Reply, StoreError>,
        lacks: &Lacks,
    ) -> Result<Option<Reply>, StoreError> {
        match reply {
            Err(StoreError::Unavailable(_)) if self.link.is_cluster() => {
                lacks.note();
                Ok(None)
            }
            reply => reply.map(Some),
        }
    }

    /// An answer that lacks something is counted. If it has nothing besides, there is none.
    pub(super) fn given<T>(&self, answer: T, is_empty: bool, lacks: &Lacks) -> Result<T, StoreError> {
        if let Err(lacking) = lacks.nothing() {
            if is_empty {
                return Err(lacking);
            }
            self.outage.omitted();
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hour;

    #[test]
    fn what_is_owed_is_collected_shard_by_shard_from_its_beginning() {
        let outage = Outage::default();
        let [old, new] = [1, 2].map(|hour| Shard::whole(Hour::from_number(hour)));
        for (shard, from) in [(new, 7), (old, 5), (old, 9), (new, 8)] {
            outage.owe(shard, Offset::new(from));
        }
        assert_eq!(outage.owed(), Some(Offset::new(5)));
        assert_eq!(outage.collect(|_| true), None);
        assert_eq!(outage.collect(|shard| shard == old), Some(Offset::new(7)));
        assert_eq!((outage.owed(), outage.collect(|shard| shard == old)), (Some(Offset::new(5)), None));
        outage.forget_before(Hour::from_number(2).start().plus_ms(1));
        assert_eq!(outage.owed(), None);
    }
}
