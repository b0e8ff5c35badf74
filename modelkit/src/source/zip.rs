//! Lists the members of a zip archive, such as a `.keras`, `.pt` or `.pt2` file, by its central directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Longest end of an archive: a record of 22 bytes and a comment.
const LONGEST_END: u64 = 22 + u16::MAX as u64;
/// Longest central directory that is read.
const LONGEST_DIRECTORY: u64 = 64 << 20;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const MEMBER: &[u8] = b"PK\x01\x02";

/// The names of all members; `None` if the archive has no valid central directory, which is at its end.
///
/// # Errors
/// The file cannot be read.
pub(super) fn members(file: &mut File) -> io::Result<Option<Vec<String>>> {
    let size = file.seek(SeekFrom::End(0))?;
    let from = size.saturating_sub(LONGEST_END);
    let tail = read_at(file, from, size - from)?;
    let whole = |end: &usize| end + 22 <= tail.len();
    let end = tail.windows(END.len()).rposition(|window| window == END).filter(whole);
    let Some(end) = end else { return Ok(None) };
    let (length, offset) = (number(&tail, end + 12, 4), number(&tail, end + 16, 4));
    let (Some(mut length), Some(mut offset)) = (length, offset) else { return Ok(None) };
    if let Some(locator) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(LOCATOR_64)) {
        let record = read_at(file, number(&tail, locator + 8, 8).unwrap_or(0), 56)?;
        if !record.starts_with(END_64) {
            return Ok(None);
        }
        length = number(&record, 40, 8).unwrap_or(0);
        offset = number(&record, 48, 8).unwrap_or(0);
    }
    if length > LONGEST_DIRECTORY {
        return Ok(None);
    }
    Ok(names(&read_at(file, offset, length)?).filter(|names| !names.is_empty() || length == 0))
}

/// Up to `length` bytes at `offset`.
fn read_at(file: &mut File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a central directory; `None` if a record is damaged.
fn names(directory: &[u8]) -> Option<Vec<String>> {
    let (mut at, mut names) = (0, Vec::new());
    while at < directory.len() {
        let record = directory.get(at..)?;
        if !record.starts_with(MEMBER) {
            return None;
        }
        let length = |offset| usize::try_from(number(record, offset, 2)?).ok();
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        names.push(String::from_utf8_lossy(record.get(46..46 + name)?).into_owned());
        at += 46 + name + extra + comment;
    }
    Some(names)
}

/// The little-endian number of `width` bytes at `at`.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
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
        let parts = [MEMBER, &[0; 24], &length, &[0; 12], &offset, name.as_bytes()];
        directory.extend(parts.concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let (length, offset) = (directory.len() as u32, bytes.len() as u32);
    bytes.extend(directory);
    let sides = [length.to_le_bytes(), offset.to_le_bytes()].concat();
    bytes.extend([END, &[0; 4], &count, &count, &sides, &[0; 2]].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{archive, members};

    fn listed(bytes: &[u8]) -> Option<Vec<String>> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        members(&mut file).expect("read")
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
