//! Numbers and moments as text, straight from the whole steps they are kept in: no float, no formatter.

use crate::model::Timestamp;

/// The digits of an `i64`, a sign, a point, and the nought before it.
const LONGEST: usize = 24;

/// Writes `steps` of ten to the minus `decimals` as JSON does: as many decimals as there are, at least one.
pub(super) fn write_decimal(steps: i64, mut decimals: usize, out: &mut Vec<u8>) {
    let mut rest = steps.unsigned_abs();
    while decimals > 1 && rest.is_multiple_of(10) {
        rest /= 10;
        decimals -= 1;
    }
    let mut text = [0; LONGEST];
    let mut at = text.len();
    let mut put = |byte| {
        at -= 1;
        text[at] = byte;
    };
    let mut digits = 0;
    while rest > 0 || digits <= decimals {
        if digits == decimals {
            put(b'.');
        }
        put(b'0' + (rest % 10) as u8);
        rest /= 10;
        digits += 1;
    }
    if steps < 0 {
        put(b'-');
    }
    out.extend_from_slice(&text[at..]);
}

/// Writes a moment as the contract does.
pub(super) fn write_moment(ts: Timestamp, out: &mut Vec<u8>) {
    match ts.to_rfc3339() {
        Some(text) => out.extend_from_slice(&text),
        None => out.extend_from_slice(ts.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_decimals_they_need_and_at_least_one() {
        for (steps, decimals, text) in [
            (0, 7, "0.0"),
            (1, 7, "0.0000001"),
            (-1, 7, "-0.0000001"),
            (377_435_600, 7, "37.74356"),
            (-1_800_000_000, 7, "-180.0"),
            (1_234, 2, "12.34"),
            (5, 1, "0.5"),
            (50, 1, "5.0"),
            (100_000, 3, "100.0"),
            (i64::MAX, 3, "9223372036854775.807"),
            (i64::MIN, 3, "-9223372036854775.808"),
        ] {
            let mut out = vec![];
            write_decimal(steps, decimals, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
