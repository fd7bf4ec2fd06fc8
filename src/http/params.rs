//! The query string, read strictly: every parameter is known and given once, every number is plain digits.
//!
//! `+` stands for itself, not for a blank: no parameter of ours can hold a blank, and a time such as
//! `2026-11-22T19:58:45+01:00` must survive a client that forgot to escape it.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::problem::Problem;

/// As much of an unknown name as is compared with the known ones.
const COMPARED_BYTES: usize = 64;

/// The parameters of one request, decoded.
#[derive(Debug)]
pub(crate) struct Params<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// Reads a query string that may have the `known` parameters.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut given: Vec<(&'static str, Cow<'a, str>)> = Vec::with_capacity(known.len());
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(name);
            let Some(name) = known.iter().copied().find(|known| decoded.as_deref() == Some(known)) else {
                return Err(Problem::UnknownParameter(nearest(name, known)));
            };
            if given.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::InvalidParameter(name, "be given once"));
            }
            let value = decode(value).ok_or(Problem::InvalidParameter(name, "be percent-encoded UTF-8"))?;
            given.push((name, value));
        }
        Ok(Self(given))
    }

    /// A parameter as text.
    pub(crate) fn text(&self, name: &'static str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| &**value)
    }

    /// A parameter read by `read`; where that gives nothing, the problem says that it `must` be so.
    pub(crate) fn read<T>(
        &self,
        name: &'static str,
        must: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let read = |text| read(text).ok_or(Problem::InvalidParameter(name, must));
        self.text(name).map(read).transpose()
    }

    /// A whole number within a range.
    pub(crate) fn whole(
        &self,
        name: &'static str,
        must: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        self.read(name, must, |text| whole(text).filter(|number| range.contains(number)))
    }

    /// A finite number.
    pub(crate) fn number(&self, name: &'static str, must: &'static str) -> Result<Option<f64>, Problem> {
        self.read(name, must, number)
    }
}

/// Digits alone.
pub(crate) fn whole(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number as JSON writes it: `-12.5`, `1e5`. Not `NaN`, `inf`, `+1`, `.5`, `5.`, hexadecimal, nor beyond an `f64`.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let begins_and_ends = digits.first()?.is_ascii_digit() && digits.last()?.is_ascii_digit();
    let is_plain = digits.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if begins_and_ends && is_plain { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

/// The known name that looks most like `name`.
pub(crate) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let compared = &name[..name.floor_char_boundary(COMPARED_BYTES)];
    known.iter().copied().min_by_key(|known| strsim::damerau_levenshtein(compared, known))
}

/// Undoes percent-encoding; `None` where it is broken or does not end in UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex_digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
        let decoded =
            if byte == b'%' { (hex_digit(rest.next())? * 16 + hex_digit(rest.next())?) as u8 } else { byte };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["lat", "lon", "radius_m", "limit"];

    fn parse(query: &str) -> Result<Params<'_>, Problem> {
        Params::parse(Some(query), KNOWN)
    }

    #[test]
    fn an_unknown_parameter_names_the_nearest() {
        for (query, nearest) in
            [("radus=5", "radius_m"), ("Lat=1", "lat"), ("limits=1", "limit"), ("lat%20=1", "lat")]
        {
            assert!(matches!(parse(query), Err(Problem::UnknownParameter(Some(n))) if n == nearest), "{query}");
        }
        assert!(matches!(Params::parse(Some("x"), &[]), Err(Problem::UnknownParameter(None))));
        let endless = "é".repeat(100_000);
        assert!(matches!(parse(&endless), Err(Problem::UnknownParameter(Some(_)))));
    }

    #[test]
    fn a_parameter_is_given_once() {
        assert!(matches!(parse("lat=1&lon=2&lat=1"), Err(Problem::InvalidParameter("lat", "be given once"))));
    }

    #[test]
    fn escapes_are_undone_and_a_plus_stays() {
        let params = parse("lat=%31%2C5&lon=a+b&&limit").unwrap();
        assert_eq!(params.text("lat"), Some("1,5"));
        assert_eq!(params.text("lon"), Some("a+b"));
        assert_eq!(params.text("limit"), Some(""));
        assert_eq!(params.text("radius_m"), None);
        for broken in ["lat=%", "lat=%3", "lat=%zz", "lat=%+1", "lat=%ff"] {
            assert!(matches!(parse(broken), Err(Problem::InvalidParameter("lat", _))), "{broken}");
        }
    }

    #[test]
    fn a_number_is_plain() {
        for (text, value) in [("0", 0.0), ("-122.4194", -122.419_4), ("1e5", 1e5), ("1.5E-3", 0.001_5), ("-0", 0.0)] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in [
            "", " ", "NaN", "inf", "-inf", "infinity", "1e400", "0x10", "1,5", " 1", "1 ", "+1", ".5", "5.", "-",
            "--1", "1_0", "１", "1e", "e1", "1-1", "1.2.3",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_number_is_digits() {
        assert_eq!(whole("1000"), Some(1000));
        for text in ["", "-1", "+1", "10.5", "1e9", "18446744073709551616", "٣", " 1"] {
            assert_eq!(whole(text), None, "{text}");
        }
        let params = parse("limit=1001").unwrap();
        assert!(matches!(
            params.whole("limit", "be so", &(1..=1000)),
            Err(Problem::InvalidParameter("limit", "be so"))
        ));
    }
}
