//! The edge: everything that knows HTTP, and nothing that does not.
//!
//! A request goes through `server` (connections, deadlines, limits of framing; `slots` has how many there may be, `tls` encrypts, `linger` closes them),
//! `edge` (head, the key (`guard`), panics, the log line and the metric of every answer), `router` (the one table of
//! routes) and ends in a handler. A handler does four things: read what was asked (`params`, `accept`, `cursor`, [`points`]), call the way in
//! ([`Ingest`]) or the questions ([`Queries`]), and write what came back (`render`). What may go wrong becomes a
//! `problem`, and that file alone knows which status it has.
//!
//! What all of this answers is described in `openapi.json`, which `openapi` serves, with a page to read it.
//!
//! Nothing that was sent is ever sent back: errors name our own words only. Nor does it reach a log line or a label.
//!
//! Never here: the journal, a store, what a word of the contract means in moments ([`Queries`] knows).

use std::sync::Arc;

use crate::clock::Clock;
use crate::erasure::Eraser;
use crate::health::Health;
use crate::ingest::Ingest;
use crate::query::Queries;
use crate::telemetry::Metrics;

mod accept;
mod carry_on;
mod cursor;
mod edge;
mod erase;
mod guard;
mod health;
mod ingest;
mod instances;
mod linger;
mod metrics;
mod openapi;
mod params;
pub mod points;
mod problem;
mod query;
pub mod render;
mod router;
mod server;
mod slots;
mod stores;
mod tls;

pub use guard::{Access, Guard};
pub use router::{router, table};
pub use server::serve;
pub use stores::{Shares, StoreInUse, Stores, Unchanged};
pub use tls::{Tls, TlsError};

/// All that the handlers reach.
#[derive(Clone)]
pub struct Service {
    /// Who may ask.
    pub guard: Guard,
    /// The stores, as they can be changed.
    pub stores: Arc<dyn Stores>,
    /// The way in.
    pub ingest: Ingest,
    /// The questions.
    pub queries: Queries,
    /// The way out.
    pub eraser: Eraser,
    /// What the uptime monitor is told.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The time of day.
    pub clock: Clock,
}
