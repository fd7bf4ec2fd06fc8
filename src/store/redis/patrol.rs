//! Rounds along the rosters: whoever is on the roster of an hour has a track there. A single track that is gone (let
//! go of by a full server, unlinked by hand) changes no number that an audit compares; this finds it.
//!
//! With every audit, some slices of the newest hour are looked at, and some of the others in turn. So a hole in the
//! newest hour is found within `drivers / (250 x slices)` seconds, and one in an older hour within as much for all
//! hours together.
//!
//! Never here: what a track holds. One that was cut short or changed by hand is found by `geotrail verify`.

use parking_lot::Mutex;

use super::Index;
use super::link::Command;
use super::newest::{driver, id};
use super::shard::Shard;
use crate::model::DriverId;
use crate::store::StoreError;

/// Ids in one slice: one ZRANGE and one EXISTS, some 0.1 ms of Redis.
const SLICE: usize = 250;
/// Slices in each round's turn, with each audit.
const SLICES: usize = 4;
/// What is missing is looked for so often: a driver may be erased between the roster and the tracks.
const LOOKS: usize = 3;

/// Where the rounds stand.
#[derive(Debug, Default)]
pub(super) struct Patrol {
    newest: Mutex<Option<Place>>,
    others: Mutex<Option<Place>>,
}

/// Behind this driver, on the roster of this shard.
#[derive(Clone, Debug)]
struct Place {
    shard: Shard,
    after: Option<DriverId>,
}

impl Index {
    /// Goes on with both rounds. `shards` are those with a roster that can be asked, newest first. What has a hole loses
    /// its marks, so that every instance brings what it has; those shards.
    pub(super) async fn patrol(&self, patrol: &Patrol, shards: &[Shard]) -> Result<Vec<Shard>, StoreError> {
        let Some(newest) = shards.first().map(|shard| shard.hour()) else { return Ok(Vec::new()) };
        let (now, before): (Vec<Shard>, Vec<Shard>) = shards.iter().partition(|shard| shard.hour() == newest);
        let mut holed = Vec::new();
        for (round, shards) in [(&patrol.newest, now), (&patrol.others, before)] {
            for _ in 0..SLICES {
                let place = round.lock().clone();
                let Some(place) = place.and_then(|place| resumed(place, &shards)).or_else(|| first(&shards)) else {
                    break;
                };
                // A round that is broken off goes on from there.
                *round.lock() = Some(place.clone());
                let (is_whole, last) = self.walk(&place).await?;
                if !is_whole {
                    self.link.ask(Command::on("UNLINK", self.keys.marks(place.shard))).await?;
                    holed.push(place.shard);
                }
                let next = || shards.iter().find(|shard| **shard < place.shard);
                *round.lock() = match last {
                    Some(after) => Some(Place { after: Some(after), ..place }),
                    None => next().map(|shard| Place { shard: *shard, after: None }),
                };
            }
        }
        Ok(holed)
    }

    /// Whether everybody of a slice has a track, and who is the last of it, if there may be more.
    async fn walk(&self, Place { shard, after }: &Place) -> Result<(bool, Option<DriverId>), StoreError> {
        for look in 1.. {
            let from = after.as_ref().map_or_else(|| "-".into(), |after| [b"(", id(after).as_ref()].concat());
            let roster = Command::on("ZRANGE", self.keys.roster(*shard)).arg(from).arg("+").arg("BYLEX");
            let roster = self.link.ask(roster.arg("LIMIT").number(0).number(SLICE)).await?.list()?;
            let drivers = roster.into_iter().map(driver).collect::<Result<Vec<_>, _>>()?;
            let Some(last) = drivers.last().cloned() else { break };
            let last = (drivers.len() == SLICE).then_some(last);
            let mut tracks = drivers.iter().map(|driver| self.keys.track(*shard, driver));
            let Some(first) = tracks.next() else { break };
            let there = self.link.ask(Command::on("EXISTS", first).args(tracks)).await?.count()?;
            if there == drivers.len() as u64 {
                return Ok((true, last));
            }
            if look == LOOKS {
                return Ok((false, last));
            }
        }
        Ok((true, None))
    }
}

/// The same place, or the beginning of the next shard if that one is not among them any more.
fn resumed(place: Place, shards: &[Shard]) -> Option<Place> {
    let next = *shards.iter().find(|shard| **shard <= place.shard)?;
    Some(if next == place.shard { place } else { Place { shard: next, after: None } })
}

fn first(shards: &[Shard]) -> Option<Place> {
    shards.first().map(|shard| Place { shard: *shard, after: None })
}
