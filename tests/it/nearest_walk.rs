//! The walk finds what a scan finds: across the antimeridian, at the latitude limits, in deserts, with ties.

use std::collections::BTreeMap;

use geotrail::model::{Nearest, NearestWalk, Position, Probe, QuadCell};
use proptest::prelude::*;

fn place(lat_e7: i32, lon_e7: i32) -> Position {
    Position::from_e7(lat_e7, lon_e7).expect("in range")
}

/// Places around a few corners of the world, some of them exactly alike.
fn any_place() -> impl Strategy<Value = Position> {
    let near = |lat: i32, lon: i32| {
        ((lat - 3_000_000..=lat + 3_000_000), (lon - 3_000_000..=lon + 3_000_000)).prop_map(|(lat, lon)| {
            let lat = lat.clamp(-850_511_287, 850_511_287);
            let lon = (i64::from(lon) + 1_800_000_000).rem_euclid(3_600_000_000) - 1_800_000_000;
            place(lat, lon as i32)
        })
    };
    prop_oneof![
        4 => near(437_384_000, 74_246_000),
        2 => near(0, 1_799_000_000),
        2 => near(849_000_000, -1_799_500_000),
        1 => near(-850_000_000, 0),
        1 => (-850_511_287..=850_511_287, -1_800_000_000..1_800_000_000).prop_map(|(lat, lon)| place(lat, lon)),
        1 => Just(place(437_384_000, 74_246_000)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_walk_finds_what_a_scan_finds(
        places in prop::collection::vec(any_place(), 0..300),
        centre in any_place(),
        radius_m in prop_oneof![1.0..100_000.0_f64, Just(100_000.0)],
        limit in prop_oneof![1..20_usize, Just(1_000)],
        leaf in 1..40_u64,
        width in 1..9_usize,
        rumours in prop::collection::vec(prop::option::of(0..60_u64), 7),
    ) {
        let cells = QuadCell::covering(centre, radius_m).into_iter();
        let probes = cells.flat_map(|cell| [0, 1].map(|source| Probe { source, cell }));
        let mut walk = NearestWalk::new(centre, radius_m, leaf, width);
    walk.add(probes);
        let mut nearest = Nearest::new(centre, radius_m, limit);
        let inside = |source: usize, cell: QuadCell| {
            places.iter().enumerate().filter(move |(item, place)| {
                item % 2 == source && QuadCell::containing(**place, cell.level()) == cell
            })
        };
        // What is known of cells may be wrong: it costs something, and changes nothing.
        let known = |Probe { source, cell }: Probe| {
            let rumour = rumours[cell.scores().start as usize % rumours.len()]?;
            Some(inside(source, cell).count() as u64 * rumour / 30)
        };
        while let Some(step) = walk.next_step(nearest.bound_m(), nearest.wanted() as u64, known) {
            for probe in step.count {
                walk.counted(probe, inside(probe.source, probe.cell).count() as u64);
            }
            for probe in step.read {
                for (item, place) in inside(probe.source, probe.cell) {
                    nearest.offer(*place, item);
                }
            }
        }
        let by_distance: BTreeMap<(u64, usize), f64> = places
            .iter()
            .enumerate()
            .map(|(item, place)| (centre.distance_m(*place), item))
            .filter(|(distance_m, _)| *distance_m <= radius_m)
            .map(|(distance_m, item)| ((distance_m.to_bits(), item), distance_m))
            .collect();
        let expected: Vec<(f64, usize)> =
            by_distance.iter().take(limit).map(|((_, item), distance_m)| (*distance_m, *item)).collect();
        prop_assert_eq!(nearest.finish(), (expected, by_distance.len() > limit));
    }
}
