//! The keys in force: those of a file, as it was when it was last found to be right. A file that is wrong, or gone, changes
//! nothing but the log: a slip of somebody's editor locks nobody out.
//!
//! Never here: what stands in the file.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{KeyFile, KeyFileError, Keys};
use crate::watched::Watched;

/// The keys of a file. Clones are the same.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    file: KeyFile,
    keys: ArcSwap<Keys>,
    watched: Mutex<Watched<1>>,
}

impl KeyRing {
    /// Those of the file at `path`, which must be right.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let file = KeyFile::at(path);
        let watched = Mutex::new(Watched::new([path]));
        let keys: Keys = file.read()?.into_iter().collect();
        Ok(Self(Arc::new(Inner { file, keys: ArcSwap::from_pointee(keys), watched })))
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Keys> {
        self.0.keys.load_full()
    }

    /// Reads the file if it has changed. Blocks for a moment.
    pub fn refresh(&self) {
        let Inner { file, keys, watched } = &*self.0;
        match watched.lock().look(|| file.read()) {
            None => {}
            Some(Ok(entries)) => {
                let new: Keys = entries.into_iter().collect();
                tracing::info!(keys = new.count(), "the file of API keys has changed: these are in force");
                keys.store(Arc::new(new));
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the file of API keys is wrong: those of before stay in force");
            }
        }
    }
}
