//! Driver numbers in the order of their drivers' ids, which is the order every listing pages in: 4 bytes a driver and room
//! to grow. The ids stay where they are; each call is lent them.
//!
//! Never here: an id.

use crate::model::DriverId;

/// A block with more numbers becomes two.
const BLOCK: usize = 512;

/// Numbers, in blocks; no block is empty.
#[derive(Debug, Default)]
pub(super) struct Roster {
    blocks: Vec<Vec<u32>>,
}

impl Roster {
    /// Puts a number in that is not in it. `id_of` lends the id of each that is.
    pub(super) fn insert<'a>(&mut self, number: u32, id: &DriverId, id_of: impl Fn(u32) -> &'a DriverId) {
        let Some((index, place)) = self.place(id, id_of) else {
            self.blocks.push(vec![number]);
            return;
        };
        let block = &mut self.blocks[index];
        block.insert(place, number);
        if block.len() > BLOCK {
            // Ids often come in their order: what grows at its end leaves full blocks behind.
            let at = if place + 1 == block.len() { place } else { block.len() / 2 };
            let rest = block.split_off(at);
            block.shrink_to_fit();
            self.blocks.insert(index + 1, rest);
        }
    }

    /// Takes a number out, whose id `id_of` still lends.
    pub(super) fn remove<'a>(&mut self, number: u32, id: &DriverId, id_of: impl Fn(u32) -> &'a DriverId) {
        let Some((index, place)) = self.place(id, id_of) else { return };
        let block = &mut self.blocks[index];
        if block.get(place) == Some(&number) {
            block.remove(place);
            if block.is_empty() {
                self.blocks.remove(index);
            }
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The numbers of those after `after`, in the order of ids.
    pub(super) fn after<'s, 'a, F: Fn(u32) -> &'a DriverId>(
        &'s self,
        after: Option<&DriverId>,
        id_of: F,
    ) -> impl Iterator<Item = u32> + use<'s, 'a, F> {
        let (index, mut place) = after.and_then(|id| self.place(id, &id_of)).unwrap_or_default();
        let first = self.blocks.get(index).and_then(|block| block.get(place));
        if after.is_some() && first.map(|number| id_of(*number)) == after {
            place += 1;
        }
        self.blocks[index..].iter().flatten().skip(place).copied()
    }

    /// Where an id is, or belongs: in which block, and where in it; `None` while there is no block.
    fn place<'a>(&self, id: &DriverId, id_of: impl Fn(u32) -> &'a DriverId) -> Option<(usize, usize)> {
        let begun = self.blocks.partition_point(|block| id_of(block[0]) <= id);
        let index = begun.saturating_sub(1);
        let block = self.blocks.get(index)?;
        Some((index, block.partition_point(|number| id_of(*number) < id)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn it_is_in_the_order_of_ids_whoever_comes_and_goes() {
        let mut rng = StdRng::seed_from_u64(7);
        let ids: Vec<DriverId> = (0..5_000)
            .map(|number: u32| DriverId::new(&format!("d{}", number.wrapping_mul(0x9E37_79B9))).unwrap())
            .collect();
        let id_of = |number: u32| &ids[number as usize];
        let (mut roster, mut all) = (Roster::default(), BTreeSet::new());
        for round in 0..40_000 {
            let number = rng.random_range(0..ids.len() as u32);
            // It grows, and shrinks to nothing again.
            let joins = rng.random_range(0..40_000) > round;
            let is_new =
                if joins { all.insert((id_of(number), number)) } else { all.remove(&(id_of(number), number)) };
            match (joins, is_new) {
                (true, true) => roster.insert(number, id_of(number), id_of),
                (false, _) => roster.remove(number, id_of(number), id_of),
                (true, false) => {}
            }
            if round % 1_000 == 0 {
                assert!(roster.after(None, id_of).eq(all.iter().map(|(_, number)| *number)));
                let from = id_of(rng.random_range(0..ids.len() as u32));
                let beyond = all.range((Bound::Excluded((from, u32::MAX)), Bound::Unbounded));
                assert!(roster.after(Some(from), id_of).eq(beyond.map(|(_, number)| *number)), "after {from}");
            }
        }
        for (id, number) in std::mem::take(&mut all) {
            roster.remove(number, id, id_of);
        }
        assert!(roster.is_empty());
        assert_eq!(roster.after(None, id_of).next(), None);
    }

    #[test]
    fn who_comes_in_order_leaves_full_blocks() {
        let ids: Vec<DriverId> = (0..10_000).map(|number| DriverId::new(&format!("d{number:05}")).unwrap()).collect();
        let id_of = |number: u32| &ids[number as usize];
        let mut roster = Roster::default();
        for number in 0..10_000 {
            roster.insert(number, id_of(number), id_of);
        }
        assert_eq!(roster.blocks.len(), 10_000_usize.div_ceil(BLOCK));
        assert!(roster.after(None, id_of).eq(0..10_000));
    }
}
