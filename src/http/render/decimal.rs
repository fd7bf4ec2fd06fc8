//! Numbers and moments as text, straight from the whole steps they are kept in: no float, no formatter.

use crate::model::Timestamp;

/// Writes `steps` of ten to the minus `DECIMALS` as JSON does: as many decimals as there are, at least one.
pub(super) fn write_decimal<const DECIMALS: usize>(steps: i64, out: &mut Vec<u8>) {
    let unit = const { 10_u64.pow(DECIMALS as u32) };
    let steps_abs = steps.unsigned_abs();
    if steps < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(itoa::Buffer::new().format(steps_abs / unit).as_bytes());
    out.push(b'.');
    let (mut digits, mut rest) = ([b'0'; DECIMALS], steps_abs % unit);
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    let noughts = digits[1..].iter().rev().take_while(|digit| **digit == b'0').count();
    out.extend_from_slice(&digits);
    out.truncate(out.len() - noughts);
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
        fn text<const DECIMALS: usize>(steps: i64) -> String {
            let mut out = vec![];
            write_decimal::<DECIMALS>(steps, &mut out);
            String::from_utf8(out).unwrap()
        }
        assert_eq!(text::<7>(0), "0.0");
        assert_eq!(text::<7>(1), "0.0000001");
        assert_eq!(text::<7>(-1), "-0.0000001");
        assert_eq!(text::<7>(377_435_600), "37.74356");
        assert_eq!(text::<7>(-1_800_000_000), "-180.0");
        assert_eq!(text::<2>(1_234), "12.34");
        assert_eq!(text::<1>(5), "0.5");
        assert_eq!(text::<1>(50), "5.0");
        assert_eq!(text::<3>(100_000), "100.0");
        assert_eq!(text::<3>(i64::MAX), "9223372036854775.807");
        assert_eq!(text::<3>(i64::MIN), "-9223372036854775.808");
    }
}
