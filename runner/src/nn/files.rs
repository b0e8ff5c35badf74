//! The files from which a loaded model is mapped. If they were replaced, the model is loaded again; if they
//! were changed in place, its results cannot be trusted.
//!
//! Replacing a file by rename leaves the mapped file as it was; writing to it or truncating it does not.
//! `sigbus` turns the fault of reading a truncated page into zeros, and this module makes that run fail.

use super::sigbus;
pub(super) use super::sigbus::Loading;
use crate::shortage;
use skincell_engines::source::{FILES, regular};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The model files of a folder, as they were when it was loaded.
pub(super) struct ModelFiles {
    files: Vec<ModelFile>,
    guards: Vec<sigbus::Guard>,
}

struct ModelFile {
    path: PathBuf,
    /// `None` if there was none.
    found: Option<(File, Stamp)>,
}

/// Identifies one state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
        }
    }
}

impl ModelFiles {
    /// Notes the files of `folder`. Call it before the engine loads them.
    ///
    /// # Errors
    /// When an existing file cannot be opened, for example because no descriptor is left.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = |name| {
            let path = folder.join(name);
            let found = match shortage::descriptor().and_then(|()| regular::open(&path)) {
                Ok(file) => Some((Stamp::from(&file.metadata()?), file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            Ok(ModelFile { path, found: found.map(|(stamp, file)| (file, stamp)) })
        };
        let files = FILES.into_iter().map(file).collect::<io::Result<_>>()?;
        Ok(Self { files, guards: Vec::new() })
    }

    /// Guards those of them that are mapped by now.
    ///
    /// # Errors
    /// When the process's mappings cannot be read.
    pub(super) fn guard(&mut self) -> io::Result<()> {
        let guarded = self.files.iter().filter_map(|file| {
            let (_, stamp) = file.found.as_ref()?;
            let path = file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
            Some(sigbus::Guarded { path, inode: stamp.inode, device: stamp.device })
        });
        self.guards = sigbus::guard(&guarded.collect::<Vec<_>>())?;
        Ok(())
    }

    /// Bytes mapped.
    pub(super) fn mapped_bytes(&self) -> u64 {
        self.guards.iter().map(sigbus::Guard::bytes).sum()
    }

    /// Whether the folder still has these files, unchanged.
    pub(super) fn are_current(&self) -> bool {
        self.files.iter().all(|file| {
            let now = std::fs::metadata(&file.path).ok().map(|data| Stamp::from(&data));
            now == file.found.as_ref().map(|(_, stamp)| *stamp)
        })
    }

    /// Describes a change made in place to a file after it was loaded, if any. A rename is not one.
    pub(super) fn damage(&self) -> Option<String> {
        if self.guards.iter().any(sigbus::Guard::was_hit) {
            return Some("a mapped file was cut short".to_owned());
        }
        let changed = self.files.iter().find(|file| {
            file.found.as_ref().is_some_and(|(handle, stamp)| {
                let now = handle.metadata().map(|data| Stamp::from(&data));
                now.is_ok_and(|now| (now.length, now.modified) != (stamp.length, stamp.modified))
            })
        });
        changed.map(|file| format!("{} was written to while in use", file.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::ModelFiles;

    #[test]
    fn a_change_in_place_is_damage_and_a_replacement_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, "weights").unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        assert!(files.are_current() && files.damage().is_none());
        std::fs::write(folder.path().join("new"), "others").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(!files.are_current());
        assert_eq!(files.damage(), None, "the mapped file is as it was");
        let files = ModelFiles::open(folder.path()).unwrap();
        std::fs::write(&path, "cut").unwrap();
        assert!(files.damage().is_some_and(|words| words.contains("written to")));
    }
}
