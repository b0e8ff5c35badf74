//! Writes a model's folder in one step: all of it, or nothing.
//!
//! The files are written into a folder beside the wanted one, flushed to the disk, and the folder
//! is then renamed. A run that breaks before leaves the old folder as it was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a folder could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// There is one already.
    #[error("{path} exists already; --force replaces it", path = .0.display())]
    Exists(PathBuf),
    /// The path has no last part, as `/` or `..`.
    #[error("{path:?} cannot be a model's folder; give a path such as models/skin", path = .0)]
    Path(PathBuf),
    /// The file system said no.
    #[error("writing {path}: {error}; nothing was changed", path = path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// A folder in the making. Dropped before [`Draft::publish`], it leaves nothing behind.
pub(crate) struct Draft {
    target: PathBuf,
    force: bool,
    /// Where the files lie until then.
    folder: PathBuf,
    published: bool,
}

impl Draft {
    /// Begins a folder that is to become `target`; nothing is made before the first file is written.
    ///
    /// # Errors
    /// [`WriteError::Exists`] when `target` is there and not to be replaced.
    pub(crate) fn begin(target: &Path, force: bool) -> Result<Self, WriteError> {
        let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
            return Err(WriteError::Path(target.to_owned()));
        };
        if !force && target.symlink_metadata().is_ok() {
            return Err(WriteError::Exists(target.to_owned()));
        }
        let folder = parent_of(target).join(format!(".{name}.{}.draft", std::process::id()));
        Ok(Self { target: target.to_owned(), force, folder, published: false })
    }

    /// Writes one file and flushes it to the disk.
    ///
    /// # Errors
    /// [`WriteError::File`], for instance when the disk is full.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let path = self.folder.join(name);
        fs::create_dir_all(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let save = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        save().map_err(|e| failed(&path, e))
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// [`WriteError::File`]; an older folder is then where it was.
    pub(crate) fn publish(mut self) -> Result<(), WriteError> {
        let flush = |folder: &Path| File::open(folder).and_then(|f| f.sync_all());
        flush(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let old = self.folder.with_extension("old");
        let replaces = self.target.symlink_metadata().is_ok();
        if replaces && !self.force {
            return Err(WriteError::Exists(self.target.clone()));
        }
        if replaces {
            fs::rename(&self.target, &old).map_err(|e| failed(&self.target, e))?;
        }
        if let Err(error) = fs::rename(&self.folder, &self.target) {
            if replaces {
                // Nothing better is left to do if this fails as well: `old` still holds all of it.
                let _ = fs::rename(&old, &self.target);
            }
            return Err(failed(&self.target, error));
        }
        self.published = true;
        if replaces {
            remove(&old).map_err(|e| failed(&old, e))?;
        }
        let parent = parent_of(&self.target);
        flush(&parent).map_err(|e| failed(&parent, e))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // A drop has nobody to tell; the folder's name says what it is.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn parent_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn failed(path: &Path, error: io::Error) -> WriteError {
    WriteError::File { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("the folder is there");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_or_nothing() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let target = home.path().join("skin");
        let draft = Draft::begin(&target, false).expect("nothing there yet");
        draft.write("a", b"1").expect("written");
        assert!(!target.exists(), "nothing is seen before publish");
        drop(draft);
        assert_eq!(names(home.path()), [""; 0], "a broken run leaves nothing");

        let draft = Draft::begin(&target, false).expect("nothing there yet");
        draft.write("a", b"1").expect("written");
        draft.publish().expect("published");
        assert_eq!(names(home.path()), ["skin"]);
        assert!(matches!(Draft::begin(&target, false), Err(WriteError::Exists(_))));

        let draft = Draft::begin(&target, true).expect("forced");
        draft.write("b", b"2").expect("written");
        drop(draft);
        assert_eq!(names(&target), ["a"], "a broken forced run leaves the old one");
        let draft = Draft::begin(&target, true).expect("forced");
        draft.write("b", b"2").expect("written");
        draft.publish().expect("published");
        assert_eq!(names(&target), ["b"]);
        assert_eq!(names(home.path()), ["skin"]);
    }
}
