//! Every integration test, in one binary: it links once.

mod bad_framing;
mod bad_input;
mod bad_state;
mod cli;
mod crash;
mod discretion;
mod durability;
mod embedded_store;
mod erasure;
mod fleet;
mod harness;
mod health;
mod journal;
mod model;
mod naive_store;
mod nearest_walk;
mod oracle;
mod points;
mod quad;
mod queries;
mod redis_store;
mod scrub;
mod store_contract;
mod tidy;
mod traces;
mod track_codec;
