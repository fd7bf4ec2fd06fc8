//! From a body to points: every row of the bad-input table that a body alone decides, with its exact answer.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use geotrail::http::points::{
    EnvelopeError, Format, MAX_BODY_BYTES, MAX_POINTS, MAX_UNPACKED_BYTES, Parsed, Rules, parse,
};
use geotrail::model::{Accuracy, Defect, Heading, Point, Speed, Timestamp};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use proptest::prelude::*;

/// 2026-11-22T19:58:45.123Z
const NOW_MS: i64 = 1_795_377_525_123;
const RETENTION_MS: i64 = 48 * 3_600_000;
const RULES: Rules = Rules { now: Timestamp::from_ms(NOW_MS), retention_ms: RETENTION_MS };
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const GOOD: &str = r#"{"driver_id":"good","ts":1795377525000,"lat":52.52,"lon":13.4}"#;

fn headers(content_type: &[&str], content_encoding: &[&str]) -> HeaderMap {
    let value = |value: &&str| HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
    let types = content_type.iter().map(|text| (CONTENT_TYPE, value(text)));
    types.chain(content_encoding.iter().map(|text| (CONTENT_ENCODING, value(text)))).collect()
}

fn post(content_type: &str, content_encoding: &str, body: &[u8]) -> Result<Parsed, EnvelopeError> {
    let encodings: &[&str] = if content_encoding.is_empty() { &[] } else { &[content_encoding] };
    parse(body, Format::from_headers(&headers(&[content_type], encodings))?, &RULES)
}

fn json(body: impl AsRef<[u8]>) -> Result<Parsed, EnvelopeError> {
    post(JSON, "", body.as_ref())
}

fn ndjson(body: impl AsRef<[u8]>) -> Result<Parsed, EnvelopeError> {
    post(NDJSON, "", body.as_ref())
}

/// The code of an envelope's fault, or how many were accepted and rejected.
fn answer(outcome: &Result<Parsed, EnvelopeError>) -> String {
    match outcome {
        Ok(Parsed { points, received, rejected }) => {
            assert_eq!(points.len() + rejected.len(), *received);
            format!("{} accepted, {} rejected", points.len(), rejected.len())
        }
        Err(error) => error.code().into(),
    }
}

/// Judges one element, which must come to the same in every shape of batch, and cost its neighbour nothing.
fn judge(element: &str) -> Result<Result<Point, Defect>, EnvelopeError> {
    let shapes = [
        json(format!("[{element},{GOOD}]")),
        json(format!("{{\"x\":1,\"points\":[{element},{GOOD}]}}")),
        ndjson(format!("{element}\n{GOOD}")),
    ];
    let [first, ..] = shapes.map(|shape| {
        shape.map(|parsed| {
            assert_eq!(parsed.received, 2);
            assert_eq!(parsed.points.last().map(|point| point.driver.as_str()), Some("good"), "{element}");
            match parsed.rejected.first() {
                Some(rejected) => {
                    assert_eq!((rejected.index, parsed.rejected.len()), (0, 1));
                    Err(rejected.defect)
                }
                None => Ok(parsed.points[0].clone()),
            }
        })
    });
    first
}

fn verdict(element: &str) -> &'static str {
    match judge(element) {
        Ok(Ok(_)) => "accepted",
        Ok(Err(defect)) => defect.code(),
        Err(error) => error.code(),
    }
}

/// A good point but for one field, whose JSON is given; empty for none.
fn with(field: &str, value: &str) -> String {
    let fields = [("driver_id", "\"d1\""), ("ts", "1795377525123"), ("lat", "52.52"), ("lon", "13.4")];
    let own = [(field, value)];
    let fields = fields.iter().filter(|(name, _)| *name != field).chain(&own).filter(|(_, value)| !value.is_empty());
    format!("{{{}}}", fields.map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(","))
}

fn accepted(field: &str, value: &str) -> Point {
    let element = with(field, value);
    judge(&element)
        .unwrap_or_else(|error| panic!("{element}: {error}"))
        .unwrap_or_else(|d| panic!("{element}: {d:?}"))
}

fn place(lat: &str, lon: &str) -> String {
    format!(r#"{{"driver_id":"d1","ts":1795377525123,"lat":{lat},"lon":{lon}}}"#)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("in memory");
    encoder.include_checksum(true).expect("a known parameter");
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

#[test]
fn media_types() {
    for (types, encodings, expected) in [
        (&["application/json"] as &[_], &[] as &[&str], Ok(())),
        (&["application/x-ndjson"], &["gzip"], Ok(())),
        (&["Application/JSON; charset=UTF-8"], &[], Ok(())),
        (&["application/json;charset=\"utf-8\""], &["identity"], Ok(())),
        (&["application/json; profile=x"], &["x-GZIP"], Ok(())),
        (&["application/json"], &["zstd"], Ok(())),
        (&[], &[], Err("unsupported_media_type")),
        (&[""], &[], Err("unsupported_media_type")),
        (&["text/plain"], &[], Err("unsupported_media_type")),
        (&["application/xml"], &[], Err("unsupported_media_type")),
        (&["multipart/form-data; boundary=x"], &[], Err("unsupported_media_type")),
        (&["application/jsonx"], &[], Err("unsupported_media_type")),
        (&["application/json; charset=utf-16"], &[], Err("unsupported_media_type")),
        (&["application/json; charset=utf-8; charset=utf-16"], &[], Err("unsupported_media_type")),
        (&["application/json, text/plain"], &[], Err("unsupported_media_type")),
        (&["application/json", "application/json"], &[], Err("unsupported_media_type")),
        (&["application/j\u{f6}son"], &[], Err("unsupported_media_type")),
        (&["text/plain"], &["br"], Err("unsupported_media_type")),
        (&["application/json"], &["br"], Err("unsupported_encoding")),
        (&["application/json"], &["deflate"], Err("unsupported_encoding")),
        (&["application/json"], &["made-up"], Err("unsupported_encoding")),
        (&["application/json"], &["gzip, gzip"], Err("unsupported_encoding")),
        (&["application/json"], &["gzip, zstd"], Err("unsupported_encoding")),
        (&["application/json"], &["gzip", "gzip"], Err("unsupported_encoding")),
        (&["application/json"], &["identity, gzip"], Err("unsupported_encoding")),
    ] {
        let format = Format::from_headers(&headers(types, encodings));
        assert_eq!(format.map(|_| ()).map_err(EnvelopeError::code), expected, "{types:?} {encodings:?}");
    }
}

#[test]
fn packed_bodies() {
    let body = format!("[{GOOD}]");
    let line = format!("{GOOD}\n");
    let wrong_checksum = |mut packed: Vec<u8>, from_end: usize| {
        let at = packed.len() - from_end;
        packed[at] ^= 1;
        packed
    };
    for (coding, pack, checksum_from_end) in
        [("gzip", gzip as fn(&[u8]) -> Vec<u8>, 8), ("x-gzip", gzip, 8), ("zstd", zstd, 1)]
    {
        let packed = pack(body.as_bytes());
        let post = |body: &[u8]| answer(&post(JSON, coding, body));
        assert_eq!(post(&packed), "1 accepted, 0 rejected", "{coding}");
        for cut in 0..packed.len() {
            assert_eq!(post(&packed[..cut]), "malformed_encoding", "{coding} cut at {cut}");
        }
        for garbage in [&b"x"[..], b"garbage garbage garbage", b"\0", body.as_bytes()] {
            assert_eq!(post(&[&packed, garbage].concat()), "malformed_encoding", "{coding} and {garbage:?}");
        }
        assert_eq!(post(&wrong_checksum(packed, checksum_from_end)), "malformed_encoding", "{coding}");
        assert_eq!(post(body.as_bytes()), "malformed_encoding", "{coding} declared, body plain");
        let (half, other) = body.as_bytes().split_at(20);
        assert_eq!(post(&[pack(half), pack(other)].concat()), "1 accepted, 0 rejected", "{coding} joined");
        assert_eq!(answer(&json(pack(body.as_bytes()))), "malformed_json", "{coding} undeclared");
        let lines = [pack(line.as_bytes()), pack(line.as_bytes())].concat();
        assert_eq!(answer(&self::post(NDJSON, coding, &lines)), "2 accepted, 0 rejected");
    }
}

#[test]
fn bombs() {
    let zeros = vec![b' '; 1 << 20];
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    let mut zst = zstd::Encoder::new(Vec::new(), 1).expect("in memory");
    let mut wide = zstd::Encoder::new(Vec::new(), 1).expect("in memory");
    wide.window_log(25).expect("a legal window");
    for _ in 0..128 {
        gz.write_all(&zeros).and_then(|()| zst.write_all(&zeros)).expect("into memory");
    }
    wide.write_all(&zeros).expect("into memory");
    let bombs = [("gzip", gz.finish()), ("zstd", zst.finish()), ("zstd", wide.finish())];
    for (coding, bomb) in bombs {
        assert_eq!(answer(&post(JSON, coding, &bomb.expect("into memory"))), "body_too_large", "{coding}");
    }
}

#[test]
fn sizes() {
    let padded = |len: usize| format!("[{GOOD}{}]", " ".repeat(len - GOOD.len() - 2));
    assert_eq!(answer(&json(padded(MAX_BODY_BYTES))), "1 accepted, 0 rejected");
    assert_eq!(answer(&json(padded(MAX_BODY_BYTES + 1))), "body_too_large");
    for (coding, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let post = |len: usize| answer(&post(JSON, coding, &pack(padded(len).as_bytes())));
        assert_eq!(post(MAX_UNPACKED_BYTES), "1 accepted, 0 rejected", "{coding}");
        assert_eq!(post(MAX_UNPACKED_BYTES + 1), "body_too_large", "{coding}");
    }
    let points = |count: usize| vec![GOOD; count].join("\n");
    let small = |count: usize| vec!["{}"; count].join("\n");
    for (lines, expected) in [
        (points(MAX_POINTS), "10000 accepted, 0 rejected"),
        (points(MAX_POINTS + 1), "batch_too_large"),
        (small(MAX_POINTS), "0 accepted, 10000 rejected"),
        (small(100_000), "batch_too_large"),
        (small(100_000) + "\n{", "malformed_json"),
        (points(MAX_POINTS) + "\n{\"lat\":1,\"lat\":1}", "malformed_json"),
    ] {
        assert_eq!(answer(&ndjson(&lines)), expected);
        assert_eq!(answer(&json(format!("[{}]", lines.replace('\n', ",")))), expected);
        assert_eq!(answer(&post(NDJSON, "zstd", &zstd(lines.as_bytes()))), expected);
    }
}

#[test]
fn empty_batches() {
    for body in ["[]", "{\"points\":[]}", " [ ] ", "{\"a\":[1],\"points\":[]}"] {
        assert_eq!(answer(&json(body)), "empty_batch", "{body}");
    }
    for body in ["", "\n", "\r\n\r\n", " \n\t\r\n", "\n\n\n"] {
        assert_eq!(answer(&ndjson(body)), "empty_batch", "{body:?}");
        assert_eq!(answer(&json(body)), "malformed_json", "{body:?}");
    }
}

#[test]
fn lines() {
    let body = format!("\r\n{GOOD}\r\n\r\n  \n{{}}\n{GOOD}\n\n7\n{GOOD}");
    let parsed = ndjson(body).expect("lines");
    assert_eq!((parsed.received, parsed.points.len()), (5, 3));
    let rejected: Vec<_> = parsed.rejected.iter().map(|rejected| (rejected.index, rejected.defect)).collect();
    assert_eq!(rejected, [(1, Defect::MissingField("driver_id")), (3, Defect::WrongType("point"))]);
    for bad in [
        format!("{GOOD}\nnonsense\n{GOOD}"),
        format!("{GOOD}\n{GOOD}{GOOD}\n"),
        format!("{GOOD},\n{GOOD}\n"),
        format!("\u{feff}{GOOD}\n"),
        format!("{GOOD}\n\u{feff}{GOOD}\n"),
        format!("{GOOD}\r{GOOD}\n"),
        format!("{GOOD}\n\u{a0}\n"),
        format!("{GOOD}\n\u{c}\n"),
        format!("{GOOD}\n{{\n}}"),
        format!("{GOOD}\n{{\"a\":\"\n\"}}"),
    ] {
        assert_eq!(answer(&ndjson(&bad)), "malformed_json", "{bad:?}");
    }
}

#[test]
fn a_batch_cut_short_is_malformed_wherever_it_is_cut() {
    let point = r#"{"driver_id":"d\u00311","ts":"2026-11-22T19:58:45Z","lat":-5.5e0,"lon":13,"tags":["a",null],"x":[{"y":false}]}"#;
    for batch in [format!("[{point},{GOOD}]"), format!("{{\"a\":null,\"points\":[{GOOD},{point}],\"b\":1}}")] {
        assert_eq!(answer(&json(&batch)), "1 accepted, 1 rejected");
        for cut in 0..batch.len() {
            assert_eq!(answer(&json(&batch[..cut])), "malformed_json", "{}", &batch[..cut]);
        }
    }
}

#[test]
fn envelopes_that_are_none() {
    let utf16: Vec<u8> = format!("[{GOOD}]").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(answer(&json(utf16)), "malformed_json");
    for invalid in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        for around in [["[{\"x\":\"", "\"}]"], ["[{\"driver_id\":\"", "\"}]"], ["[{}]", ""]] {
            let body = [around[0].as_bytes(), invalid, around[1].as_bytes()].concat();
            assert_eq!(answer(&json(body)), "malformed_json", "{invalid:?}");
        }
    }
    for body in [
        "\"points\"",
        "1",
        "null",
        "true",
        "{}",
        "{\"points\":null}",
        "{\"points\":{}}",
        "{\"points\":\"[]\"}",
        "{\"Points\":[{}]}",
        GOOD,
        "{\"points\":[{}],\"points\":[{}]}",
        "{\"points\":[{}],\"p\\u006fints\":[{}]}",
        "[{}] x",
        "[{}][{}]",
        "[{}]//",
        "/**/[{}]",
        "[{},]",
        "[,{}]",
        "[{}],",
        "{\"points\":[{}],}",
        "['a']",
        "\u{feff}[{}]",
        "[{}",
        "[{\"a\"}]",
        "[{a:1}]",
        "\0[{}]",
        "[{}]\0",
    ] {
        assert_eq!(answer(&json(body)), "malformed_json", "{body}");
    }
    let extra = format!("{{\"__proto__\":{{\"a\":[]}},\"v\":1,\"v\":2,\"points\":[{GOOD}]}}");
    assert_eq!(answer(&json(extra)), "1 accepted, 0 rejected");
}

/// Whatever is no JSON is none in every field, known or not, and nested.
#[test]
fn values_that_are_no_json() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let values = [
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "-",
        "0x10",
        "1e",
        "1e+",
        "1_0",
        "'a'",
        "nul",
        "1e400",
        "-1e400",
        "1E+999999999",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\u{1}\"",
        "\"\t\"",
        "\"\u{1b}[31m\"",
        "\"",
        "[1,]",
        "{\"a\":1,}",
        "[\"\\ud800\"]",
        "[1e400]",
        "{\"\\ud800\":1}",
        "undefined",
        "True",
    ]
    .map(String::from);
    let long = [
        "9".repeat(100_000),
        format!("-{}", "9".repeat(100_000)),
        nested(128),
        nested(129),
        objects(129),
        nested(100_000),
        objects(100_000),
        "[".repeat(100_000),
    ];
    for value in values.iter().chain(&long) {
        for field in
            ["driver_id", "ts", "lat", "lon", "speed_mps", "heading_deg", "accuracy_m", "tags", "x", "__proto__"]
        {
            let point = with(field, value);
            assert_eq!(verdict(&point), "malformed_json", "{}", &point[..point.len().min(200)]);
        }
        assert_eq!(answer(&json(format!("{{\"x\":{value},\"points\":[{GOOD}]}}"))), "malformed_json");
        assert_eq!(answer(&json(value)), "malformed_json");
    }
    for field in ["driver_id", "ts", "lat", "tags"] {
        let code = if field == "tags" { "tags_invalid" } else { "wrong_type" };
        assert_eq!(verdict(&with(field, &nested(100))), code, "{field}");
    }
}

/// Numbers of megabytes of digits are judged in the time it takes to read them.
#[test]
fn long_numbers_within_range() {
    let decimals = "3".repeat(3_900_000);
    for (field, value, code) in [
        ("lat", format!("0.{decimals}"), "accepted"),
        ("x", format!("0.{decimals}e-5"), "accepted"),
        ("ts", format!("0.{decimals}"), "wrong_type"),
        ("ts", format!("{decimals}e-3900000"), "wrong_type"),
        ("lat", format!("{decimals}e-3900000"), "accepted"),
        ("lat", format!("1{}", "0".repeat(3_900_000)), "malformed_json"),
        ("driver_id", format!("1{}", "0".repeat(3_900_000)), "malformed_json"),
        ("driver_id", "1".repeat(309), "driver_id_invalid"),
        ("ts", "9".repeat(309), "malformed_json"),
    ] {
        let outcome = json(format!("[{}]", with(field, &value)));
        let verdict = match &outcome {
            Ok(parsed) => parsed.rejected.first().map_or("accepted", |rejected| rejected.defect.code()),
            Err(error) => error.code(),
        };
        assert_eq!(verdict, code, "{field}");
    }
}

#[test]
fn elements() {
    for element in ["1", "-1.5", "null", "true", "\"x\"", "[]", "[[{}]]"] {
        assert_eq!(judge(element), Ok(Err(Defect::WrongType("point"))), "{element}");
    }
    for repeated in [
        r#"{"lat":1,"lat":1}"#,
        r#"{"lat":null,"lat":null}"#,
        r#"{"driver_id":"a","lat":1,"driver_id":"a"}"#,
        r#"{"ts":1,"t\u0073":1}"#,
        r#"{"tags":[],"tags":[]}"#,
    ] {
        assert_eq!(verdict(repeated), "malformed_json", "{repeated}");
    }
    for unknown in ["__proto__", "Lat", "altitude", "lat ", "\\u0000", ""] {
        let point = with(unknown, "[{\"lat\":null},-1.5e3,\"\\ud83d\\ude00\",true]");
        assert_eq!(verdict(&point), "accepted", "{point}");
    }
    assert_eq!(verdict(&with("x", "1,\"x\":2")), "accepted");
}

#[test]
fn presence_and_kind() {
    for field in ["driver_id", "ts", "lat", "lon"] {
        let missing = Ok(Err(Defect::MissingField(match field {
            "driver_id" => "driver_id",
            "ts" => "ts",
            "lat" => "lat",
            _ => "lon",
        })));
        assert_eq!(judge(&with(field, "")), missing, "{field}");
        assert_eq!(judge(&with(field, "null")), missing, "{field}");
    }
    for field in ["lat", "lon", "speed_mps", "heading_deg", "accuracy_m"] {
        for value in ["\"52.1\"", "\"\"", "true", "false", "[]", "{}", "[1]", "{\"a\":1}"] {
            assert_eq!(verdict(&with(field, value)), "wrong_type", "{field} {value}");
        }
    }
    for field in ["speed_mps", "heading_deg", "accuracy_m", "tags"] {
        let point = accepted(field, "null");
        assert_eq!(point, accepted("x", "1"), "{field}");
    }
    for value in ["true", "false", "[]", "{}", "1700000000000.5", "1.7e12", "1795377525123.0", "1e20", "-1.0"] {
        assert_eq!(judge(&with("ts", value)), Ok(Err(Defect::WrongType("ts"))), "{value}");
    }
    for value in ["1.5", "true", "{}", "[]", "1.0", "1e3", "1E3", "1e20"] {
        assert_eq!(judge(&with("driver_id", value)), Ok(Err(Defect::WrongType("driver_id"))), "{value}");
    }
}

#[test]
fn places() {
    for (lat, lon, expected) in [
        ("85.05112879", "13.4", "lat_out_of_range"),
        ("85.06", "13.4", "lat_out_of_range"),
        ("90", "13.4", "lat_out_of_range"),
        ("-91", "13.4", "lat_out_of_range"),
        ("1e308", "13.4", "lat_out_of_range"),
        ("52.52", "180.0000001", "lon_out_of_range"),
        ("52.52", "-181", "lon_out_of_range"),
        ("52.52", "1e308", "lon_out_of_range"),
        ("85.05112878", "13.4", "accepted"),
        ("-85.05112878", "13.4", "accepted"),
        ("5e-324", "13.4", "accepted"),
        ("-0.0", "13.4", "accepted"),
        ("0", "0", "null_island"),
        ("-0.0", "0", "null_island"),
        ("0e0", "0.0", "null_island"),
        ("-0", "-0.0", "null_island"),
        ("0", "0.0000001", "accepted"),
        ("5e-324", "0", "accepted"),
        ("52.123456789012345678", "13.400000000000000001", "accepted"),
    ] {
        assert_eq!(verdict(&place(lat, lon)), expected, "{lat} {lon}");
    }
    assert_eq!(judge(&place("52.52", "180")), judge(&place("52.52", "-180")));
    assert_eq!(judge(&place("121.47", "31.23")), Ok(Err(Defect::LatOutOfRange { looks_swapped: true })));
    assert_eq!(judge(&place("91", "0")), Ok(Err(Defect::LatOutOfRange { looks_swapped: false })));
}

#[test]
fn times() {
    let quoted = |text: &str| format!("\"{text}\"");
    let ms = |ms: i64| ms.to_string();
    let too_old = "ts_too_old";
    for (ts, expected) in [
        (ms(NOW_MS / 1_000), too_old),
        (ms(NOW_MS * 1_000), "ts_in_future"),
        (ms(NOW_MS * 1_000_000), "ts_in_future"),
        (ms(i64::MAX), "ts_in_future"),
        (ms(i64::MIN), too_old),
        ("9223372036854775808".into(), "ts_invalid"),
        ("-9223372036854775809".into(), "ts_invalid"),
        ("1".repeat(30), "ts_invalid"),
        (ms(NOW_MS + 119_000), "accepted"),
        (ms(NOW_MS + 120_000), "accepted"),
        (ms(NOW_MS + 121_000), "ts_in_future"),
        (quoted("2099-01-01T00:00:00Z"), "ts_in_future"),
        (quoted("9999-12-31T23:59:59Z"), "ts_in_future"),
        (quoted("2038-01-19T03:14:08Z"), "ts_in_future"),
        (quoted("10000-01-01T00:00:00Z"), "ts_invalid"),
        ("0".into(), too_old),
        ("-0".into(), too_old),
        ("-1".into(), too_old),
        (quoted("1969-07-20T20:17:40Z"), too_old),
        (ms(NOW_MS - 1_024 * 7 * 86_400_000), too_old),
        (ms(NOW_MS - RETENTION_MS + 1_000), "accepted"),
        (ms(NOW_MS - RETENTION_MS), "accepted"),
        (ms(NOW_MS - RETENTION_MS - 1_000), too_old),
        (quoted("24:00"), "ts_invalid"),
        (quoted("2026-11-22T24:00:00Z"), "ts_invalid"),
        (quoted("2026-11-22T19:58:45"), "ts_invalid"),
        (quoted("2026-02-30T00:00:00Z"), "ts_invalid"),
        (quoted("2026-11-22T19:58:45+24:00"), "ts_invalid"),
        (quoted(""), "ts_invalid"),
        (quoted("1700000000000"), "ts_invalid"),
        (quoted("2026-11-22T19:58:60Z"), "ts_invalid"),
        (quoted("2026-11-22 19:58:45Z"), "ts_invalid"),
        (quoted("\\u0000"), "ts_invalid"),
    ] {
        assert_eq!(verdict(&with("ts", &ts)), expected, "{ts}");
    }
    for (ts, at_ms) in [
        ("2026-11-22T19:58:45.123Z", NOW_MS),
        ("2026-11-23t01:43:45.123+05:45", NOW_MS),
        ("2026-11-22t19:58:45.123999999999z", NOW_MS),
        ("2026-11-22T19:58:45-00:00", NOW_MS - 123),
        ("2026-11-22T19:58:4\\u0035Z", NOW_MS - 123),
    ] {
        assert_eq!(accepted("ts", &quoted(ts)).fix.ts.as_ms(), at_ms, "{ts}");
    }
}

#[test]
fn seconds_are_hinted_at_only_where_likely() {
    for (ts, looks_like_seconds) in [
        (NOW_MS / 1_000, true),
        (NOW_MS / 1_000 - 5 * 365 * 86_400, true),
        (NOW_MS / 1_000 + 3_600, false),
        (NOW_MS - RETENTION_MS - 1, false),
        (0, false),
        (-NOW_MS / 1_000, false),
    ] {
        assert_eq!(judge(&with("ts", &ts.to_string())), Ok(Err(Defect::TsTooOld { looks_like_seconds })), "{ts}");
    }
    let text = with("ts", "\"1990-01-01T00:00:00Z\"");
    assert_eq!(judge(&text), Ok(Err(Defect::TsTooOld { looks_like_seconds: false })));
}

#[test]
fn measures_and_tags() {
    let bare = accepted("x", "1");
    for field in ["speed_mps", "heading_deg", "accuracy_m"] {
        for unknown in ["-1", "-5", "-0.5", "-1e308"] {
            assert_eq!(accepted(field, unknown), bare, "{field} {unknown}");
        }
    }
    assert_eq!(accepted("heading_deg", "360").fix.heading.map(Heading::tenths), Some(0));
    assert_eq!(accepted("speed_mps", "1000").fix.speed.map(Speed::steps), Some(50_000));
    assert_eq!(accepted("accuracy_m", "0").fix.accuracy.map(Accuracy::dm), Some(0));
    assert_eq!(accepted("accuracy_m", "100000").fix.accuracy.map(Accuracy::dm), Some(1_000_000));
    assert_eq!(accepted("tags", "[]"), bare);
    assert_eq!(accepted("tags", "[\"a\",\"a\"]").fix.tags.joined(), "a");
    assert_eq!(accepted("tags", "[\"v\\u0061n\",\"ev\"]").fix.tags.joined(), "van,ev");
    let tag = |len: usize| format!("\"{}\"", "a".repeat(len));
    let tags = |count: usize, tag: &str| format!("[{}]", vec![tag; count].join(","));
    for (field, value, expected) in [
        ("heading_deg", "360.5".into(), "heading_invalid"),
        ("heading_deg", "1e9".into(), "heading_invalid"),
        ("speed_mps", "1000.1".into(), "speed_invalid"),
        ("accuracy_m", "100000.1".into(), "accuracy_invalid"),
        ("tags", tags(8, &tag(32)), "accepted"),
        ("tags", tags(9, &tag(32)), "tags_invalid"),
        ("tags", tags(100_000, "\"a\""), "tags_invalid"),
        ("tags", tags(1, &tag(33)), "tags_invalid"),
        ("tags", "[\"\"]".into(), "tags_invalid"),
        ("tags", "[\"Van\"]".into(), "tags_invalid"),
        ("tags", "[\"a b\"]".into(), "tags_invalid"),
        ("tags", "[\"a,b\"]".into(), "tags_invalid"),
        ("tags", "[\"a\",null]".into(), "tags_invalid"),
        ("tags", "[[\"a\"]]".into(), "tags_invalid"),
        ("tags", "[1]".into(), "tags_invalid"),
        ("tags", "\"van\"".into(), "wrong_type"),
        ("tags", "{}".into(), "wrong_type"),
        ("tags", "1".into(), "wrong_type"),
        ("tags", "true".into(), "wrong_type"),
    ] {
        assert_eq!(verdict(&with(field, &value)), expected, "{field} {}", &value[..value.len().min(100)]);
    }
}

#[test]
fn driver_ids() {
    let long = |len: usize| "a".repeat(len);
    let invalid = [
        "",
        " ",
        "a ",
        "a\u{200b}b",
        "\u{200f}a",
        "e\u{301}",
        "\u{430}",
        "\u{ff11}\u{ff12}",
        "\\u0000",
        "a\\u0000b",
        "a\\r\\nb",
        "\\t",
        "\\u001b[31m",
        "a\\b",
        "{x}",
        "a}{b",
        "*",
        "?",
        "[a-z]",
        "\\\\",
        "../../etc/passwd",
        "a/b",
        "%00",
        "~canary",
        "\\r\\nFLUSHALL\\r\\n",
        "$5",
        "'; DROP",
        "${jndi:x}",
        "<script>",
        ".",
        "..",
        "-x",
        "--help",
        ":",
    ]
    .map(String::from);
    for id in invalid.iter().chain(&[long(65), long(1 << 20)]) {
        assert_eq!(verdict(&with("driver_id", &format!("\"{id}\""))), "driver_id_invalid", "{id:.80}");
    }
    for id in ["-5", "-0", "18446744073709551616", "-18446744073709551616", "123456789012345678901234567890"] {
        assert_eq!(verdict(&with("driver_id", id)), "driver_id_invalid", "{id}");
    }
    for id in ["a:b", "NX", "CH", "inf", "CON", "_x", "0123", "123", "A", "a", "1.0", "1e3", &long(64)] {
        assert_eq!(accepted("driver_id", &format!("\"{id}\"")).driver.as_str(), id);
    }
    for id in ["0", "123", "18446744073709551615"] {
        assert_eq!(accepted("driver_id", id).driver.as_str(), id);
    }
    assert_eq!(accepted("driver_id", "\"\\u0064\\u0031\"").driver.as_str(), "d1");
}

#[test]
fn the_first_defect_in_the_order_of_the_fields_is_told() {
    let fields = ["driver_id", "ts", "lat", "lon", "speed_mps", "heading_deg", "accuracy_m", "tags"];
    let wrong = |from: usize| {
        let fields = fields.iter().enumerate().rev().map(|(at, field)| {
            let good = ["1", "1795377525123", "1", "1", "1", "1", "1", "[]"][at];
            let bad = ["{}", "{}", "91", "181", "1e9", "1e9", "1e9", "[1]"][at];
            format!("\"{field}\":{}", if at >= from { bad } else { good })
        });
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    let codes = [
        "wrong_type",
        "wrong_type",
        "lat_out_of_range",
        "lon_out_of_range",
        "speed_invalid",
        "heading_invalid",
        "accuracy_invalid",
        "tags_invalid",
        "accepted",
    ];
    for (from, code) in codes.iter().enumerate() {
        assert_eq!(verdict(&wrong(from)), *code, "{}", wrong(from));
    }
    let head = r#""driver_id":1,"ts":1795377525123"#;
    assert_eq!(verdict(&format!("{{{head},\"lat\":91}}")), "lat_out_of_range", "before the missing lon");
    assert_eq!(verdict(&format!("{{{head},\"lat\":91,\"lon\":\"1\"}}")), "lat_out_of_range");
    assert_eq!(verdict(&format!("{{{head},\"lat\":1,\"lon\":\"1\"}}")), "wrong_type");
    assert_eq!(verdict(&format!("{{{head},\"lat\":0,\"lon\":0,\"speed_mps\":1e9}}")), "null_island");
    assert_eq!(verdict("{}"), "missing_field");
}

#[test]
fn one_bad_point_among_many() {
    for bad in [0, 500, 999] {
        let points: Vec<_> = (0..1_000).map(|n| if n == bad { "{}" } else { GOOD }).collect();
        let parsed = json(format!("[{}]", points.join(","))).expect("a batch");
        assert_eq!((parsed.received, parsed.points.len(), parsed.rejected.len()), (1_000, 999, 1));
        assert_eq!(parsed.rejected[0].index, bad);
    }
}

#[test]
fn no_answer_repeats_what_was_sent() {
    let canary = "CANARY77";
    let bodies = [format!("[{{\"{canary}\":1]"), format!("[{{\"lat\":\"{canary}\"}}]"), canary.into()];
    for body in bodies {
        let told = match json(&body) {
            Ok(parsed) => parsed.rejected.iter().map(|rejected| rejected.defect.detail()).collect(),
            Err(error) => error.detail(),
        };
        assert!(!told.is_empty() && !told.contains(canary), "{told}");
    }
}

/// What real phone apps send to other services is none of ours: refused, and never a panic.
#[test]
fn payloads_of_other_services() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/payloads");
    let Ok(folders) = std::fs::read_dir(&root) else {
        eprintln!("SKIPPED: no payloads of other services at {}", root.display());
        return;
    };
    let files = folders.flatten().filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
    let mut seen = 0;
    for file in files {
        let body = std::fs::read(file.path()).expect("a readable file");
        for outcome in [json(&body), ndjson(&body), json([b"[", &body[..], b"]"].concat())] {
            assert!(outcome.is_err() || outcome.is_ok_and(|parsed| parsed.points.is_empty()), "{:?}", file.path());
        }
        seen += 1;
    }
    assert!(seen > 30);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for encoding in ["", "gzip", "zstd"] {
            let _ = post(JSON, encoding, &bytes);
            let _ = post(NDJSON, encoding, &bytes);
        }
    }

    #[test]
    fn a_damaged_batch_never_panics(at in 0..200_usize, byte in any::<u8>()) {
        let mut batch = format!("[{GOOD},{GOOD},{GOOD},{GOOD}]").into_bytes();
        batch[at] = byte;
        for (encoding, body) in [("", batch.clone()), ("gzip", gzip(&batch)), ("zstd", zstd(&batch))] {
            let _ = post(JSON, encoding, &body);
        }
    }

    #[test]
    fn valid_points_survive(
        points in prop::collection::vec(
            (
                "[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", -RETENTION_MS..=120_000, -85.05..85.05_f64, 0.001..180.0_f64,
                prop::option::of(0.0..=1_000.0_f64), prop::option::of(0.0..=360.0_f64),
                prop::option::of(0.0..=100_000.0_f64), prop::collection::vec("[a-z0-9_-]{1,32}", 0..=8), any::<bool>(),
            ),
            1..20,
        )
    ) {
        let rendered: Vec<String> = points.iter().map(|(id, ago, lat, lon, speed, heading, accuracy, tags, as_text)| {
            let ts = Timestamp::from_ms(NOW_MS + ago);
            serde_json::json!({
                "tags": tags, "accuracy_m": accuracy, "heading_deg": heading, "speed_mps": speed, "lon": lon,
                "lat": lat, "driver_id": id, "extra": {"tags": [tags]},
                "ts": if *as_text { ts.to_string().into() } else { serde_json::Value::from(ts.as_ms()) },
            })
            .to_string()
        }).collect();
        let parsed = json(format!("[{}]", rendered.join(","))).expect("a batch");
        prop_assert_eq!(&ndjson(rendered.join("\r\n")), &Ok(parsed.clone()));
        prop_assert_eq!(parsed.points.len(), points.len());
        for (point, (id, ago, lat, lon, speed, heading, accuracy, tags, _)) in parsed.points.iter().zip(&points) {
            prop_assert_eq!(point.driver.as_str(), id);
            prop_assert_eq!(point.fix.ts.as_ms(), NOW_MS + ago);
            prop_assert!((point.fix.position.lat() - lat).abs() < 1e-7);
            prop_assert!((point.fix.position.lon() - lon).abs().rem_euclid(360.0) < 1e-7 || *lon > 179.999);
            prop_assert!(point.fix.speed.map(Speed::mps).zip(*speed).is_none_or(|(a, b)| (a - b).abs() < 0.05));
            prop_assert_eq!(point.fix.speed.is_some(), speed.is_some());
            prop_assert_eq!(point.fix.heading.is_some(), heading.is_some());
            prop_assert_eq!(point.fix.accuracy.is_some(), accuracy.is_some());
            prop_assert!(tags.iter().all(|tag| point.fix.tags.iter().any(|kept| kept == tag)));
        }
    }
}
