//! The files of a journal: where each lies, how one is replaced whole, and which journal a directory holds.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::JournalId;

const SEGMENT_SUFFIX: &str = ".seg";
const SCRUBBED: &str = "scrub";
const BASE_DIGITS: usize = 20;

/// The paths in a data directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    data_dir: PathBuf,
    journal_dir: PathBuf,
}

impl Files {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), journal_dir: data_dir.join("journal") }
    }

    /// Makes what is missing, readable by the owner alone.
    pub(super) fn create(&self) -> io::Result<()> {
        let missing = self.journal_dir.ancestors().take_while(|dir| !dir.exists()).count();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.journal_dir)?;
        let made = fs::canonicalize(&self.journal_dir)?;
        made.ancestors().skip(1).take(missing).try_for_each(sync_dir)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn journal_dir(&self) -> &Path {
        &self.journal_dir
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.journal_dir.join("lock")
    }

    pub(super) fn id(&self) -> PathBuf {
        self.journal_dir.join("id")
    }

    /// Twenty digits, so that the order of names is the order of offsets.
    pub(super) fn segment(&self, base: u64) -> PathBuf {
        self.journal_dir.join(format!("{base:0BASE_DIGITS$}{SEGMENT_SUFFIX}"))
    }

    /// Where a segment is written anew before it takes its name.
    pub(super) fn scrubbed(&self, base: u64) -> PathBuf {
        self.segment(base).with_extension(SCRUBBED)
    }

    pub(super) fn is_scrubbed(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == SCRUBBED)
    }

    pub(super) fn erasures(&self) -> PathBuf {
        self.journal_dir.join("erasures")
    }

    /// The bases of all segments, oldest first. Other files are none of ours.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(&self.journal_dir)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
            if let Some(digits) = digits.filter(|digits| digits.len() == BASE_DIGITS)
                && let Ok(base) = digits.parse()
            {
                bases.push(base);
            }
        }
        bases.sort_unstable();
        Ok(bases)
    }

    /// The journal this directory holds; `None` if that was never written or is damaged.
    pub(super) fn read_id(&self) -> io::Result<Option<JournalId>> {
        match fs::read_to_string(self.id()) {
            Ok(text) => Ok(checked_line(&text).and_then(JournalId::parse)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_id(&self, id: JournalId) -> io::Result<()> {
        replace(&self.id(), &with_checksum(&id.to_string()))
    }
}

/// A line of text followed by its CRC32C in hex.
pub(super) fn with_checksum(text: &str) -> String {
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The text before the checksum, if that holds.
pub(super) fn checked_line(line: &str) -> Option<&str> {
    let (text, _) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    (with_checksum(text) == line).then_some(text)
}

/// Puts `text` in the place of a file, so that a crash leaves the old or the new one, whole.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes names durable: a file that was synced can still be nameless after a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
