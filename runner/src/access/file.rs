//! A file that the operator may replace while the service runs: tokens, certificates.

use crate::shortage;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Detects a change of a file by its content, even if length and times stay the same.
///
/// The content that is compared is the content that is used, so a change between two reads is never missed.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    used: Mutex<Option<Digested>>,
}

/// SHA-256.
type Digested = [u8; 32];

/// The longest file that is read, in bytes.
const LONGEST: u64 = 4 << 20;

impl Watched {
    /// A file that was not used yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), used: Mutex::default() }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its content now.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than 4 MiB.
    pub(crate) fn content(&self) -> Result<Vec<u8>> {
        shortage::descriptor()?;
        let (mut content, file) = (Vec::new(), File::open(&self.path)?);
        if file.take(LONGEST + 1).read_to_end(&mut content)? as u64 > LONGEST {
            return Err(Error::new(ErrorKind::FileTooLarge, "it is longer than 4 MiB"));
        }
        Ok(content)
    }

    /// Whether this content differs from the one given before. Call it also with content that turns out to be
    /// unusable, so that it is reported once.
    pub(crate) fn is_new(&self, content: &[u8]) -> bool {
        let now: Digested = Sha256::digest(content).into();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.replace(now) != Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::Watched;
    use std::fs::{File, FileTimes};

    fn has_changed(watched: &Watched) -> bool {
        watched.content().is_ok_and(|content| watched.is_new(&content))
    }

    #[test]
    fn a_change_is_noticed_once_and_a_missing_file_is_not_a_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let watched = Watched::new(file.path());
        assert!(has_changed(&watched), "its content was not used yet");
        assert!(!has_changed(&watched));
        std::fs::write(file.path(), "longer").unwrap();
        assert!(has_changed(&watched));
        assert!(!has_changed(&watched));
        file.close().unwrap();
        assert!(!has_changed(&watched));
    }

    #[test]
    fn a_change_of_equal_length_and_time_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-token-of-mine").unwrap();
        let time = file.as_file().metadata().unwrap().modified().unwrap();
        let watched = Watched::new(file.path());
        assert!(has_changed(&watched));
        std::fs::write(file.path(), "other-token-of-mine").unwrap();
        let writable = File::options().write(true).open(file.path()).unwrap();
        writable.set_times(FileTimes::new().set_modified(time)).unwrap();
        assert!(has_changed(&watched));
    }

    #[test]
    fn an_endless_file_is_refused() {
        let error = Watched::new(std::path::Path::new("/dev/zero")).content().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    }
}
