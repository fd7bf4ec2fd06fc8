//! `geotrail key`: API keys are made, listed and revoked. A running service follows the file within seconds.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use crate::clock::Clock;
use crate::keys::{Entry, KeyFile, KeyId, NewKey, Scope};

/// Makes a key and prints it, alone, on stdout: it is not to be had a second time.
pub fn make(file: &KeyFile, name: String, scopes: BTreeSet<Scope>, expires: Option<Duration>) -> anyhow::Result<()> {
    let NewKey { id, key, hash } = NewKey::draw();
    let expires = expires.map(|after| Clock::system().now().plus_ms(after.as_millis() as i64));
    file.add(Entry { id: id.clone(), name, scopes, hash, expires })?;
    writeln!(std::io::stdout(), "{key}")?;
    writeln!(std::io::stderr(), "key {id}: keep it well, this is the only time that it is shown")?;
    Ok(())
}

/// Prints all keys, a line each: what is known of them.
pub fn list(file: &KeyFile) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<8}  {:<24}  {:<18}  expires", "id", "name", "scopes")?;
    for Entry { id, name, scopes, expires, .. } in file.read()? {
        let scopes = scopes.iter().map(|scope| scope.word()).collect::<Vec<_>>().join(",");
        let expires = match expires {
            None => "never".to_owned(),
            Some(at) if at <= now => format!("{at} (over)"),
            Some(at) => at.to_string(),
        };
        writeln!(out, "{id}  {name:<24}  {scopes:<18}  {expires}")?;
    }
    Ok(())
}

/// Takes a key out: from a few seconds later on it opens nothing.
pub fn revoke(file: &KeyFile, id: &KeyId) -> anyhow::Result<()> {
    file.remove(id)?;
    Ok(())
}
