//! The contract of a store in its plainest form: every point in one ordered map, every question a scan.

use std::collections::{BTreeMap, BTreeSet};

use geotrail::model::{DriverId, Fix, Hour, Point, Timestamp};
use geotrail::store::{Located, Near, NearbyQuery, When, Window};

/// Of a driver and a millisecond, the greatest fix.
#[derive(Debug, Default)]
pub(crate) struct NaiveStore {
    fixes: BTreeMap<DriverId, BTreeMap<Timestamp, Fix>>,
}

impl NaiveStore {
    pub(crate) fn apply(&mut self, points: &[Point], forget_before: Timestamp) {
        for Point { driver, fix } in points.iter().filter(|point| point.fix.ts.hour().end() > forget_before) {
            let kept = self.fixes.entry(driver.clone()).or_default().entry(fix.ts).or_insert_with(|| fix.clone());
            *kept = fix.clone().max(kept.clone());
        }
    }

    pub(crate) fn forget_before(&mut self, cutoff: Timestamp) {
        for fixes in self.fixes.values_mut() {
            fixes.retain(|ts, _| ts.hour().end() > cutoff);
        }
        self.fixes.retain(|_, fixes| !fixes.is_empty());
    }

    pub(crate) fn latest(&self, driver: &DriverId, window: Window) -> Option<Fix> {
        let newest = self.fixes.get(driver)?.values().next_back()?;
        (window.since <= newest.ts && newest.ts <= window.until).then(|| newest.clone())
    }

    pub(crate) fn active(&self, window: Window) -> Vec<Located> {
        let located = |driver: &DriverId| Some(Located { driver: driver.clone(), fix: self.latest(driver, window)? });
        self.fixes.keys().filter_map(located).collect()
    }

    pub(crate) fn hour_positions(&self, hour: Hour) -> Vec<Located> {
        let last = |(driver, fixes): (&DriverId, &BTreeMap<Timestamp, Fix>)| {
            let (_, fix) = fixes.range(hour.start()..hour.end()).next_back()?;
            Some(Located { driver: driver.clone(), fix: fix.clone() })
        };
        self.fixes.iter().filter_map(last).collect()
    }

    pub(crate) fn track(&self, driver: &DriverId, from: Timestamp, to: Timestamp, limit: usize) -> Vec<Fix> {
        let Some(fixes) = self.fixes.get(driver).filter(|_| from < to) else { return Vec::new() };
        fixes.range(from..to).take(limit).map(|(_, fix)| fix.clone()).collect()
    }

    pub(crate) fn nearby(&self, query: &NearbyQuery) -> (Vec<Near>, bool) {
        let all = match query.when {
            When::Within(window) => self.active(window),
            When::During(hour) => self.hour_positions(hour),
        };
        let mut near: Vec<Near> = all
            .into_iter()
            .filter(|located| located.fix.tags.contains_all(&query.tags))
            .map(|located| Near { distance_m: query.centre.distance_m(located.fix.position), located })
            .filter(|near| near.distance_m <= query.radius_m)
            .collect();
        near.sort_by(|a, b| {
            a.distance_m.total_cmp(&b.distance_m).then_with(|| a.located.driver.cmp(&b.located.driver))
        });
        let is_truncated = near.len() > query.limit;
        near.truncate(query.limit);
        (near, is_truncated)
    }

    pub(crate) fn last_report(&self, window: Window) -> Option<Timestamp> {
        self.active(window).into_iter().map(|located| located.fix.ts).max()
    }

    pub(crate) fn drivers(&self) -> BTreeSet<DriverId> {
        self.fixes.keys().cloned().collect()
    }
}
