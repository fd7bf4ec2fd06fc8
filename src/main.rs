//! geotrail: a service for the positions of a fleet, and its tools.

use std::process::ExitCode;

use geotrail::telemetry::LogFormat;
use mimalloc::MiMalloc;

/// A request takes some sixty pieces of memory and gives them back: with the C library's allocator that is a fifth of its
/// instructions.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another provider of cryptography is installed"))?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    geotrail::telemetry::start_log(&filter, LogFormat::Text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(geotrail::cli::run(std::env::args_os())))
}
