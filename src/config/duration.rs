//! Durations as people write them: `90m`, `48h`, `1h30m`, `500ms`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads whole numbers, each with its unit out of `d h m s ms`, the largest first. `None` for anything else, a bare
/// number above all: nobody should guess a unit.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(*unit_ms)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_refuses_guesses() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let good = [("90m", 5_400_000), ("48h", 172_800_000), ("2d", 172_800_000), ("1h30m", 5_400_000)];
        for (text, expected) in good.into_iter().chain([("500ms", 500), ("1m500ms", 60_500), ("0s", 0)]) {
            assert_eq!(parse(text), ms(expected), "{text}");
        }
        for text in ["", "48", "h", "-1h", "1.5h", "1 h", "48H", "1m1h", "1h1h", "1w", "99999999999999999999s", "h1"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("18446744073709551615d"), None);
    }
}
