//! The search for the knee: the highest rate that still holds what is asked of it.
//!
//! Doubling until a rate does not hold, then halving the gap. A rate that did not hold is tried once more, since a shared
//! machine has pauses of its own. Never here: what holding means.

/// So many rates are tried at most, those twice included.
pub(crate) const MOST_STEPS: usize = 20;
/// The knee is known well enough when the rate that does not hold is over the one that does by this factor.
const NEAR_ENOUGH: f64 = 1.1;
/// Below this many requests a second there is nothing to find.
const LEAST_RATE: f64 = 1.0;
/// More requests a second no single generator sends.
const MOST_RATE: f64 = 1_000_000.0;

/// The highest rate that held, beginning with `rate`; `None`: none did. `holds` tries one.
pub(crate) async fn find<E>(rate: f64, mut holds: impl AsyncFnMut(f64) -> Result<bool, E>) -> Result<Option<f64>, E> {
    let (mut held, mut failed) = (None, None);
    let (mut rate, mut steps) = (rate, 0);
    while steps < MOST_STEPS && (LEAST_RATE..=MOST_RATE).contains(&rate) {
        let mut is_held = holds(rate).await?;
        steps += 1;
        if !is_held && steps < MOST_STEPS {
            is_held = holds(rate).await?;
            steps += 1;
        }
        if is_held {
            held = Some(rate);
        } else {
            failed = Some(rate);
        }
        rate = match (held, failed) {
            (Some(held), None) => held * 2.0,
            (None, Some(failed)) => failed / 2.0,
            (Some(held), Some(failed)) if failed / held > NEAR_ENOUGH => f64::midpoint(held, failed),
            _ => break,
        };
    }
    Ok(held)
}
