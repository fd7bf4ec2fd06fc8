//! Somebody else writes, or the connection is lost, between the moment when a write has looked and the moment when it is
//! carried out, or while a question is on its way. A gate before the server holds it at that very point.

use std::time::Duration;

use geotrail::model::{Point, Position, Resolution};
use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Batch, NearbyQuery, Store, StoreError, When};

use crate::harness::gate::{Gate, Verdict};
use crate::harness::redis::RedisServer;
use crate::harness::switch::Switch;
use crate::redis_store::{
    assert_expiries, assert_holds, assert_public_keys, batch, id, now, options, point, works_again,
};
use crate::sharding::{assert_sharded_keys, resolution};

pub(crate) const ONE: &str = "00000000000000a1";
pub(crate) const TWO: &str = "00000000000000b2";
/// More than one transaction takes.
const DRIVERS: usize = 70;
/// As many as one transaction takes, whatever was measured.
const FEW: usize = 10;

pub(crate) async fn connected(server: &RedisServer, url: String, instance: &str, cells: Option<u8>) -> RedisStore {
    let options = Options { url, shard_resolution: cells.map(resolution), ..options(server, instance) };
    let store = RedisStore::connect(options).await.expect("a good URL");
    works_again(&store).await;
    store
}

/// Everybody from `first` on, `step` of 2 km to the north, `seconds` into the last hour.
pub(crate) fn fleet(first: usize, step: i32, seconds: i64) -> Vec<Point> {
    let ts = now().hour().previous().start().plus_ms(seconds * 1_000);
    let place = |number: usize| point(id(number), ts, 525_000_000 + step * 180_000, 134_000_000);
    (first..first + DRIVERS).map(place).collect()
}

pub(crate) fn assert_keys(server: &RedisServer, points: &[Point], cells: Option<Resolution>) {
    match cells {
        None => assert_public_keys(server, points),
        Some(cells) => assert_sharded_keys(server, points, cells),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_overtaken_looks_again() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, cells).await;
        let fast = connected(&server, server.url(), TWO, cells).await;
        let [first, older, newer] =
            [(0, 10), (1, 20), (2, 30)].map(|(step, seconds)| fleet(0, step, seconds)[..FEW].to_vec());
        slow.apply(batch(&first, 1)).await.expect("Redis is there");
        let alone = gate.passed();

        gate.close();
        let overtaking = async {
            let held = gate.holds().await.expect("the gate is there");
            fast.apply(batch(&newer, 1)).await.expect("Redis is there");
            held.send(Verdict::Pass).expect("the gate waits");
        };
        let (written, ()) = tokio::join!(slow.apply(batch(&older, 2)), overtaking);
        written.expect("it looked again");
        assert!(gate.passed() > 2 * alone, "{} transactions, alone {alone}", gate.passed());
        let all = [first, older, newer].concat();
        for store in [&slow, &fast] {
            assert_holds(store, &all).await;
            assert_eq!(store.audit().await.expect("Redis is there"), None);
        }
        assert_keys(&server, &all, cells.map(resolution));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_drivers_hold_nobody_up() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let slow = connected(&server, gate.url(), ONE, None).await;
    let fast = connected(&server, server.url(), TWO, None).await;
    // One transaction.
    let ours = |step, seconds| fleet(0, step, seconds)[..FEW].to_vec();
    slow.apply(batch(&ours(0, 10), 1)).await.expect("Redis is there");
    // Nor does that they come, once it is known that they are there.
    let before = fleet(DRIVERS, 0, 10);
    fast.apply(batch(&before, 1)).await.expect("Redis is there");
    slow.apply(batch(&ours(0, 10), 1)).await.expect("Redis is there");
    let known_by_then = gate.passed();
    let (moved, theirs) = (ours(1, 20), fleet(DRIVERS, 1, 20));
    gate.close();
    let meanwhile = async {
        let held = gate.holds().await.expect("the gate is there");
        fast.apply(batch(&theirs, 2)).await.expect("Redis is there");
        held.send(Verdict::Pass).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(slow.apply(batch(&moved, 2)), meanwhile);
    written.expect("Redis is there");
    assert_eq!(gate.passed(), known_by_then + 1, "it was never dropped");
    assert_holds(&slow, &[ours(0, 10), before, moved, theirs].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_takes_its_write_with_it() {
    for cells in [None, Some(7)] {
        let server = RedisServer::start();
        let mut gate = Gate::before(&server).await;
        let slow = connected(&server, gate.url(), ONE, cells).await;
        let fast = connected(&server, server.url(), TWO, cells).await;
        let first = fleet(0, 0, 10);
        slow.apply(batch(&first, 1)).await.expect("Redis is there");

        // One transaction, of which nothing arrives.
        let (older, newer) = (fleet(0, 1, 20)[..3].to_vec(), fleet(0, 2, 30)[..3].to_vec());
        gate.close();
        let losing = async {
            let held = gate.holds().await.expect("the gate is there");
            fast.apply(batch(&newer, 1)).await.expect("Redis is there");
            held.send(Verdict::Cut).expect("the gate waits");
        };
        let (written, ()) = tokio::join!(slow.apply(batch(&older[..1], 2)), losing);
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
        let without = [first, newer].concat();
        assert_holds(&fast, &without).await;
        assert_keys(&server, &without, cells.map(resolution));

        slow.apply(Batch { repeated: true, ..batch(&older, 2) }).await.expect("it connects anew");
        let all = [without, older].concat();
        assert_holds(&slow, &all).await;
        assert_keys(&server, &all, cells.map(resolution));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_track_that_goes_meanwhile_comes_back_with_its_expiry() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, None).await;
    let [first, second] = [(0, 10), (1, 20)].map(|(step, seconds)| fleet(0, step, seconds)[..FEW].to_vec());
    store.apply(batch(&first, 1)).await.expect("Redis is there");
    let known_by_then = gate.passed();
    let track = |number| format!("geotrail:{{{}}}:track:{}", first[0].fix.ts.hour(), id(number));
    let unlink: Vec<String> = std::iter::once("UNLINK".into()).chain((0..FEW).map(track)).collect();
    gate.close();
    let going = async {
        let held = gate.holds().await.expect("the gate is there");
        server.cli(&unlink.iter().map(String::as_str).collect::<Vec<_>>());
        held.send(Verdict::Pass).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(store.apply(batch(&second, 2)), going);
    written.expect("Redis is there");
    assert_eq!(gate.passed(), known_by_then + 1, "who writes alone watches no track");
    assert_expiries(&server);
    store.apply(Batch { repeated: true, ..batch(&first, 1) }).await.expect("Redis is there");
    assert_expiries(&server);
    assert_holds(&store, &[first, second].concat()).await;
}

/// A fix a second of everybody in one transaction, from so many seconds into the last hour on.
fn minutes(seconds: std::ops::Range<i64>) -> Vec<Point> {
    seconds.flat_map(|second| fleet(0, second as i32 % 50, second)[..FEW].to_vec()).collect()
}

/// Holds a repetition of `ours` between its look and its write until `meanwhile` is done. What Redis sent after that, in bytes.
async fn repeat_beside(server: &RedisServer, ours: &[Point], meanwhile: impl AsyncFnOnce()) -> f64 {
    let mut gate = Gate::before(server).await;
    let slow = connected(server, gate.url(), ONE, None).await;
    gate.close();
    let overtaking = async {
        let held = gate.holds().await.expect("the gate is there");
        meanwhile().await;
        let sent = server.info("total_net_output_bytes");
        held.send(Verdict::Pass).expect("the gate waits");
        sent
    };
    let repeated = Batch { repeated: true, ..batch(ours, 2) };
    let (written, sent) = tokio::join!(slow.apply(repeated), overtaking);
    written.expect("it looked again");
    assert_eq!(gate.passed(), 2, "it was dropped once");
    server.info("total_net_output_bytes") - sent
}

/// The bytes of all tracks that `points` of [`minutes`] are in.
fn track_bytes(server: &RedisServer, points: &[Point]) -> f64 {
    let hour = points[0].fix.ts.hour();
    let bytes = |number| server.cli(&["STRLEN", &format!("geotrail:{{{hour}}}:track:{}", id(number))]);
    (0..FEW).map(|number| bytes(number).trim().parse::<f64>().expect("a number")).sum()
}

/// Else it might be dropped for ever, where others write to tracks that take longer to read than they take to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_is_overtaken_reads_on_where_it_was() {
    let server = RedisServer::start();
    let fast = connected(&server, server.url(), TWO, None).await;
    let (old, lacking, theirs) = (minutes(0..3_400), minutes(3_400..3_403), minutes(3_500..3_503));
    fast.apply(batch(&old, 1)).await.expect("Redis is there");
    let held = track_bytes(&server, &old);
    assert!(held > 200_000.0, "{held} bytes are not much to read");
    let ours = [old.clone(), lacking.clone()].concat();
    let read = repeat_beside(&server, &ours, async || {
        fast.apply(batch(&theirs, 2)).await.expect("Redis is there");
    })
    .await;
    assert!(read < held / 10.0, "{read} bytes were read after it was dropped, of {held}");
    let grown = track_bytes(&server, &old) - held;
    assert!(grown < held / 50.0, "what was there came again: {grown} bytes");
    assert_holds(&fast, &[ours, theirs].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_track_that_goes_while_it_is_repeated_gets_all_of_it() {
    // It goes, or begins anew, with less than was seen or with more that looks alike where the seen one ended.
    for theirs in [minutes(0..0), minutes(1_000..1_001), minutes(1_000..1_300)] {
        let server = RedisServer::start();
        let fast = connected(&server, server.url(), TWO, None).await;
        let (old, lacking) = (minutes(0..100), minutes(100..101));
        fast.apply(batch(&old, 1)).await.expect("Redis is there");
        let ours = [old, lacking].concat();
        repeat_beside(&server, &ours, async || {
            let tracks = server.keys().into_iter().filter(|key| key.contains(":track:"));
            let unlink: Vec<String> = std::iter::once("UNLINK".into()).chain(tracks).collect();
            server.cli(&unlink.iter().map(String::as_str).collect::<Vec<_>>());
            fast.apply(batch(&theirs, 2)).await.expect("Redis is there");
        })
        .await;
        assert_expiries(&server);
        assert_holds(&fast, &[ours, theirs].concat()).await;
    }
}

/// Also where nobody else writes: what a track was seen to hold is not believed of one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_track_that_goes_while_its_only_writer_repeats_it_gets_all_of_it() {
    let server = RedisServer::start();
    let mut gate = Gate::before(&server).await;
    let store = connected(&server, gate.url(), ONE, None).await;
    let (old, lacking) = (minutes(0..100), minutes(100..101));
    store.apply(batch(&old, 1)).await.expect("Redis is there");
    let ours = [old, lacking].concat();
    gate.close();
    let going = async {
        let held = gate.holds().await.expect("the gate is there");
        let tracks = server.keys().into_iter().filter(|key| key.contains(":track:"));
        let unlink: Vec<String> = std::iter::once("UNLINK".into()).chain(tracks).collect();
        server.cli(&unlink.iter().map(String::as_str).collect::<Vec<_>>());
        held.send(Verdict::Pass).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(store.apply(Batch { repeated: true, ..batch(&ours, 2) }), going);
    written.expect("it looked again");
    assert_expiries(&server);
    assert_holds(&store, &ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drives_into_a_new_cell_while_cells_are_read_is_found_there() {
    let server = RedisServer::start();
    // The first reading of a cell.
    let mut gate = Gate::holding(b"BYSCORE", &server).await;
    let reader = connected(&server, gate.url(), ONE, Some(7)).await;
    let writer = connected(&server, server.url(), TWO, Some(7)).await;
    let [before, after] = [(0, 10), (3, 20)].map(|(step, seconds)| fleet(0, step, seconds)[..1].to_vec());
    let when = When::During(before[0].fix.ts.hour());
    let centre = Position::new(52.5, 13.4).expect("on the map");
    let query = NearbyQuery { centre, radius_m: 20_000.0, limit: 10, when, tags: Vec::new() };
    let found = async || reader.nearby(&query).await.map(|(near, _)| near).expect("Redis is there");
    writer.apply(batch(&before, 1)).await.expect("Redis is there");
    assert_eq!(found().await.len(), 1);
    gate.close();
    let driving = async {
        let held = gate.holds().await.expect("the gate is there");
        writer.apply(batch(&after, 2)).await.expect("Redis is there");
        held.send(Verdict::Pass).expect("the gate waits");
    };
    let (found, ()) = tokio::join!(found(), driving);
    let places: Vec<Position> = found.iter().map(|near| near.located.fix.position).collect();
    assert_eq!(places, [after[0].fix.position]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_crosses_two_borders_while_a_writer_crashes_is_in_the_last_cell_alone() {
    let server = RedisServer::start();
    // The first telling of a cell: the bucket has been written by then.
    let mut gate = Gate::holding(b":seen", &server).await;
    let slow = connected(&server, gate.url(), ONE, Some(7)).await;
    let fast = connected(&server, server.url(), TWO, Some(7)).await;
    let [first, second, third] =
        [(0, 10), (2, 20), (4, 30)].map(|(step, seconds)| fleet(0, step, seconds)[..3].to_vec());
    slow.apply(batch(&first, 1)).await.expect("Redis is there");
    gate.close();
    let crashing = async {
        let held = gate.holds().await.expect("the gate is there");
        held.send(Verdict::Cut).expect("the gate waits");
    };
    let (written, ()) = tokio::join!(slow.apply(batch(&second, 2)), crashing);
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    assert!(server.keys().iter().any(|key| key.ends_with(":leaving")), "nobody has a cell to leave");

    fast.apply(batch(&third, 1)).await.expect("Redis is there");
    let all = [first, second, third].concat();
    assert_holds(&fast, &all).await;
    assert_sharded_keys(&server, &all, resolution(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_server_far_away_is_written_to_over_many_lines() {
    let server = RedisServer::start();
    let switch = Switch::to(server.port()).await;
    switch.slow_down(Duration::from_millis(5));
    let store = connected(&server, RedisServer::url_at(&format!("127.0.0.1:{}", switch.port())), ONE, None).await;
    let lines = || server.cli(&["CLIENT", "LIST"]).matches("name=geotrail").count();
    let everybody =
        |step, seconds| -> Vec<Point> { (0..10).flat_map(|part| fleet(part * DRIVERS, step, seconds)).collect() };
    let (first, second) = (everybody(0, 10), everybody(1, 20));
    store.apply(batch(&first, 1)).await.expect("Redis is there");
    let known_by_then = lines();
    store.apply(batch(&second, 2)).await.expect("Redis is there");
    assert!(lines() >= known_by_then + 8, "{} lines, {known_by_then} before it was known", lines());
    switch.slow_down(Duration::ZERO);
    assert_holds(&store, &[first, second].concat()).await;
    assert_eq!(store.audit().await.expect("Redis is there"), None);
}
