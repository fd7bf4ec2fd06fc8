//! What a request costs the service: processor time of its process, user and system, for everything from the socket
//! to the socket. Starts the service built by the same run, with the embedded store, and drives it over loopback.
//! Prints rows for each fleet; asserts nothing. `cargo bench --bench http [-- DRIVERS...]`.
//!
//! `BESIDE=FILE` drives another build of the service in the same run, in turns with the first: on a machine where others
//! work too, the ratio of the two says what a change did.
//!
//! A closed loop: each connection sends when it has its answer. So rates are what this machine gives with the driver
//! beside the service; the tail of an open loop is not told by this.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Points in a batch of the bulk rows.
const BATCH: u64 = 1_000;
/// Requests in a row of small ones. Processor time is told to 10 ms, so it takes some.
const MANY: u64 = 16_000;
/// Requests in a row of large ones.
const FEW: u64 = 2_000;
/// A row comes in so many parts, between which the services take turns.
const PARTS: u64 = 4;

/// Told to itself: be the bare service.
const BARE: &str = "bare";

fn main() {
    if std::env::args().any(|arg| arg == BARE) {
        return serve_bare();
    }
    let sizes: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let mut binaries = vec![env!("CARGO_BIN_EXE_geotrail").to_owned()];
    binaries.extend(std::env::var("BESIDE"));
    for drivers in if sizes.is_empty() { vec![20_000, 100_000] } else { sizes } {
        fleet(drivers, &binaries);
    }
}

fn fleet(drivers: u64, binaries: &[String]) {
    let services: Vec<Service> = binaries.iter().map(|binary| Service::start(binary)).collect();
    let empty_kib = services[0].resident_kib();
    println!("fleet: {drivers} drivers");
    let bulk = drivers.div_ceil(BATCH);
    let batches = |from_round: u64, requests: u64| {
        move |request: u64| {
            let (round, first) = (from_round + request / bulk, request % bulk * BATCH);
            let points: Vec<String> = (first..first + BATCH).map(|driver| point(driver, round)).collect();
            post(&points, request + 1 == requests)
        }
    };
    let what = format!("ingest, batches of {BATCH}, every driver new");
    row(&services, &what, ("point", BATCH as f64), (4, bulk), batches(0, bulk));
    let what = format!("ingest, batches of {BATCH}, every driver moves");
    let requests = bulk.max(FEW / 4);
    row(&services, &what, ("point", BATCH as f64), (4, requests), batches(1, requests));
    row(&services, "ingest, one point a request, 64 connections", ("request", 1.0), (64, MANY), |request| {
        post(&[point(request % drivers, FEW + request / drivers)], request + 1 == MANY)
    });
    row(&[Service::bare()], "an empty handler of axum", ("request", 1.0), (8, MANY), |_| get("/livez"));
    row(&services, "an empty answer", ("request", 1.0), (8, MANY), |_| get("/livez"));
    for (radius_m, limit, requests) in
        [(1_000, 10, MANY), (3_000, 10, MANY), (10_000, 10, MANY), (10_000, 1_000, FEW)]
    {
        let what = format!("nearby, limit {limit}, {} km", radius_m / 1_000);
        row(&services, &what, ("request", 1.0), (8, requests), |request| {
            let (lat, lon) = place(&mut Random(request));
            get(&format!("/v1/nearby?lat={lat:.5}&lon={lon:.5}&radius_m={radius_m}&limit={limit}"))
        });
    }
    let resident_kib = services[0].resident_kib();
    let passes = (2_000_000 / drivers).max(PARTS);
    row(&services, "the whole fleet as NDJSON", ("driver", drivers as f64), (1, passes), |_| {
        "GET /v1/active HTTP/1.1\r\nHost: bench\r\nAccept: application/x-ndjson\r\n\r\n".to_owned()
    });
    println!(
        "  resident: {} MiB before the first driver; {} B a driver more with them, {} B after the passes over all",
        empty_kib >> 10,
        ((resident_kib - empty_kib) << 10) / drivers,
        ((services[0].resident_kib() - empty_kib) << 10) / drivers
    );
}

/// Sends `requests` to each service, a part at a time in turns, and prints what one unit costs the first; with another
/// one beside it, what it costs that one, and how many times that is.
fn row(
    services: &[Service],
    what: &str,
    (unit, units): (&str, f64),
    (connections, requests): (u64, u64),
    request: impl Fn(u64) -> String + Sync,
) {
    let mut all: Vec<(f64, Took)> = services.iter().map(|_| Default::default()).collect();
    services.iter().for_each(Service::settle);
    for part in 0..PARTS {
        let numbers = requests * part / PARTS..requests * (part + 1) / PARTS;
        for (service, (cost, took)) in services.iter().zip(&mut all) {
            *cost += service.drive(connections, numbers.clone(), &request, took);
        }
    }
    let per_unit: Vec<f64> = all.iter().map(|(cost, _)| cost / (requests as f64 * units)).collect();
    let beside = per_unit
        .get(1)
        .map_or(String::new(), |other| format!(", beside it {other:.2}: {:.2} times", per_unit[0] / other));
    println!("  {what:<48} {:8.2} us a {unit}{beside}; {}", per_unit[0], all[0].1);
}

fn serve_bare() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("http://{}", listener.local_addr().expect("bound"));
        let router = axum::Router::new().route("/livez", axum::routing::get(async || ()));
        axum::serve(listener, router).await.expect("serves");
    });
}

/// The service, in a directory of its own.
struct Service {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Service {
    fn start(binary: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()).env("RUST_LOG", "error");
        Self::run(&mut command, dir)
    }

    /// What there is to reach: an empty handler of the same library, and nothing else.
    fn bare() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        Self::run(command.arg(BARE), tempfile::tempdir().expect("a directory"))
    }

    fn run(command: &mut Command, dir: tempfile::TempDir) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("says where it listens");
        let address = line.trim().rsplit('/').next().expect("an address").to_owned();
        Self { child, address, _dir: dir }
    }

    /// Waits until what came in before is written out, so that it does not count for what comes next.
    fn settle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let before = self.processor_time();
            thread::sleep(Duration::from_millis(300));
            if self.processor_time().saturating_sub(before) <= Duration::from_millis(10) {
                return;
            }
        }
    }

    /// Sends the requests of these numbers over `connections`, noting how long they took; the microseconds of processor
    /// time of the service.
    fn drive(
        &self,
        connections: u64,
        numbers: Range<u64>,
        request: &(impl Fn(u64) -> String + Sync),
        took: &mut Took,
    ) -> f64 {
        let next = AtomicU64::new(numbers.start);
        let before = self.processor_time();
        let begun = Instant::now();
        thread::scope(|scope| {
            let connection = || {
                let mut stream = BufReader::new(TcpStream::connect(&self.address).expect("connects"));
                stream.get_ref().set_nodelay(true).expect("a socket");
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return took;
                    }
                    let bytes = request(number);
                    let begun = Instant::now();
                    stream.get_mut().write_all(bytes.as_bytes()).expect("sends");
                    answer(&mut stream);
                    took.push(begun.elapsed());
                }
            };
            let all: Vec<_> = (0..connections).map(|_| scope.spawn(connection)).collect();
            took.each.extend(all.into_iter().flat_map(|one| one.join().expect("no connection fails")));
        });
        took.total += begun.elapsed();
        self.processor_time().saturating_sub(before).as_secs_f64() * 1e6
    }

    /// Of all threads, user and system, to 10 ms.
    fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields = stat.rsplit(')').next().expect("a name in brackets").split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("always there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long requests took.
#[derive(Default)]
struct Took {
    total: Duration,
    each: Vec<Duration>,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut each = self.each.clone();
        each.sort_unstable();
        let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize];
        let rate = each.len() as f64 / self.total.as_secs_f64();
        write!(f, "{rate:.0} requests/s, p50 {:.1?}, p99 {:.1?}", at(0.5), at(0.99))
    }
}

/// Reads an answer to its end, whole or chunked; it must be a good one.
fn answer(stream: &mut BufReader<TcpStream>) {
    let (mut line, mut length, mut is_chunked) = (String::new(), 0, false);
    stream.read_line(&mut line).expect("an answer");
    assert!(line.starts_with("HTTP/1.1 2"), "{line}");
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a header");
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        is_chunked |= header == "transfer-encoding: chunked";
    }
    let skip = |stream: &mut BufReader<TcpStream>, length: u64| {
        std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).expect("a body");
    };
    if !is_chunked {
        return skip(stream, length);
    }
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a chunk");
        let size = u64::from_str_radix(line.trim(), 16).expect("a size");
        skip(stream, size + 2);
        if size == 0 {
            return;
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")
}

/// One that waits is answered when what came before it is in the store too, so that its cost is in the row.
fn post(points: &[String], waits: bool) -> String {
    let query = if waits { "?wait=applied" } else { "" };
    let body = format!("[{}]", points.join(","));
    let length = body.len();
    format!(
        "POST /v1/points{query} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A driver that stays within 100 m of its home, a second on in each round.
fn point(driver: u64, round: u64) -> String {
    let (lat, lon) = place(&mut Random(driver));
    let mut step = Random(driver ^ round << 40);
    let (lat, lon) = (lat + 0.001 * step.next(), lon + 0.001 * step.next());
    let ts = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let (speed, heading) = (20.0 * step.next(), 359.0 * step.next());
    format!(
        r#"{{"driver_id":"driver-{driver:07}","ts":{ts},"lat":{lat:.6},"lon":{lon:.6},"speed_mps":{speed:.1},"heading_deg":{heading:.0}}}"#
    )
}

/// Somewhere in a city: the nearer its centre the likelier, 20 km one way and the other.
fn place(random: &mut Random) -> (f64, f64) {
    let mut off = || (0..4).map(|_| random.next()).sum::<f64>() / 4.0 - 0.5;
    (52.52 + 0.8 * off(), 13.4 + 1.3 * off())
}

/// Splitmix64, as 0 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
