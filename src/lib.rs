//! geotrail: where every driver is, and was, hour by hour.
//!
//! One idea carries all of it: **the journal is the truth; every store is an index that can be rebuilt from it.**
//!
//! ```text
//!  phone ── POST ──> http ──> model ──> ingest ──> journal ──fsync──> 202
//!                    parse    validate   append       │
//!                                                     └─tail─> applier ──> store ──> query ──> http ── GET ──> app
//! ```
//!
//! The modules, in the order a point meets them:
//!
//! | module | what it does | what it never does |
//! |---|---|---|
//! | [`http`] | turns requests into domain types, and answers into JSON, `GeoJSON`, NDJSON | touches the journal or a store's adapter |
//! | [`model`] | what a point is, which of two wins, how far apart places are, the walk to the nearest | I/O, a clock, an encoding |
//! | [`ingest`] | submits points and waits until they are on disk | knows that stores exist |
//! | [`journal`] | the durable log: group commit, recovery, retention, checkpoints | interprets what it keeps |
//! | [`applier`] | follows the journal into a store, makes good what that lost, sets aside what it refuses | invents a second way in |
//! | [`store`] | the contract of an index, and its two forms: [`store::embedded`] and [`store::redis`] | reads the journal or the clock |
//! | [`erasure`] | takes a driver out of journal and store, here and at every other instance | speaks HTTP, knows what a segment looks like |
//! | [`peers`] | the other instances on a store: who they are, and what their absence makes of answers | reaches them, or touches the journal |
//! | [`query`] | what the contract promises of each question, and the label of the answer | speaks HTTP, names an adapter |
//! | [`health`] | whether the fleet still reports | waits |
//! | [`jobs`] | forgetting, rebuilding, comparing | HTTP |
//! | [`app`] | builds all of this, and takes it down along the flow | anything else |
//!
//! Beside the flow: [`keys`] (who may call), [`clock`] (injected), [`cutoff`] (what is over, by that clock and by a store's own), [`config`] and
//! [`cli`] (flag, variable, file, default), [`telemetry`] (logs and metrics), [`fleet`] (simulate and replay: clients of the HTTP contract and of nothing else), [`plan`] (what
//! a fleet needs, reckoned from what was measured), [`doctor`] (whether a Redis is fit for the service; it only reads).
//!
//! # Invariants
//!
//! - A 202 means: fsynced here. A 200 with `wait=applied` means: and in the store. Nothing goes round the journal.
//! - A type of [`model`] is the proof that a value was checked. Only the edge checks.
//! - Applying twice, late, or out of order changes nothing: a point is known by driver and millisecond.
//! - What was erased does not come back: not by a crash, a rebuild, or an instance that was away.
//! - No answer hides that it is less than whole. Nothing to answer from is an error, never an empty list.
//! - A dead store degrades answers and nothing else; a dead journal turns `/readyz` red.
//! - No driver id, coordinate or secret in a log line, a metric label or an error.
//!
//! Who may import whom is a table in `tests/it/tidy.rs`, which fails when a rule is broken. `docs/architecture.md`
//! walks one point from the phone to an answer.

pub mod app;
pub mod applier;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cutoff;
pub mod doctor;
pub mod erasure;
pub mod fleet;
pub mod health;
pub mod http;
pub mod ingest;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod model;
pub mod peers;
pub mod plan;
pub mod query;
pub mod store;
pub mod telemetry;
pub mod watched;
