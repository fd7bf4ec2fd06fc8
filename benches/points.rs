//! How long it takes to read and judge a batch of 1,000 points, in either syntax.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use geotrail::http::points::{Format, Rules, parse};
use geotrail::model::Timestamp;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};

const NOW_MS: i64 = 1_795_377_525_123;
const POINTS: u64 = 1_000;

fn format_of(content_type: &'static str) -> Format {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    Format::from_headers(&headers).expect("one of ours")
}

/// A point as a phone sends it, `n`-th of a batch.
fn point(n: u64) -> String {
    let mut json = String::new();
    let (lat, lon) = (52.0 + n as f64 * 1.234_5e-4, 13.0 + n as f64 * 2.345_6e-4);
    write!(
        json,
        r#"{{"driver_id":"driver-{n:06}","ts":{},"lat":{lat:.7},"lon":{lon:.7},"speed_mps":{:.2},"heading_deg":{:.1},"accuracy_m":4.7}}"#,
        NOW_MS - n as i64 * 1_000,
        n as f64 * 0.03,
        n as f64 * 0.3,
    )
    .expect("a String takes everything");
    json
}

fn points(c: &mut Criterion) {
    let rules = Rules { now: Timestamp::from_ms(NOW_MS), retention_ms: 48 * 3_600_000 };
    let points: Vec<String> = (0..POINTS).map(point).collect();
    let mut group = c.benchmark_group("points");
    group.throughput(Throughput::Elements(POINTS));
    let json = format!(r#"{{"points":[{}]}}"#, points.join(","));
    for (name, body, content_type) in
        [("json", json, "application/json"), ("ndjson", points.join("\n"), "application/x-ndjson")]
    {
        let format = format_of(content_type);
        let parsed = parse(body.as_bytes(), format, &rules).expect("a valid batch");
        assert_eq!(parsed.points.len() as u64, POINTS, "every point is judged to its end");
        group.bench_function(name, |b| b.iter(|| parse(black_box(body.as_bytes()), format, &rules)));
    }
    group.finish();
}

criterion_group!(benches, points);
criterion_main!(benches);
