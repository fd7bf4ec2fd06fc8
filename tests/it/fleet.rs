//! `simulate` and `replay`, through the real binary, against a sink that answers as the contract says, or badly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use geotrail::model::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;

use super::cli::geotrail;

const DEADLINE: Duration = Duration::from_mins(1);
const HEADER: &str = "driver_id,ts,lat,lon,speed_mps,heading_deg,accuracy_m\n";

/// What the sink does with its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Reads it and closes the connection.
    HangUp,
    /// Reads it and answers with a status and headers.
    Refuse(&'static str),
}

#[derive(Default)]
struct State {
    moods: VecDeque<Mood>,
    /// Points of acknowledged requests, in the order of their arrival.
    points: Vec<Value>,
    requests: Vec<(Instant, usize)>,
}

/// A service that judges points by one rule: `lat` is a number.
struct Sink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Sink {
    fn new(moods: impl IntoIterator<Item = Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { moods: moods.into_iter().collect(), ..State::default() }));
        let shared = Arc::clone(&state);
        // Both threads end with the process of the test.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(connection);
                    while answer(&mut reader, &state).is_some() {}
                });
            }
        });
        Self { address, state }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn points(&self) -> Vec<Value> {
        self.state.lock().points.clone()
    }
}

/// One request; `None` when the connection is over.
fn answer(connection: &mut BufReader<TcpStream>, state: &Mutex<State>) -> Option<()> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/points http/1.1");
    assert!(head.contains(&"content-type: application/x-ndjson".to_owned()));
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    connection.read_exact(&mut body).ok()?;
    let text = String::from_utf8(body).expect("UTF-8");
    let points: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!((1..=1_000).contains(&points.len()));
    let mut state = state.lock();
    state.requests.push((Instant::now(), points.len()));
    let (status, answer) = match state.moods.pop_front() {
        Some(Mood::HangUp) => return None,
        Some(Mood::Refuse(status)) => (status, r#"{"code":"made_up"}"#.to_owned()),
        None => {
            let bad = |point: &&Value| !point["lat"].is_number();
            let errors: Vec<_> =
                points.iter().filter(bad).map(|_| r#"{"index":0,"code":"wrong_type","detail":"x"}"#).collect();
            let (rejected, accepted) = (errors.len(), points.len() - errors.len());
            state.points.extend(points);
            let status = if accepted == 0 { "422 Unprocessable Entity" } else { "202 Accepted" };
            let errors = errors.join(",");
            (status, format!(r#"{{"accepted":{accepted},"rejected":{rejected},"errors":[{errors}]}}"#))
        }
    };
    drop(state);
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
    connection.get_mut().write_all(response.as_bytes()).ok()
}

/// A client under way; killed if the test ends first.
struct Running(Option<Child>);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = geotrail();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("it runs")))
    }

    fn interrupt(&self) {
        let child = self.0.as_ref().expect("still here");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("a signal");
    }

    fn take_stderr(&mut self) -> ChildStderr {
        self.0.as_mut().and_then(|child| child.stderr.take()).expect("still here")
    }

    fn finish(mut self) -> Finished {
        let child = self.0.as_mut().expect("still here");
        let begun = Instant::now();
        while child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < DEADLINE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let output = self.0.take().expect("still here").wait_with_output().expect("its output");
        Finished::new(output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _already_gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

struct Finished {
    code: Option<i32>,
    stderr: String,
    /// The last line of stdout; null if that is not JSON.
    counts: Value,
}

impl Finished {
    fn new(output: Output) -> Self {
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let counts = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        Self { code: output.status.code(), stderr, counts }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn file(directory: &Path, content: &[u8]) -> PathBuf {
    let file = directory.join("trace");
    fs::write(&file, content).expect("a file");
    file
}

fn replay(content: &[u8], sink: &Sink, arguments: &[&str]) -> Finished {
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path(), content);
    let file = file.to_str().expect("UTF-8");
    Running::start(&[&["replay", file, "--to", &sink.url()], arguments].concat()).finish()
}

/// `rows` rows of distinct drivers, a second apart.
fn csv(rows: usize) -> String {
    let row = |n: usize| {
        let ts = Timestamp::from_ms(1_700_000_000_000 + n as i64 * 1_000);
        format!("d{n},{ts},37.7{n:05},-122.4,,,\n")
    };
    HEADER.to_owned() + &(0..rows).map(row).collect::<String>()
}

fn drivers(points: &[Value]) -> BTreeSet<&str> {
    points.iter().filter_map(|point| point["driver_id"].as_str()).collect()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

#[test]
fn replay_sends_every_row_in_whatever_packing() {
    let csv = csv(2_500);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(csv.as_bytes()).expect("gzip");
    let zstd = zstd::encode_all(csv.as_bytes(), 1).expect("zstd");
    for content in [csv.into_bytes(), gzip.finish().expect("gzip"), zstd] {
        let sink = Sink::new([]);
        let finished = replay(&content, &sink, &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!((&finished.counts["sent"], &finished.counts["accepted"]), (&2_500.into(), &2_500.into()));
        assert_eq!(finished.counts["retries"], 0);
        let points = sink.points();
        assert_eq!((points.len(), drivers(&points).len()), (2_500, 2_500));
        assert_eq!(points[0]["ts"].as_str().map(str::len), Some("2023-11-14T22:13:20.000Z".len()));
        assert!(points[0].get("speed_mps").is_none());
    }
}

#[test]
fn replay_leaves_the_judging_to_the_service() {
    let bad = "a,2023-11-14T22:13:20Z,north,-122,,,\nb,2023-11-14T22:13:20Z,,-122,,,\n";
    let good = "c,soon,37,-122,1.50,360,9\n";
    let sink = Sink::new([]);
    let finished = replay(format!("{HEADER}{bad}{good}").as_bytes(), &sink, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.counts["accepted"], 1);
    assert_eq!(finished.counts["rejected"], serde_json::json!({"wrong_type": 2}));
    assert_eq!(sink.points()[0]["lat"], "north");
    assert_eq!(sink.points()[2]["heading_deg"], 360);

    let all_bad = replay(format!("{HEADER}{bad}").as_bytes(), &Sink::new([]), &[]);
    assert_eq!(all_bad.code, Some(0), "a 422 that judges every point is an answer");
    assert_eq!(all_bad.counts["rejected"], serde_json::json!({"wrong_type": 2}));
}

#[test]
fn replay_repeats_what_the_network_or_the_service_dropped() {
    let moods = [
        Mood::HangUp,
        Mood::Refuse("503 Service Unavailable\r\nretry-after: 1"),
        Mood::HangUp,
        Mood::Refuse("429 Too Many Requests"),
        Mood::Refuse("500 Internal Server Error"),
    ];
    let sink = Sink::new(moods);
    let finished = replay(csv(5_000).as_bytes(), &sink, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!((&finished.counts["sent"], &finished.counts["accepted"]), (&5_000.into(), &5_000.into()));
    assert_eq!(finished.counts["retries"], 5);
    assert_eq!(drivers(&sink.points()).len(), 5_000);
}

#[test]
fn replay_waits_as_long_as_it_is_asked_to() {
    let sink = Sink::new([Mood::Refuse("503 Service Unavailable\r\nretry-after: 1")]);
    let finished = replay(csv(1).as_bytes(), &sink, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let requests = sink.state.lock().requests.clone();
    assert!(requests[1].0 - requests[0].0 >= Duration::from_secs(1));
}

#[test]
fn replay_waits_for_a_service_that_is_not_there_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path(), csv(3).as_bytes());
    let to = format!("http://{address}/");
    let mut running = Running::start(&["replay", file.to_str().expect("UTF-8"), "--to", &to]);
    let mut lines = BufReader::new(running.take_stderr()).lines();
    let trouble = lines.next().expect("a line").expect("UTF-8");
    assert!(trouble.contains("the service takes no points (unreachable): trying again"), "{trouble}");
    let listener = TcpListener::bind(address).expect("the same port");
    let state = Mutex::new(State::default());
    let (connection, _) = listener.accept().expect("a connection");
    answer(&mut BufReader::new(connection), &state);
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.counts["accepted"], 3);
    assert!(finished.counts["retries"].as_u64() > Some(0));
}

#[test]
fn replay_stops_at_what_will_never_be_taken() {
    let sink = Sink::new([Mood::Refuse("404 Not Found"); 100]);
    let finished = replay(csv(50_000).as_bytes(), &sink, &[]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.counts["accepted"], 0);
    assert!(finished.counts["failed_requests"].as_u64().is_some_and(|failed| (1..50).contains(&failed)));
}

#[test]
fn now_shifts_the_newest_to_now_and_keeps_every_distance() {
    let ndjson = concat!(
        r#"{"driver_id":"a","ts":"2020-01-01T00:00:00.5Z","lat":1,"lon":2,"extra":{"ts":3}}"#,
        "\n",
        r#"{"driver_id":"b","ts":"2020-01-01T02:00:10+01:00","lat":1.50,"lon":2}"#,
        "\n",
        r#"{"driver_id":"c","ts":1577840409999,"lat":1,"lon":2,"tags":["car"]}"#,
        "\n",
        r#"{"driver_id":"d","ts":"yesterday","lat":1,"lon":2}"#,
        "\n",
    );
    let sink = Sink::new([]);
    let before = now_ms();
    let finished = replay(ndjson.as_bytes(), &sink, &["--now"]);
    let after = now_ms();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let points = sink.points();
    let at = |index: usize| match &points[index]["ts"] {
        Value::String(ts) => Timestamp::parse_rfc3339(ts).expect("RFC 3339").as_ms(),
        number => number.as_i64().expect("milliseconds"),
    };
    // 02:00:10+01:00 is the newest: 1 ms after c, 3,609,500 ms after a.
    assert!((before..=after).contains(&at(1)), "{} not in {before}..={after}", at(1));
    assert_eq!((at(1) - at(2), at(1) - at(0)), (1, 3_609_500));
    assert!(points[2]["ts"].is_i64());
    assert_eq!(points[3]["ts"], "yesterday");
    assert_eq!((&points[0]["extra"]["ts"], &points[2]["tags"][0]), (&3.into(), &"car".into()));
}

#[test]
fn speed_paces_by_the_recorded_times() {
    let sink = Sink::new([]);
    // 60 s of trace, a row a second, at 40 times: a second and a half.
    let finished = replay(csv(61).as_bytes(), &sink, &["--speed", "40"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(sink.points().len(), 61);
    let requests = sink.state.lock().requests.clone();
    let took = requests[requests.len() - 1].0 - requests[0].0;
    assert!(took >= Duration::from_millis(1_300), "{took:?}");
    assert!(requests.len() >= 8 && requests.iter().all(|(_, rows)| *rows <= 12), "{requests:?}");
}

#[test]
fn replay_names_the_line_it_cannot_read_and_says_what_was_sent_before() {
    let sink = Sink::new([]);
    let finished = replay((csv(1_500) + "x,1,2\n").as_bytes(), &sink, &[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("trace: line 1502: 3 fields where the header has 7"), "{}", finished.stderr);
    assert_eq!((&finished.counts["sent"], sink.points().len()), (&1_500.into(), 1_500));

    let shifted = replay((csv(1_500) + "x,1,2\n").as_bytes(), &sink, &["--now"]);
    assert_eq!((shifted.code, sink.points().len()), (Some(1), 1_500), "the first pass finds it before any is sent");
    let absent = Running::start(&["replay", "no/such/file", "--to", &sink.url()]).finish();
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.starts_with("error: no/such/file: "), "{}", absent.stderr);
}

#[test]
fn an_interrupted_replay_ends_with_its_counts() {
    let sink = Sink::new([]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path(), csv(1_000).as_bytes());
    let file = file.to_str().expect("UTF-8");
    let running = Running::start(&["replay", file, "--to", &sink.url(), "--speed", "1"]);
    until("the first points", || !sink.points().is_empty());
    running.interrupt();
    let finished = running.finish();
    assert_eq!((finished.code, &finished.counts["interrupted"]), (Some(1), &true.into()), "{}", finished.stderr);
    assert_eq!(finished.counts["accepted"], sink.points().len());
}

#[test]
fn simulate_reports_every_driver_each_interval() {
    let sink = Sink::new([Mood::HangUp, Mood::Refuse("503 Service Unavailable")]);
    let before = now_ms();
    let arguments = ["simulate", "--to", &sink.url(), "--drivers", "1500", "--interval", "1s", "--duration", "3s"];
    let finished = Running::start(&arguments).finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.counts["sent"], finished.counts["accepted"]);
    assert_eq!(finished.counts["retries"], 2);
    let points = sink.points();
    assert_eq!(finished.counts["accepted"], points.len());
    assert_eq!(drivers(&points).len(), 1_500, "everybody has reported");
    assert!(points.len() > 3_000, "{}", points.len());
    let mut seen = BTreeSet::new();
    for point in &points {
        let ts = point["ts"].as_i64().expect("milliseconds");
        assert!((before..=now_ms()).contains(&ts));
        assert!(seen.insert((point["driver_id"].as_str(), ts)));
        assert!(point["speed_mps"].as_f64().is_some_and(|speed| (0.0..=22.0).contains(&speed)));
        assert!(point["accuracy_m"].as_f64().is_some_and(|accuracy| (3.0..=25.0).contains(&accuracy)));
        assert_eq!(point["tags"].as_array().map(Vec::len), Some(2));
    }
    let slots: BTreeSet<_> = points.iter().map(|point| point["ts"].as_i64()).collect();
    assert!(slots.len() >= 20, "spread over the interval, not all at once: {}", slots.len());
}

#[test]
fn simulate_drives_the_same_ways_for_a_seed() {
    let first_positions = |seed: &str| {
        let sink = Sink::new([]);
        let url = sink.url();
        let arguments =
            ["simulate", "--to", &url, "--drivers", "50", "--interval", "100ms", "--duration", "1s", "--seed", seed];
        assert_eq!(Running::start(&arguments).finish().code, Some(0));
        let mut first = BTreeMap::new();
        for point in sink.points() {
            first.entry(point["driver_id"].to_string()).or_insert((point["lat"].clone(), point["lon"].clone()));
        }
        first
    };
    let positions = first_positions("5");
    assert_eq!(positions.len(), 50);
    assert_eq!(positions, first_positions("5"));
    assert_ne!(positions, first_positions("6"));
}

#[test]
fn simulate_ends_cleanly_on_an_interrupt() {
    let sink = Sink::new([]);
    let running = Running::start(&["simulate", "--to", &sink.url(), "--drivers", "20", "--interval", "200ms"]);
    until("two rounds", || sink.points().len() >= 40);
    running.interrupt();
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.counts["accepted"], sink.points().len());
}

#[test]
fn simulate_fails_when_something_was_refused() {
    let sink = Sink::new([Mood::Refuse("401 Unauthorized")]);
    let arguments = ["simulate", "--to", &sink.url(), "--drivers", "10", "--interval", "500ms", "--duration", "1s"];
    let finished = Running::start(&arguments).finish();
    assert_eq!((finished.code, &finished.counts["failed_requests"]), (Some(1), &1.into()), "{}", finished.stderr);
}
