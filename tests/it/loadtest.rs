//! The load generator: it must not overlook a server that stands still, and what makes no sense it must refuse. Its
//! sources are read in here, since tests of an example are built by nothing else that runs.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use generator::caller::Address;
use generator::campaign;
use generator::fleet::{Fleet, Place};
use generator::mix::{Ask, Mix, Traffic};
use generator::options::Options;
use generator::schedule::{Schedule, Target, drive};
use generator::{http, knee, plot, resp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[path = "../../loadtest/main.rs"]
#[expect(dead_code, reason = "nobody calls its main, and what main alone needs")]
mod generator;

const SECOND: Duration = Duration::from_secs(1);
/// What a stub answers.
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}";

fn schedule(count: u64, rate: f64, patience: Duration) -> Schedule {
    Schedule { count, gap: Duration::from_secs_f64(1.0 / rate), patience, comes_back: false }
}

fn target(address: SocketAddr, connections: usize) -> Target {
    Target { address: Address::Geotrail(address), fleet: Arc::new(Fleet::new(100)), connections }
}

fn report(number: u64) -> Ask {
    Ask::Report { first: (number % 100) as usize, count: 1, round: 1 }
}

/// A server of one connection at a time that answers each request as `answer` says, by its number; nothing: it hangs up.
fn stub(mut answer: impl FnMut(u64) -> Option<&'static [u8]> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4_096];
            // A request of one point is small and comes in one piece.
            while stream.read(&mut request).is_ok_and(|count| count > 0) {
                let Some(answer) = answer(number) else { break };
                number += 1;
                if stream.write_all(answer).is_err() {
                    break;
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_stands_still_once_shows_in_the_tail_of_all_that_were_due() {
    let stands_still = Duration::from_millis(200);
    let address = stub(move |number| {
        if number == 50 {
            std::thread::sleep(stands_still);
        }
        Some(ACCEPTED)
    });
    let tally = drive(&target(address, 1), schedule(200, 200.0, SECOND * 5), report).await.expect("it runs");
    assert_eq!((tally.requests(), tally.good, tally.points), (200, 200, 200), "{:?}", tally.errors);
    assert!(tally.until >= Duration::from_millis(995), "the last is due when all others were: {:?}", tally.until);
    // 40 of 200 were due while it stood still, the first of them for all of it. A closed loop would have seen one.
    let latency = tally.latency();
    assert!(latency.max >= 200.0, "{latency:?}");
    assert!(latency.p999 >= 195.0 && latency.p99 >= 185.0 && latency.p90 >= 90.0, "{latency:?}");
}

#[tokio::test]
async fn what_is_never_answered_is_counted_with_its_age() {
    let address = stub(|number| {
        if number > 0 {
            std::thread::sleep(SECOND);
        }
        Some(ACCEPTED)
    });
    let patience = Duration::from_millis(100);
    let tally = drive(&target(address, 1), schedule(50, 500.0, patience), report).await.expect("it runs");
    assert_eq!((tally.requests(), tally.good), (50, 1));
    let failed: u64 = tally.errors.values().sum();
    assert_eq!(failed, 49, "{:?}", tally.errors);
    assert!(tally.errors["timeout"] >= 1 && tally.errors["unsent"] >= 1, "{:?}", tally.errors);
    assert!(tally.latency().p50 >= 90.0, "{:?}", tally.latency());
}

#[tokio::test]
async fn refusals_are_told_by_status_and_a_stampede_comes_back() {
    const LATER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let every_third = |number| Some(if number % 3 == 1 { LATER } else { ACCEPTED });
    let once = schedule(30, 1_000.0, SECOND * 5);
    let tally = drive(&target(stub(every_third), 1), once, report).await.expect("it runs");
    assert_eq!((tally.good, tally.errors["503"]), (20, 10));
    let patient = Schedule { comes_back: true, ..once };
    let tally = drive(&target(stub(every_third), 1), patient, report).await.expect("it runs");
    assert_eq!((tally.good, tally.errors.len()), (30, 0));
    assert!(tally.came_back["503"] >= 10);

    let tally = drive(&target(stub(|number| (number % 10 != 5).then_some(ACCEPTED)), 1), once, report).await;
    assert!(tally.expect("it runs").errors["broken"] >= 1, "a connection that ends is opened again");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let error = drive(&target(nobody, 3), once, report).await.err().expect("nobody listens");
    assert!(error.to_string().starts_with("of 3 connections only 0 could be opened"), "{error}");
}

#[test]
fn drivers_stand_close_in_hot_spots_and_move_by_thirty_metres() {
    let fleet = Fleet::new(20_000);
    let metres = |a: Place, b: Place| {
        let north = (f64::from(a.lat_e6) - f64::from(b.lat_e6)) * 0.111_226;
        let east = (f64::from(a.lon_e6) - f64::from(b.lon_e6)) * 0.111_226 * 52.5_f64.to_radians().cos();
        north.hypot(east)
    };
    let mut cells = std::collections::HashMap::<(u32, u32), usize>::new();
    for driver in 0..fleet.len() {
        for round in [0, 7, 19, 20, 21, 39] {
            let moved = metres(fleet.place(driver, round), fleet.place(driver, round + 1));
            assert!((29.5..30.5).contains(&moved), "{moved}");
        }
        let at = fleet.place(driver, 0);
        assert!((52_000_000..53_000_000).contains(&at.lat_e6) && (12_000_000..15_000_000).contains(&at.lon_e6));
        // Some 2 by 2 km.
        *cells.entry((at.lat_e6 / 18_000, at.lon_e6 / 29_500)).or_default() += 1;
    }
    let mut counts: Vec<usize> = cells.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let crowded: usize = counts.iter().take(100).sum();
    assert!(crowded > fleet.len() * 6 / 10, "a ninth of the city holds {crowded}");
}

#[test]
fn a_mix_asks_everybody_in_turn_and_goes_on_where_it_stopped() {
    let of = |mix, begun| Traffic { mix, drivers: 250, batch: 100, begun };
    let ingest: Vec<Ask> = (0..4).map(|number| of(Mix::Ingest, 0).ask(number)).collect();
    let batch = |first, count, round| Ask::Report { first, count, round };
    assert_eq!(ingest, [batch(0, 100, 1), batch(100, 100, 1), batch(200, 50, 1), batch(0, 100, 2)]);
    assert_eq!(of(Mix::Ingest, 3).ask(0), batch(0, 100, 2));
    let mixed: Vec<Ask> = (0..1_000).map(|number| of(Mix::Mixed, 0).ask(number)).collect();
    assert_eq!(mixed.iter().filter(|ask| matches!(ask, Ask::Nearby { .. })).count(), 100);
    let reports: HashSet<(usize, u32)> = mixed
        .iter()
        .filter_map(|ask| match ask {
            Ask::Report { first, count: 1, round } => Some((*first, *round)),
            _ => None,
        })
        .collect();
    assert_eq!(reports.len(), 900, "nobody reports twice in a round");
    let phones: HashSet<usize> = (0..250)
        .filter_map(|number| match of(Mix::Stampede, 0).ask(number) {
            Ask::Backlog { driver } => Some(driver),
            _ => None,
        })
        .collect();
    assert_eq!(phones.len(), 250);
}

#[tokio::test]
async fn answers_are_read_in_whatever_pieces_they_come() {
    let (status, bulk) =
        ("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\nabc", "$3\r\nabc\r\n");
    let replies = format!("+OK\r\n:12\r\n$-1\r\n*-1\r\n*2\r\n{bulk}*1\r\n{bulk}");
    for piece in [1, 2, 3, 5, 7, 1_000] {
        let (mut writer, mut reader) = tokio::io::duplex(piece);
        let both = status.to_owned() + &replies + "-ERR no\r\n";
        let sent = tokio::spawn(async move { writer.write_all(both.as_bytes()).await });
        let mut buffer = Vec::new();
        let answer = http::read(&mut (&mut reader).take(status.len() as u64), &mut buffer).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.retry_after_s, &buffer[answer.body_at..]), (429, Some(7), &b"abc"[..]));
        let mut rest = (&mut reader).take(replies.len() as u64);
        assert!(resp::read(&mut rest, 5, &mut buffer).await.expect("replies"));
        assert!(!resp::read(&mut reader, 1, &mut buffer).await.expect("a reply"));
        sent.await.expect("it ends").expect("all was read");
    }
    let (mut writer, mut reader) = tokio::io::duplex(100);
    writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.expect("there is room");
    drop(writer);
    assert!(http::read(&mut reader, &mut Vec::new()).await.is_err(), "an answer that breaks off");
}

#[tokio::test]
async fn the_search_ends_near_the_highest_rate_that_holds() {
    for (truth, begin) in [(1_000.0, 100.0), (1_000.0, 16_000.0), (37_123.0, 2_000.0), (3.0, 1_000.0)] {
        let mut tried = 0;
        let holds = async |rate: f64| {
            tried += 1;
            Ok::<_, ()>(rate <= truth)
        };
        let found = knee::find(begin, holds).await.expect("no rate fails").expect("some rate holds");
        assert!(found <= truth && found > truth / 1.2, "{found} of {truth} from {begin}");
        assert!(tried <= knee::MOST_STEPS, "{tried}");
    }
    assert_eq!(knee::find(64.0, async |_| Ok::<_, ()>(false)).await, Ok(None));
    let mut pause = true;
    let with_a_pause = async |rate: f64| Ok::<_, ()>(!std::mem::take(&mut pause) && rate < 500.0);
    let found = knee::find(100.0, with_a_pause).await.expect("no rate fails").expect("some rate holds");
    assert!(found > 400.0, "one pause of the machine is forgiven: {found}");
    assert_eq!(knee::find(100.0, async |_| Err::<bool, _>("broken")).await, Err("broken"));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let why = |arguments: &[&str], open_files| match Options::try_parse_from([&["loadtest"], arguments].concat()) {
        Ok(options) => options.check(open_files).err().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    for (arguments, reason) in [
        (&["--drivers", "0"][..], "expected a number from 1 to 1M"),
        (&["--drivers", "2M"], "expected a number from 1 to 1M"),
        (&["--drivers", "20k,"], "expected a number from 1 to 1M"),
        (&["--rate", "0"], "expected requests a second"),
        (&["--rate", "NaN"], "expected requests a second"),
        (&["--seconds", "0"], "1..=300"),
        (&["--seconds", "301"], "1..=300"),
        (&["--limit-ms", "0"], "expected milliseconds"),
        (&["--limit-ms", "5000"], "expected milliseconds"),
        (&["--connections", "0"], "expected a number from 1 to 10000"),
        (&["--connections", "10001"], "the most that the service takes at once"),
        (&["--connections", "5000"], "5000 connections are more than this process may open, 1024 files"),
        (&["--batch", "10001"], "the most that the service takes at once"),
        (&["--mix", "flood"], "possible values"),
        (&["--mix", "stampede", "--limit-ms", "5"], "a stampede has no rate"),
        (&["--mix", "stampede", "--rate", "5"], "brings every phone within a second"),
        (&["--mix", "stampede", "--drivers", "10", "--connections", "11"], "more than the 10 phones"),
        (&["--peer", "tile38"], "go together"),
        (&["--peer-addr", "127.0.0.1:9851"], "go together"),
        (&["--peer", "tile38", "--peer-addr", "192.0.2.1:9851"], "an address of this machine"),
        (&["--peer", "tile38", "--peer-addr", "127.0.0.1:0"], "an address of this machine"),
        (&["--peer", "postgis"], "go together"),
        (&["--peer-url", "postgresql://me@127.0.0.1/db"], "go together"),
        (&["--peer", "postgis", "--peer-url", "postgresql://me@192.0.2.1/db"], "a server of this machine"),
        (&["--peer", "postgis", "--peer-url", "postgresql://me@127.0.0.1,192.0.2.1/db"], "a server of this machine"),
        (&["--peer", "postgis", "--peer-url", "postgresql:///db"], "a server of this machine"),
        (&["--peer", "postgis", "--peer-url", "somewhere"], "invalid"),
        (&["--peer-pid", "1"], "not started here"),
        (&["--seconds", "300", "--limit-ms", "5"], "ask for at most 60"),
    ] {
        assert!(why(arguments, 1_024).contains(reason), "{arguments:?}: {}", why(arguments, 1_024));
    }
    for arguments in [
        &[][..],
        &["--drivers", "20k,100k,1M", "--peer", "redis", "--store", "redis"],
        &["--peer", "tile38,redis", "--peer-addr", "[::1]:9851", "--limit-ms", "3", "--mix", "dispatch"],
        &["--peer", "postgis", "--peer-url", "postgresql://me:word@localhost:5433/db", "--peer-pid", "1"],
    ] {
        assert_eq!(why(arguments, 1_024), "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_whole_run_tells_of_the_service_and_of_a_peer_and_draws_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = ["loadtest", "--drivers", "2k", "--mix", "mixed,stampede", "--peer", "redis", "--seconds", "1"];
    let mut options = Options::parse_from(arguments);
    options.rate = Some(100.0);
    options.connections = Some(4);
    let mut lines = Vec::new();
    let tells = |line: &generator::report::Line| {
        lines.push(line.clone());
        Ok(())
    };
    let service = std::path::Path::new(env!("CARGO_BIN_EXE_geotrail"));
    campaign::run(&options, service, dir.path(), tells).await.expect("it runs");
    let told: Vec<_> = lines.iter().map(|line| (line.contender.as_str(), line.mix, line.good)).collect();
    let mixed = |who| (who, Mix::Mixed, 100);
    assert_eq!(told, [mixed("geotrail embedded"), mixed("plain redis"), ("geotrail embedded", Mix::Stampede, 2_000)]);
    for line in &lines {
        assert!(line.errors.is_empty() && line.generator_share > 0.0, "{}", line.json());
        let json: serde_json::Value = serde_json::from_str(&line.json()).expect("JSON");
        assert!(json["latency_ms"]["p999"].as_f64() >= json["latency_ms"]["p50"].as_f64());
        assert!(json["server_us_a_request"].is_number(), "{json}");
        assert!(!line.text().contains('\n'));
    }
    assert_eq!(lines[0].latency_ms_by_kind.len(), 2);
    assert!(lines[2].costs.service_resident_mib.is_some_and(|mib| mib > 1.0));
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").collect();
    assert!(left.is_empty(), "every server took its directory along: {left:?}");

    let svg = plot::svg(&lines);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    assert_eq!(svg.matches("<polyline").count(), 6, "two plots of three lines");
}
