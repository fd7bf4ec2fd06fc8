//! How far the journal is in a store that follows it, for whoever waits for that.
//!
//! Never here: the store, or who feeds it.

use std::time::{Duration, Instant};

use crate::model::Offset;

/// What was left out is remembered for so long: longer than anybody waits to hear that points are in.
const KEPT: Duration = Duration::from_secs(30);

/// How far, and what was left out on the way because a part of the store could not be asked.
#[derive(Debug, Default)]
pub struct Reach {
    end: Offset,
    /// From where to where, and when.
    left_out: Vec<(Offset, Offset, Instant)>,
}

impl Reach {
    /// How far.
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Whether all of the record that ends here is in. One that went in together with what was left out counts as out.
    pub fn covers(&self, end: Offset) -> bool {
        self.end >= end && !self.left_out.iter().any(|(from, to, _)| *from < end && end <= *to)
    }

    /// Goes so far, if that is farther; whether it is.
    pub fn extend(&mut self, end: Offset) -> bool {
        let is_farther = end > self.end;
        self.end = end.max(self.end);
        is_farther
    }

    /// Some of what lies between these is not in. Told before it is reached.
    pub fn leave_out(&mut self, start: Offset, end: Offset) {
        self.left_out.retain(|(.., at)| at.elapsed() <= KEPT);
        self.left_out.push((start, end, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_not_covered_however_far_it_goes() {
        let mut reach = Reach::default();
        reach.leave_out(Offset::new(10), Offset::new(20));
        assert!(reach.extend(Offset::new(30)));
        assert!(!reach.extend(Offset::new(25)));
        for (end, is_covered) in
            [(5, true), (10, true), (15, false), (20, false), (25, true), (30, true), (31, false)]
        {
            assert_eq!(reach.covers(Offset::new(end)), is_covered, "{end}");
        }
    }
}
