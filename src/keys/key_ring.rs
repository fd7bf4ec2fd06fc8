//! The keys in force: those of a file, as it was when it was last found to be right. A file that is wrong, or gone, changes
//! nothing but the log: a slip of somebody's editor locks nobody out.
//!
//! Never here: what stands in the file.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{KeyFile, KeyFileError, Keys};
use crate::file_version::FileVersion;

/// The keys of a file. Clones are the same.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    file: KeyFile,
    keys: ArcSwap<Keys>,
    seen: Mutex<Option<FileVersion>>,
}

impl KeyRing {
    /// Those of the file at `path`, which must be right.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let file = KeyFile::at(path);
        let seen = file.version();
        let keys: Keys = file.read()?.into_iter().collect();
        Ok(Self(Arc::new(Inner { file, keys: ArcSwap::from_pointee(keys), seen: Mutex::new(seen) })))
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Keys> {
        self.0.keys.load_full()
    }

    /// Reads the file if it has changed. Blocks for a moment.
    pub fn refresh(&self) {
        let Inner { file, keys, seen } = &*self.0;
        let version = file.version();
        if std::mem::replace(&mut *seen.lock(), version) == version {
            return;
        }
        match file.read() {
            Ok(entries) => {
                let new: Keys = entries.into_iter().collect();
                tracing::info!(keys = new.len(), "the file of API keys has changed: these are in force");
                keys.store(Arc::new(new));
            }
            Err(error) => tracing::error!(%error, "the file of API keys is wrong: those of before stay in force"),
        }
    }
}
