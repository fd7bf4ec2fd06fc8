//! The newest fix of drivers, over the hours of a window; the newest of all.
//!
//! Hours are asked newest first, a few at a time: most drivers are found in the first few, and need no more.
//!
//! Never here: who is asked about (listings and searches say).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::link::{Command, Reply};
use super::outage::Lacks;
use super::shard::Shard;
use super::{Index, packed};
use crate::model::{DriverId, Fix, Hour, Timestamp};
use crate::store::{StoreError, Window};

/// Hours asked at once: a trailing hour and what phones may be ahead lie in three at most.
const HOURS_AT_ONCE: usize = 3;
/// Drivers in one HMGET.
const DRIVERS_PER_COMMAND: usize = 100;

/// What is known of a driver's newest fix.
#[derive(Clone)]
pub(super) enum Sighting {
    At(Fix),
    Nowhere,
    /// It may lie where nobody can be asked.
    Unknown,
}

impl Index {
    /// The newest fix of each of `drivers` in `hours`, which are ordered newest first. Where one is unknown, the answer
    /// `lacks` it.
    pub(super) async fn newest_of(
        &self,
        hours: &[Hour],
        drivers: &[DriverId],
        lacks: &Lacks,
    ) -> Result<Vec<Sighting>, StoreError> {
        let mut newest = vec![Sighting::Nowhere; drivers.len()];
        let is_open = |sighting: &Sighting| matches!(sighting, Sighting::Nowhere);
        for hours in hours.chunks(HOURS_AT_ONCE) {
            let mut open: BTreeMap<Shard, Vec<usize>> = BTreeMap::new();
            for at in (0..drivers.len()).filter(|at| is_open(&newest[*at])) {
                open.entry(self.keys.layout().bucket(hours[0], &drivers[at])).or_default().push(at);
            }
            if open.is_empty() {
                break;
            }
            let slices = || open.iter().flat_map(|(shard, at)| at.chunks(DRIVERS_PER_COMMAND).map(|at| (*shard, at)));
            let questions: Vec<(Shard, &[usize])> =
                hours.iter().flat_map(|hour| slices().map(|(shard, asked)| (shard.in_hour(*hour), asked))).collect();
            let commands = questions.iter().map(|(shard, asked)| {
                let ids = asked.iter().map(|at| id(&drivers[*at]));
                Command::on("HMGET", self.keys.fixes(*shard)).args(ids)
            });
            let replies = self.link.each(commands.collect()).await;
            for ((shard, asked), reply) in questions.into_iter().zip(replies) {
                // Where a newer fix was found, an older hour need not answer.
                if !asked.iter().any(|at| is_open(&newest[*at])) {
                    continue;
                }
                let found = match self.or_lacking(reply, lacks)? {
                    Some(fixes) => {
                        let found = fixes.list()?.into_iter().map(|reply| fix(shard, reply));
                        let sighting = |fix: Option<Fix>| fix.map_or(Sighting::Nowhere, Sighting::At);
                        found.map(|fix| fix.map(sighting)).collect::<Result<Vec<_>, _>>()?
                    }
                    None => vec![Sighting::Unknown; asked.len()],
                };
                for (at, found) in asked.iter().zip(found) {
                    if is_open(&newest[*at]) {
                        newest[*at] = found;
                    }
                }
            }
        }
        Ok(newest)
    }

    /// The newest fix of one driver, if it lies in the window.
    pub(super) async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        let (hours, lacks) = (self.hours(window), Lacks::default());
        match self.newest_of(&hours, std::slice::from_ref(driver), &lacks).await?.pop() {
            Some(Sighting::At(fix)) => Ok(Some(fix).filter(|fix| fix.ts >= window.since)),
            Some(Sighting::Unknown) => lacks.nothing().map(|()| None),
            Some(Sighting::Nowhere) | None => Ok(None),
        }
    }

    /// The `ts` of the newest fix of the fleet, if it lies in the window.
    pub(super) async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        for hours in self.hours(window).chunks(HOURS_AT_ONCE) {
            let shards = hours.iter().flat_map(|hour| self.buckets(*hour));
            let commands = shards.map(|shard| Command::on("GET", self.keys.last(shard)));
            let (mut newest, mut away) = (None, None);
            for reply in self.link.each(commands.collect()).await {
                match reply {
                    Ok(reply) => newest = newest.max(reply.decimal()?),
                    Err(error) => away = Some(error),
                }
            }
            let newest = newest.map(Timestamp::from_ms);
            match (newest.filter(|ts| *ts >= window.since), away) {
                (Some(ts), _) => return Ok(Some(ts)),
                // Whoever is away may have a newer one.
                (None, Some(error)) => return Err(error),
                (None, None) if newest.is_some() => return Ok(None),
                (None, None) => {}
            }
        }
        Ok(None)
    }
}

/// A driver's id as an argument.
pub(super) fn id(driver: &DriverId) -> Bytes {
    Bytes::copy_from_slice(driver.as_str().as_bytes())
}

/// A driver's id out of a reply.
pub(super) fn driver(reply: Reply) -> Result<DriverId, StoreError> {
    let bytes = reply.bytes()?;
    let id = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    id.and_then(|id| DriverId::new(id).ok()).ok_or_else(|| corrupt("a member is no driver id"))
}

/// A packed fix out of a reply.
pub(super) fn fix(shard: Shard, reply: Reply) -> Result<Option<Fix>, StoreError> {
    let Some(bytes) = reply.bytes()? else { return Ok(None) };
    packed::unpack(shard.hour(), &bytes).map(Some).ok_or_else(|| corrupt("a packed fix cannot be read"))
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.into())
}
