//! Writes a model's folder atomically.
//!
//! The files are written to a temporary folder beside the target and flushed to the disk; then the folder is
//! renamed. If the process ends before, an old folder is unchanged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a folder could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The folder exists already.
    #[error("{path} exists already; --force replaces it", path = .0.display())]
    Exists(PathBuf),
    /// The path has no name at its end, such as `/` or `..`.
    #[error("{path:?} cannot be a model's folder; give a path such as models/skin", path = .0)]
    Path(PathBuf),
    /// The file system reported an error.
    #[error("writing {path}: {error}; nothing was changed", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// An unfinished folder. If it is dropped before [`Draft::publish`], its files are deleted.
pub(crate) struct Draft {
    target: PathBuf,
    force: bool,
    /// The temporary folder.
    folder: PathBuf,
    published: bool,
}

impl Draft {
    /// Begins a folder that will become `target`. It is created with its first file.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if `target` exists and may not be replaced.
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
    /// [`WriteError::File`], for instance if the disk is full.
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

    /// Moves the folder to its target.
    ///
    /// # Errors
    /// [`WriteError::File`]; an old folder is then at its place again.
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
                // If this fails as well, the old files are still complete in `old`.
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
            // An error cannot be reported here; the name of the folder shows that it is a draft.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The name of a model's folder, under which it is served; empty if the path has none.
pub(crate) fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
    fn a_folder_is_written_wholly_or_not_at_all() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let target = home.path().join("skin");
        let draft = Draft::begin(&target, false).expect("nothing there yet");
        draft.write("a", b"1").expect("written");
        assert!(!target.exists(), "the target does not exist before publish");
        drop(draft);
        assert_eq!(names(home.path()), [""; 0], "an unfinished draft is deleted");

        let draft = Draft::begin(&target, false).expect("nothing there yet");
        draft.write("a", b"1").expect("written");
        draft.publish().expect("published");
        assert_eq!(names(home.path()), ["skin"]);
        assert!(matches!(Draft::begin(&target, false), Err(WriteError::Exists(_))));

        let draft = Draft::begin(&target, true).expect("forced");
        draft.write("b", b"2").expect("written");
        drop(draft);
        assert_eq!(names(&target), ["a"], "an unfinished forced draft leaves the old folder");
        let draft = Draft::begin(&target, true).expect("forced");
        draft.write("b", b"2").expect("written");
        draft.publish().expect("published");
        assert_eq!(names(&target), ["b"]);
        assert_eq!(names(home.path()), ["skin"]);
    }
}
