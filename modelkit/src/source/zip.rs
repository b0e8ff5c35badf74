//! Lists the members of a zip archive, such as a `.keras`, `.pt` or `.pt2` file, by its central directory.

use std::fs::File;
use std::io::{self, ErrorKind::InvalidInput, ErrorKind::UnexpectedEof};

use rawzip::{Error, ErrorKind, RECOMMENDED_BUFFER_SIZE, ZipArchive};

/// Longest names of all members together, in bytes.
const LONGEST_NAMES: usize = 64 << 20;

/// The names of all members; `None` if the archive has no valid central directory, which is at its end.
///
/// # Errors
/// The file cannot be read.
pub(super) fn members(file: &File) -> io::Result<Option<Vec<String>>> {
    match names(file.try_clone()?).map_err(Error::into_kind) {
        Ok(names) => Ok(names),
        // A damaged directory names places outside the file.
        Err(ErrorKind::IO(error)) if !matches!(error.kind(), UnexpectedEof | InvalidInput) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

fn names(file: File) -> Result<Option<Vec<String>>, Error> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer)?;
    let (mut names, mut bytes) = (Vec::new(), 0);
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry()? {
        let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
        bytes += name.len();
        if bytes > LONGEST_NAMES {
            return Ok(None);
        }
        names.push(name);
    }
    let announced = usize::try_from(archive.entries_hint());
    Ok(Some(names).filter(|names| announced == Ok(names.len())))
}

/// An archive of empty members, for tests.
#[cfg(test)]
pub(super) fn archive(members: &[&str]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for name in members {
        let length = (name.len() as u16).to_le_bytes();
        let offset = (bytes.len() as u32).to_le_bytes();
        let local = [&b"PK\x03\x04"[..], &[0; 22], &length, &[0; 2], name.as_bytes()];
        bytes.extend(local.concat());
        let parts = [&b"PK\x01\x02"[..], &[0; 24], &length, &[0; 12], &offset, name.as_bytes()];
        directory.extend(parts.concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let (length, offset) = (directory.len() as u32, bytes.len() as u32);
    bytes.extend(directory);
    let sides = [length.to_le_bytes(), offset.to_le_bytes()].concat();
    bytes.extend([&b"PK\x05\x06"[..], &[0; 4], &count, &count, &sides, &[0; 2]].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{archive, members};

    fn listed(bytes: &[u8]) -> Option<Vec<String>> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        members(&file).expect("read")
    }

    #[test]
    fn members_are_listed_only_of_a_whole_archive() {
        let whole = archive(&["config.json", "a/data.pkl"]);
        let names = Some(vec!["config.json".to_owned(), "a/data.pkl".to_owned()]);
        assert_eq!(listed(&whole), names);
        assert_eq!(listed(&archive(&[])), Some(vec![]));
        for length in 0..whole.len() {
            assert_eq!(listed(&whole[..length]), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = listed(&damaged);
        }
    }
}
