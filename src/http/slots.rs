//! How many connections there may be at once: in all, and from one client, so that none keeps the others out. The system
//! allows a process so many open files; some stay free for the journal, stores and whatever else must be opened, whoever
//! connects.
//!
//! Never here: what becomes of a connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Connections in all, where the system allows that many open files.
const MOST: usize = 10_000;
/// One client has at most one in so many of all: a proxy, which is one client, needs some hundreds.
const CLIENT_SHARE: usize = 4;
/// Open files that are not for connections: segments, lines to each server of a store, keys, certificates.
const OTHER_FILES: usize = 512;

/// Room for connections.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    most: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Room for one, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    client: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Full {
    /// There are as many connections as there may be.
    #[error("there are as many as there may be")]
    All,
    /// This client has as many as one may have.
    #[error("one client has as many as it may have")]
    Client,
}

impl Slots {
    /// As many as this process may have. It asks the system for more open files, up to what it may ask for.
    pub(super) fn of_this_process() -> Self {
        let files = allow_files(MOST + OTHER_FILES);
        Self::new(files.saturating_sub(OTHER_FILES).clamp(files / 2, MOST))
    }

    fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Takes one for a connection from `address`.
    pub(super) fn take(&self, address: IpAddr) -> Result<Slot, Full> {
        let client = client(address);
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return Err(Full::All);
        }
        let own = taken.by_client.entry(client).or_default();
        if *own >= (self.most / CLIENT_SHARE).max(1) {
            return Err(Full::Client);
        }
        *own += 1;
        taken.all += 1;
        Ok(Slot { client, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

/// Whose an address is. Whoever has an address of version 6 has at least all that begin with the same 64 bits (RFC 6177).
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// How many files may be open, after asking for `wanted`.
fn allow_files(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    let allowed = current.unwrap_or(u64::MAX);
    let most = wanted.min(maximum.unwrap_or(u64::MAX));
    if allowed >= most {
        return usize::try_from(allowed).unwrap_or(usize::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) => most as usize,
        Err(error) => {
            tracing::warn!(%error, files = allowed, "the system allows no more open files");
            allowed as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_its_share_and_gets_back_what_it_let_go() {
        let slots = Slots::new(8);
        let two = [slots.take(address("10.0.0.1")), slots.take(address("::ffff:10.0.0.1"))];
        assert_eq!(slots.take(address("10.0.0.1")).unwrap_err(), Full::Client);
        let other = slots.take(address("10.0.0.2")).expect("it has none");
        drop(two);
        drop(other);
        assert!(slots.taken.lock().by_client.is_empty());
        let again =
            [1, 1, 2, 2, 3, 3, 4, 4].map(|n| slots.take(address(&format!("10.0.0.{n}"))).expect("there is room"));
        assert_eq!(slots.take(address("10.0.0.5")).unwrap_err(), Full::All);
        drop(again);
        assert_eq!(slots.taken.lock().all, 0);
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        assert_eq!(client(address("2001:db8::1")), client(address("2001:db8::ffff:0:1")));
        assert_ne!(client(address("2001:db8::1")), client(address("2001:db8:0:1::1")));
        assert_ne!(client(address("10.0.0.1")), client(address("10.0.0.2")));
    }
}
