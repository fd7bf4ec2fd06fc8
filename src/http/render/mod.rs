//! Writing answers: a list as JSON, as a collection of `GeoJSON` features, or a row a line; and how whole it is.
//!
//! Everything is written straight into bytes; no tree of values is built.

mod cells;
mod decimal;
mod rows;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::model::{DriverId, Timestamp};
use crate::query::IndexState;

pub(crate) use cells::CellCount;

/// A row of a list, in its two forms.
pub trait Row {
    /// As an element of a JSON list.
    fn write_json(&self, now: Timestamp, out: &mut Vec<u8>);
    /// As a `GeoJSON` feature.
    fn write_feature(&self, now: Timestamp, out: &mut Vec<u8>);
}

/// What is said of a list beside its rows.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Whether there is more.
    pub(crate) more: More,
    /// From how much it was answered.
    pub(crate) index: IndexState,
}

/// Whether there is more than the rows.
#[derive(Debug)]
pub(crate) enum More {
    /// A page; the next one begins here, if there is one.
    Cursor(Option<String>),
    /// A list that is cut at a limit, or not.
    Truncated(bool),
    /// These are all.
    Nothing,
}

/// A list as one JSON object: `{"drivers":[…],…}`, about one driver if `subject` is given.
pub(crate) fn json<R: Row>(
    member: &str,
    subject: Option<&DriverId>,
    rows: &[R],
    tail: &Tail,
    now: Timestamp,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + rows.len() * 192);
    out.push(b'{');
    if let Some(driver) = subject {
        out.extend_from_slice(b"\"driver_id\":");
        write(&driver.as_str(), &mut out);
        out.push(b',');
    }
    write(&member, &mut out);
    out.push(b':');
    array(rows, &mut out, |row, out| row.write_json(now, out));
    out.push(b'}');
    append(tail, &mut out);
    out
}

/// A list as a `GeoJSON` feature collection, with what is beside the rows as foreign members (RFC 7946, 6.1).
pub(crate) fn feature_collection<R: Row>(rows: &[R], tail: &Tail, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + rows.len() * 256);
    out.extend_from_slice(b"{\"type\":\"FeatureCollection\",\"features\":");
    array(rows, &mut out, |row, out| row.write_feature(now, out));
    out.push(b'}');
    append(tail, &mut out);
    out
}

/// Rows, each as a line of JSON.
pub fn lines<R: Row>(rows: &[R], now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * 192);
    for row in rows {
        row.write_json(now, &mut out);
        out.push(b'\n');
    }
    out
}

/// One row as a JSON object, and how whole the answer is.
pub(crate) fn row(row: &impl Row, index: IndexState, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    row.write_json(now, &mut out);
    append(&Tail { more: More::Nothing, index }, &mut out);
    out
}

/// One thing as a JSON object, and how whole the answer is.
pub(crate) fn object(value: &impl Serialize, index: IndexState) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(value, &mut out);
    append(&Tail { more: More::Nothing, index }, &mut out);
    out
}

fn array<R>(rows: &[R], out: &mut Vec<u8>, write_row: impl Fn(&R, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_row(row, out);
    }
    out.push(b']');
}

/// Adds the members of the tail to the object that `out` ends with, which has some already.
fn append(tail: &Tail, out: &mut Vec<u8>) {
    out.pop();
    let brace = out.len();
    write(tail, out);
    out[brace] = b',';
}

fn write(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("strings and finite numbers always serialize");
}

impl Serialize for Tail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Label {
            state: &'static str,
            as_of: Option<Moment>,
        }
        let mut members = serializer.serialize_map(None)?;
        match &self.more {
            More::Cursor(next) => members.serialize_entry("next_cursor", next)?,
            More::Truncated(truncated) => members.serialize_entry("truncated", truncated)?,
            More::Nothing => {}
        }
        members.serialize_entry("degraded", &self.index.is_degraded())?;
        if self.index.is_degraded() {
            let label = Label { state: self.index.word(), as_of: self.index.as_of().map(Moment) };
            members.serialize_entry("index", &label)?;
        }
        members.end()
    }
}

/// A moment, as the contract writes it.
pub(crate) struct Moment(pub(crate) Timestamp);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver() -> DriverId {
        DriverId::new("d-1").unwrap()
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_ms(0);

    #[test]
    fn a_page_tells_where_it_goes_on() {
        let tail = Tail { more: More::Cursor(Some("abc".into())), index: IndexState::Complete };
        assert_eq!(
            text(json("drivers", None, &[driver(), driver()], &tail, NOW)),
            r#"{"drivers":["d-1","d-1"],"next_cursor":"abc","degraded":false}"#
        );
        let tail = Tail { more: More::Cursor(None), index: IndexState::Complete };
        assert_eq!(
            text(json::<DriverId>("points", Some(&driver()), &[], &tail, NOW)),
            r#"{"driver_id":"d-1","points":[],"next_cursor":null,"degraded":false}"#
        );
    }

    #[test]
    fn what_is_degraded_says_how() {
        #[derive(Serialize)]
        struct Count {
            count: u64,
        }
        let index = IndexState::Fallback { as_of: Some(NOW) };
        let tail = Tail { more: More::Truncated(true), index };
        assert_eq!(
            text(feature_collection(&[driver()], &tail, NOW)),
            concat!(
                r#"{"type":"FeatureCollection","features":[{"type":"Feature","geometry":null,"#,
                r#""properties":{"driver_id":"d-1"}}],"truncated":true,"degraded":true,"#,
                r#""index":{"state":"fallback","as_of":"1970-01-01T00:00:00.000Z"}}"#
            )
        );
        assert_eq!(
            text(object(&Count { count: 3 }, IndexState::Partial { as_of: None })),
            r#"{"count":3,"degraded":true,"index":{"state":"partial","as_of":null}}"#
        );
    }

    #[test]
    fn a_line_is_an_element_of_the_list() {
        assert_eq!(text(lines(&[driver(), driver()], NOW)), "\"d-1\"\n\"d-1\"\n");
    }
}
