//! Who may ask for what: the key that a request brings against the scope that its route needs. It comes before everything
//! else that a request may cost: nothing of a body is read or unpacked for a caller without a key.
//!
//! Whoever tries keys that are none is slowed down, by address and by the id of the key that is tried; whoever has a key
//! is not, from the same address either.
//!
//! Never here: what a key looks like (`keys`), which route needs what (`router`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;

use super::problem::Problem;
use crate::clock::Clock;
use crate::keys::{KeyId, KeyRing, Rejected, Scope};

/// So many keys may be wrong at once,
const BURST: f64 = 20.0;
/// and then one more in so much time.
const ONE_MORE_EVERY: Duration = Duration::from_secs(1);
/// Addresses and ids that are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// What a route asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Free,
    /// A key with this scope.
    Needs(Scope),
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Lets pass who may.
#[derive(Clone)]
pub struct Guard(Option<Arc<Keyed>>);

struct Keyed {
    keys: KeyRing,
    clock: Clock,
    failures: Failures,
}

impl Guard {
    /// Whoever comes may ask for everything.
    pub const fn open() -> Self {
        Self(None)
    }

    /// Whoever has one of these keys may ask for what it is for.
    pub fn with(keys: KeyRing, clock: Clock) -> Self {
        Self(Some(Arc::new(Keyed { keys, clock, failures: Failures::default() })))
    }

    /// Whether `request` may pass.
    pub(super) fn admit(&self, request: &Request, access: Access) -> Result<(), Problem> {
        let (Some(keyed), Access::Needs(scope)) = (&self.0, access) else { return Ok(()) };
        let presented = bearer(request.headers()).ok_or(Problem::Unauthenticated)?;
        match keyed.keys.keys().find(presented, keyed.clock.now()) {
            Ok(entry) if entry.scopes.contains(&scope) => Ok(()),
            Ok(_) => Err(Problem::Forbidden(scope)),
            Err(rejected) => {
                let address = request.extensions().get::<Peer>().map(|peer| Who::at(peer.0));
                let id = match rejected {
                    Rejected::Unknown(id) => id,
                    Rejected::Expired(id) => Some(id),
                };
                let all = [address, id.map(Who::Key)].into_iter().flatten();
                let waits = all.filter_map(|who| keyed.failures.note(who)).max();
                Err(waits.map_or(Problem::Unauthenticated, Problem::RateLimited))
            }
        }
    }
}

/// What stands behind `Bearer`, if there is one `Authorization` and it is that.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, key) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_matches(' '))
}

/// Of whom failures are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// Of IPv6 the first half, which is what one customer of a provider has.
    Address(IpAddr),
    Key(KeyId),
}

impl Who {
    fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// How many more failures each may have, and as of when.
#[derive(Default)]
struct Failures(Mutex<HashMap<Who, (f64, Instant)>>);

impl Failures {
    /// Notes one. If there were too many: how long until the next may be.
    fn note(&self, who: Who) -> Option<Duration> {
        let now = Instant::now();
        let more = |since: Instant| now.duration_since(since).as_secs_f64() / ONE_MORE_EVERY.as_secs_f64();
        let mut all = self.0.lock();
        if all.len() >= MOST_REMEMBERED && !all.contains_key(&who) {
            // Who spreads failures over so many addresses is not slowed down by any of them.
            all.clear();
        }
        let (left, since) = all.entry(who).or_insert((BURST, now));
        (*left, *since) = ((*left + more(*since)).min(BURST), now);
        if *left < 1.0 {
            return Some(ONE_MORE_EVERY.mul_f64(1.0 - *left));
        }
        *left -= 1.0;
        None
    }
}
