//! A file that an operator replaces while the service runs: tokens, certificates.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Notices when a file was changed, by its content: neither its length nor its times need to differ.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Mutex<Option<Mark>>,
}

/// SHA-256.
type Mark = [u8; 32];

/// Beyond so many bytes a file is no longer looked at.
const MOST: u64 = 4 << 20;

impl Watched {
    /// The file as it is now.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Mutex::new(mark(path)) }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is another than at the last call. A file that is gone has not changed: it is being
    /// replaced, or somebody erred, and what was read before holds.
    pub(crate) fn has_changed(&self) -> bool {
        let Some(now) = mark(&self.path) else { return false };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.replace(now) != Some(now)
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let mut content = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut content).ok()?;
    Some(Sha256::digest(&content).into())
}

#[cfg(test)]
mod tests {
    use super::Watched;
    use std::fs::{File, FileTimes};

    #[test]
    fn a_change_is_noticed_once_and_a_lost_file_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let watched = Watched::new(file.path());
        assert!(!watched.has_changed());
        std::fs::write(file.path(), "longer").unwrap();
        assert!(watched.has_changed());
        assert!(!watched.has_changed());
        file.close().unwrap();
        assert!(!watched.has_changed());
    }

    #[test]
    fn a_change_of_equal_length_and_time_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-token-of-mine").unwrap();
        let time = file.as_file().metadata().unwrap().modified().unwrap();
        let watched = Watched::new(file.path());
        std::fs::write(file.path(), "other-token-of-mine").unwrap();
        let writable = File::options().write(true).open(file.path()).unwrap();
        writable.set_times(FileTimes::new().set_modified(time)).unwrap();
        assert!(watched.has_changed());
    }
}
