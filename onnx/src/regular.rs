//! Opens files that a user or a model names, and refuses pipes, sockets and devices before they are opened:
//! opening a pipe that nobody writes to never ends.
//!
//! Photos are left out, which may come from a pipe.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Checks that there is a file or a folder at `path`.
///
/// # Errors
/// The system's error, or that it is of another kind.
pub fn check(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(());
    }
    let words = "it is a pipe, a socket or a device, not a file: write its content to a file, and name that";
    Err(io::Error::new(io::ErrorKind::InvalidInput, words))
}

/// Opens the file at `path`.
///
/// # Errors
/// As of [`check`], or of opening it.
pub fn open(path: &Path) -> io::Result<File> {
    check(path)?;
    File::open(path)
}

/// The content of the file at `path`.
///
/// # Errors
/// As of [`open`], or of reading it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
