//! Clients of the service's HTTP contract: a fleet that is made up, and one that was recorded.
//!
//! Both repeat a batch until it is acknowledged, since repeating is harmless; so a service may be killed and started
//! again under them and nothing is lost.
//!
//! Never here: journal, stores, anything of the service's inside.

pub mod city;
pub mod client;
pub mod progress;
pub mod replay;
pub mod simulate;
pub mod tally;
pub mod trace;
