//! Work that nobody waits for, and work that somebody asks for by name. Each job is a function that a schedule in `app`
//! or a command calls.
//!
//! Never here: HTTP.

pub mod rebuild;
pub mod retention;
pub mod verify;
