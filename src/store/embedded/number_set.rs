//! Which drivers reported in an hour: a bit for each driver number. 6,000 drivers take 750 bytes.

/// A set of driver numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct NumberSet {
    words: Vec<u64>,
}

impl NumberSet {
    pub(super) fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// At most `limit` members from `from` up, in order.
    pub(super) fn from(&self, from: u32, limit: usize) -> Vec<u32> {
        let beyond = u32::try_from(self.words.len() * 64).unwrap_or(u32::MAX);
        (from..beyond).filter(|number| self.contains(*number)).take(limit).collect()
    }
}
