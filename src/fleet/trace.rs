//! Reads a recorded trace, a row at a time: CSV with a header or NDJSON, plain or packed with gzip or zstd. What it is
//! shows in its first bytes; names do not matter.
//!
//! A row becomes the JSON of a point, its values as they were written: judging them is the service's business. Only
//! what cannot be read as a row at all is an error, and it names the line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::model::Timestamp;

/// A longer line is no point.
const MAX_LINE_BYTES: u64 = 1 << 20;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const REQUIRED_COLUMNS: [&str; 4] = ["driver_id", "ts", "lat", "lon"];
const OPTIONAL_COLUMNS: [&str; 3] = ["speed_mps", "heading_deg", "accuracy_m"];

/// Why a trace cannot be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be had.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A line is no row.
    #[error("{}: line {line}: {reason}", file.display())]
    Line {
        /// Which file.
        file: PathBuf,
        /// From 1.
        line: u64,
        /// Why.
        reason: String,
    },
}

/// A point as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    json: String,
    stamp: Option<Stamp>,
}

/// A `ts` that can be read, and where in the row it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    ts: Timestamp,
    place: Range<usize>,
    quoted: bool,
}

impl Row {
    /// `None` if `json` is not JSON.
    fn from_json(json: String) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stamped<'a> {
            #[serde(borrow)]
            ts: Option<&'a RawValue>,
        }
        let object = if json.starts_with('{') { serde_json::from_str::<Stamped<'_>>(&json).ok() } else { None };
        let stamp = match object {
            Some(object) => object.ts.and_then(|raw| Stamp::read(raw.get(), &json)),
            None => serde_json::from_str::<&RawValue>(&json).ok().map(|_| None)?,
        };
        Some(Self { json, stamp })
    }

    /// When it was recorded, if that can be read.
    pub fn ts(&self) -> Option<Timestamp> {
        self.stamp.as_ref().map(|stamp| stamp.ts)
    }

    /// The point as JSON, without a line break.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The same point, `ms` later. A `ts` that cannot be read stays as it is.
    #[must_use]
    pub fn later(mut self, ms: i64) -> Self {
        if let Some(Stamp { ts, place, quoted }) = &mut self.stamp {
            *ts = ts.plus_ms(ms);
            let text = if *quoted { format!("\"{ts}\"") } else { ts.as_ms().to_string() };
            self.json.replace_range(place.clone(), &text);
            place.end = place.start + text.len();
        }
        self
    }
}

impl Stamp {
    /// `raw` is a part of `json`.
    fn read(raw: &str, json: &str) -> Option<Self> {
        let start = raw.as_ptr() as usize - json.as_ptr() as usize;
        let place = start..start + raw.len();
        if let Ok(ms) = raw.parse() {
            return Some(Self { ts: Timestamp::from_ms(ms), place, quoted: false });
        }
        let text: String = serde_json::from_str(raw).ok()?;
        Some(Self { ts: Timestamp::parse_rfc3339(&text).ok()?, place, quoted: true })
    }
}

/// The rows of a file.
pub struct Trace {
    file: PathBuf,
    rows: Rows,
    bytes_read: Arc<AtomicU64>,
}

enum Rows {
    Csv { records: Box<csv::StringRecordsIntoIter<Input>>, columns: Vec<Option<&'static str>> },
    Ndjson { input: Input, line: u64 },
}

type Input = BufReader<Box<dyn Read + Send>>;

impl Trace {
    /// Opens `file` and reads as much as it takes to know what it is.
    pub fn open(file: &Path) -> Result<Self, TraceError> {
        let failed = |reason| TraceError::File { file: file.to_owned(), reason };
        let bytes_read = Arc::new(AtomicU64::new(0));
        let counted = Counted { file: File::open(file).map_err(failed)?, bytes_read: Arc::clone(&bytes_read) };
        let mut packed = BufReader::with_capacity(1 << 16, counted);
        let magic = packed.fill_buf().map_err(failed)?;
        let plain: Box<dyn Read + Send> = if magic.starts_with(GZIP_MAGIC) {
            Box::new(MultiGzDecoder::new(packed))
        } else if magic.starts_with(ZSTD_MAGIC) {
            Box::new(zstd::Decoder::with_buffer(packed).map_err(failed)?)
        } else {
            Box::new(packed)
        };
        let mut input = BufReader::with_capacity(1 << 16, plain);
        let head = input.fill_buf().map_err(failed)?;
        let is_json = head.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['));
        let rows = if is_json { Rows::Ndjson { input, line: 0 } } else { open_csv(file, input)? };
        Ok(Self { file: file.to_owned(), rows, bytes_read })
    }

    /// Bytes of the file that were read so far, counted as they lie on disk.
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_read)
    }

    /// The newest `ts` of all that can be read: reads to the end.
    pub fn newest(self) -> Result<Option<Timestamp>, TraceError> {
        self.map(|row| Ok(row?.ts())).try_fold(None, |newest, ts| Ok(newest.max(ts?)))
    }
}

fn open_csv(file: &Path, input: Input) -> Result<Rows, TraceError> {
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers().map_err(|error| csv_error(file, &error))?;
    let known = || REQUIRED_COLUMNS.into_iter().chain(OPTIONAL_COLUMNS);
    let columns: Vec<_> = header.iter().map(|name| known().find(|known| *known == name)).collect();
    if let Some(missing) = REQUIRED_COLUMNS.into_iter().find(|name| !columns.contains(&Some(name))) {
        let reason = format!("the header has no column `{missing}`");
        return Err(TraceError::Line { file: file.to_owned(), line: 1, reason });
    }
    Ok(Rows::Csv { records: Box::new(reader.into_records()), columns })
}

fn csv_error(file: &Path, error: &csv::Error) -> TraceError {
    let line = error.position().map_or(1, csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => {
            return TraceError::File {
                file: file.to_owned(),
                reason: io::Error::new(error.kind(), error.to_string()),
            };
        }
        _ => "not CSV".to_owned(),
    };
    TraceError::Line { file: file.to_owned(), line, reason }
}

impl Iterator for Trace {
    type Item = Result<Row, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Rows::Csv { records, columns } => Some(match records.next()? {
                Ok(record) => Ok(Row::from_json(to_json(columns, &record)).expect("what is written here is JSON")),
                Err(error) => Err(csv_error(&self.file, &error)),
            }),
            Rows::Ndjson { input, line } => next_line(input, line, &self.file).transpose(),
        }
    }
}

fn next_line(input: &mut Input, line: &mut u64, file: &Path) -> Result<Option<Row>, TraceError> {
    loop {
        let mut text = Vec::new();
        *line += 1;
        let failed = |reason| TraceError::File { file: file.to_owned(), reason };
        let no_row =
            |reason: &str| TraceError::Line { file: file.to_owned(), line: *line, reason: reason.to_owned() };
        if input.take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text).map_err(failed)? == 0 {
            return Ok(None);
        }
        if text.len() as u64 > MAX_LINE_BYTES {
            return Err(no_row("over 1 MiB long"));
        }
        let text = String::from_utf8(text).map_err(|_| no_row("not UTF-8"))?;
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if !text.is_empty() {
            return Row::from_json(text.to_owned()).map(Some).ok_or_else(|| no_row("not JSON"));
        }
    }
}

/// Empty fields are absent. Numbers go as numbers, what else stands there as a string, for the service to refuse.
fn to_json(columns: &[Option<&'static str>], record: &csv::StringRecord) -> String {
    let mut json = String::with_capacity(160);
    for (column, text) in columns.iter().zip(record) {
        let Some(column) = column.filter(|_| !text.is_empty()) else { continue };
        let is_number = match column {
            "driver_id" => false,
            "ts" => text.parse::<i64>().is_ok(),
            _ => text.parse::<f64>().is_ok_and(f64::is_finite),
        };
        json.push_str(if json.is_empty() { "{\"" } else { ",\"" });
        json.push_str(column);
        json.push_str("\":");
        if is_number { push_number(&mut json, text) } else { json.push_str(&quoted(text)) }
    }
    if json.is_empty() {
        json.push('{');
    }
    json.push('}');
    json
}

/// `+1.5`, `.5` and `007` are numbers, but not in JSON.
fn push_number(json: &mut String, text: &str) {
    if serde_json::from_str::<&RawValue>(text).is_ok() {
        json.push_str(text);
    } else if let Ok(whole) = text.parse::<i64>() {
        json.push_str(&whole.to_string());
    } else {
        json.push_str(&text.parse::<f64>().map(serde_json::Value::from).unwrap_or_default().to_string());
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A file that tells how far it was read.
struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &[u8]) -> Result<Vec<Row>, TraceError> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("trace");
        std::fs::write(&file, content).expect("a file");
        Trace::open(&file)?.collect()
    }

    #[test]
    fn csv_rows_go_as_they_are() {
        let csv = "driver_id,ts,lat,lon,speed_mps,heading_deg,accuracy_m\n\
            7,2026-01-02T03:04:05+01:00,37.50,-122,,,\n\
            a,1767322245000,+1.5,.5,007,1e3,\"x\"\"y\"\n\
            b,soon,NaN,1e999,-1,, 4\n";
        let json: Vec<_> = rows(csv.as_bytes()).expect("rows").iter().map(|row| row.json().to_owned()).collect();
        assert_eq!(
            json,
            [
                r#"{"driver_id":"7","ts":"2026-01-02T03:04:05+01:00","lat":37.50,"lon":-122}"#,
                r#"{"driver_id":"a","ts":1767322245000,"lat":1.5,"lon":0.5,"speed_mps":7,"heading_deg":1e3,"accuracy_m":"x\"y"}"#,
                r#"{"driver_id":"b","ts":"soon","lat":"NaN","lon":"1e999","speed_mps":-1,"accuracy_m":" 4"}"#,
            ]
        );
    }

    #[test]
    fn shifting_touches_only_ts() {
        let ndjson = concat!(
            r#"{"a":{"ts":1},"ts" : 1000 ,"lat":1.10}"#,
            "\r\n\n",
            r#"{"ts":"1970-01-01T01:00:00.9999+01:00","ts2":1}"#,
            "\n",
            r#"{"ts":"never"}"#,
            "\n[1]\n",
            r#"{"lat":1}"#,
        );
        let rows = rows(ndjson.as_bytes()).expect("rows");
        assert_eq!(rows.iter().map(Row::ts).max(), Some(Some(Timestamp::from_ms(1_000))));
        let json: Vec<_> = rows.into_iter().map(|row| row.later(60_000).json).collect();
        assert_eq!(
            json,
            [
                r#"{"a":{"ts":1},"ts" : 61000 ,"lat":1.10}"#,
                r#"{"ts":"1970-01-01T00:01:00.999Z","ts2":1}"#,
                r#"{"ts":"never"}"#,
                "[1]",
                r#"{"lat":1}"#,
            ]
        );
    }

    #[test]
    fn an_unreadable_line_is_named() {
        let endless = vec![b'{'; 1 << 21];
        let cases: [(&[u8], &str); 7] = [
            (b"driver_id,ts,lat\n", "line 1: the header has no column `lon`"),
            (b"", "line 1: the header has no column `driver_id`"),
            (b"driver_id,ts,lat,lon\na,b,1,2\na,b,1\n", "line 3: 3 fields where the header has 4"),
            (b"driver_id,ts,lat,lon\na,\xff,1,2\n", "line 2: not UTF-8"),
            (b"{}\n\n{\"a\":}\n", "line 3: not JSON"),
            (b"{}\n\xff\n", "line 2: not UTF-8"),
            (&endless, "line 1: over 1 MiB long"),
        ];
        for (content, expected) in cases {
            let error = rows(content).expect_err(expected).to_string();
            assert!(error.ends_with(expected), "{error} / {expected}");
        }
        let mut truncated = Vec::new();
        let mut encoder = flate2::read::GzEncoder::new(&b"driver_id,ts,lat,lon\n"[..], flate2::Compression::fast());
        encoder.read_to_end(&mut truncated).expect("gzip");
        truncated.truncate(truncated.len() - 6);
        assert!(matches!(rows(&truncated), Err(TraceError::File { .. })));
    }
}
