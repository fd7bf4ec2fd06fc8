//! Work that nobody waits for. Each job is a function that a schedule in `app` calls, and that a command could call
//! as well.
//!
//! Never here: HTTP.

pub mod rebuild;
pub mod retention;
pub mod verify;
