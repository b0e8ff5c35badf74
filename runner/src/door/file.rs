//! A file that an operator replaces while the service runs: tokens, certificates.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Notices when a file was changed.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Mutex<Option<Mark>>,
}

/// What changes with a file's content.
type Mark = (SystemTime, u64);

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
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::Watched;

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
}
