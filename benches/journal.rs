//! What the journal costs: appending batches of 1,000 points with an fsync each, one caller and many; and decoding.
//!
//! `cargo bench --bench journal`. The directory is made beside the build (`CARGO_TARGET_TMPDIR`), because a temporary
//! directory is often in memory, where a sync costs nothing.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use geotrail::journal::{Journal, Options, Reader};
use geotrail::model::{Accuracy, DriverId, Fix, Heading, Offset, Point, Position, Speed, Tags, Timestamp};
use tempfile::TempDir;

const NOON: Timestamp = Timestamp::from_ms(1_795_348_800_000);
const BATCH: u64 = 1_000;

fn batch() -> Vec<Point> {
    let point = |n: i64| Point {
        driver: DriverId::new(&format!("driver-{n:05}")).expect("a fine id"),
        fix: Fix {
            ts: NOON.plus_ms(-n * 7),
            position: Position::from_e7(523_000_000 + n as i32 * 991, 49_000_000 + n as i32 * 977).expect("in range"),
            speed: Speed::from_steps((n % 1_500) as u16),
            heading: Heading::from_tenths((n % 3_600) as u16),
            accuracy: Accuracy::from_dm(50 + n as u32 % 100),
            tags: Tags::NONE,
        },
    };
    (0..BATCH as i64).map(point).collect()
}

fn journal() -> (TempDir, Journal) {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let journal = Journal::open(Options::new(dir.path()), NOON).expect("a fresh journal").0;
    (dir, journal)
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let mut group = c.benchmark_group("append_batches_of_1000");
    for callers in [1, 8, 64] {
        let (_dir, journal) = journal();
        let batch = batch();
        group.throughput(Throughput::Elements(callers * BATCH));
        group.bench_function(format!("callers_{callers}"), |b| {
            b.iter(|| {
                let append = |_| {
                    let (journal, batch) = (journal.clone(), batch.clone());
                    runtime.spawn(async move { journal.append(batch, NOON).await.expect("disk is there") })
                };
                let tasks: Vec<_> = (0..callers).map(append).collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                });
            });
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    const BATCHES: u64 = 500;
    let (dir, journal) = journal();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for _ in 0..BATCHES {
        runtime.block_on(journal.append(batch(), NOON)).expect("disk is there");
    }
    let bytes = journal.stats().bytes;
    println!("{:.1} bytes a point", bytes as f64 / (BATCHES * BATCH) as f64);
    let mut group = c.benchmark_group("read");
    group.sample_size(20);
    group.throughput(Throughput::Elements(BATCHES * BATCH));
    group.bench_function("read_and_decode", |b| {
        b.iter(|| {
            let mut reader = Reader::open(dir.path(), Offset::START);
            let mut points = 0;
            loop {
                let records = reader.read(10_000).expect("readable");
                if records.is_empty() {
                    break;
                }
                points += records.iter().map(|record| black_box(record).points.len()).sum::<usize>();
            }
            assert_eq!(points as u64, BATCHES * BATCH);
        });
    });
    group.finish();
}

criterion_group!(benches, append, decode);
criterion_main!(benches);
