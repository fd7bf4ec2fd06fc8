//! The geometry of the quadtree that the walk to the nearest stands on, and how little the walk reads.

use geotrail::model::{Nearest, NearestWalk, Position, Probe, QuadCell};
use proptest::prelude::*;

fn anywhere() -> impl Strategy<Value = Position> {
    let lat = prop_oneof![4 => -85.051_128_78..=85.051_128_78, 1 => 84.9..=85.051_128_78, 1 => -0.01..0.01];
    let lon = prop_oneof![4 => -180.0..=180.0, 1 => 179.99..=180.0, 1 => -180.0..=-179.99];
    (lat, lon).prop_map(|(lat, lon)| Position::new(lat, lon).expect("within range"))
}

/// Answers the walk from a plain list: how many it found, and how many places it read for that.
fn walk(
    centre: Position,
    crowd: &[Position],
    radius_m: f64,
    limit: usize,
    leaf: u64,
    width: usize,
) -> (usize, usize) {
    let within = |cell: QuadCell| {
        let scores = cell.scores();
        let inside = move |position: &Position| {
            scores.contains(&QuadCell::containing(*position, QuadCell::MAX_LEVEL).scores().start)
        };
        (0..crowd.len()).filter(move |index| inside(&crowd[*index]))
    };
    let probes = QuadCell::covering(centre, radius_m).into_iter().map(|cell| Probe { source: 0, cell });
    let mut walk = NearestWalk::new(centre, radius_m, leaf, width);
    walk.add(probes);
    let mut nearest = Nearest::new(centre, radius_m, limit);
    let mut read = 0;
    while let Some(step) = walk.next_step(nearest.bound_m(), nearest.wanted() as u64, |_| None) {
        for probe in step.count {
            walk.counted(probe, within(probe.cell).count() as u64);
        }
        for probe in step.read {
            for index in within(probe.cell) {
                read += 1;
                nearest.offer(crowd[index], index);
            }
        }
    }
    (nearest.finish().0.len(), read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_cell_claims_to_be_farther_than_what_is_in_it(from in anywhere(), to in anywhere(), level in 0..=26_u8) {
        let cell = QuadCell::containing(to, level);
        prop_assert!(cell.min_distance_m(from) <= from.distance_m(to));
        prop_assert!(cell.scores().contains(&QuadCell::containing(to, QuadCell::MAX_LEVEL).scores().start));
    }

    #[test]
    fn a_cover_holds_the_circle(centre in anywhere(), radius_m in 1.0..100_000.0, bearing in 0.0..360.0, part in 0.0..0.999) {
        use geo::{Destination, HaversineMeasure, Point};
        let sphere = HaversineMeasure::new(geotrail::model::EARTH_RADIUS_M);
        let there = sphere.destination(Point::new(centre.lon(), centre.lat()), bearing, radius_m * part);
        prop_assume!(there.y().abs() < 85.05);
        let there = Position::new(there.y(), (there.x() + 540.0).rem_euclid(360.0) - 180.0).expect("within range");
        let cover = QuadCell::covering(centre, radius_m);
        prop_assert!(cover.len() <= 8);
        prop_assert!(cover.iter().any(|cell| QuadCell::containing(there, cell.level()) == *cell));
    }
}

#[test]
fn ten_out_of_many_are_found_by_reading_few() {
    let centre = Position::new(52.2, 21.0).expect("within range");
    let crowd: Vec<Position> = (0..20_000)
        .map(|n| {
            let (row, column) = (f64::from(n / 200), f64::from(n % 200));
            Position::new(52.1 + row * 0.002, 20.8 + column * 0.002).expect("within range")
        })
        .collect();
    let (found, read) = walk(centre, &crowd, 10_000.0, 10, 64, 8);
    assert_eq!(found, 10);
    assert!(read < 600, "read {read} of 20,000 places");
}
