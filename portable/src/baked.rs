//! Reads models baked into the compiled component: files that are in its memory from the start.
//!
//! `skincell model bake` adds them at the end of linear memory and writes their place into the slot below,
//! which it finds by its mark. They are then pages of the component's image, which the host maps for all
//! instances together. [`Archive`] is the format that both sides share.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The first bytes of the slot, unique in the component.
pub const MARK: [u8; 16] = *b"\x9eskincell\x00bake\x01\xf3";
/// Files begin at multiples of this, in the archive and in memory.
pub const ALIGNMENT: usize = 64;

/// A file in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// `<model>/<file>`.
    path: String,
    /// Offset from the archive's start.
    start: u32,
    length: u32,
}

/// A list of files, and the files themselves, in memory.
#[derive(Debug, Clone, Default)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry>,
}

impl Archive<'static> {
    /// An archive of files, given by path. Its bytes must be placed at a multiple of [`ALIGNMENT`].
    ///
    /// # Errors
    /// A message if the files do not fit into a 32-bit memory.
    pub fn pack(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
        let place = |start: usize, length: usize| {
            let end = start.checked_add(length).filter(|end| u32::try_from(*end).is_ok());
            end.ok_or_else(|| "the models are larger than a 32-bit memory; bake fewer".to_owned())
        };
        // Offsets depend on the list's length, which depends on the offsets. The list with the largest
        // numbers is the longest, so its length is used.
        let largest = |(path, _): &(String, Vec<u8>)| Entry {
            path: path.clone(),
            start: u32::MAX,
            length: u32::MAX,
        };
        let room = encode(&files.iter().map(largest).collect::<Vec<_>>())?.len();
        let mut start = (4 + room).next_multiple_of(ALIGNMENT);
        let mut entries = Vec::with_capacity(files.len());
        for (path, bytes) in files {
            let end = place(start, bytes.len())?;
            entries.push(Entry {
                path: path.clone(),
                start: u32::try_from(start).unwrap_or(u32::MAX),
                length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            });
            start = end.next_multiple_of(ALIGNMENT);
        }
        let list = encode(&entries)?;
        let mut archive = u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        archive.extend(list);
        for (entry, (_, bytes)) in entries.iter().zip(files) {
            archive.resize(entry.start as usize, 0);
            archive.extend(bytes);
        }
        Ok(archive)
    }
}

fn encode(entries: &[Entry]) -> Result<Vec<u8>, String> {
    postcard::to_allocvec(entries).map_err(|error| error.to_string())
}

impl<'a> Archive<'a> {
    /// The archive in these bytes; `None` if they are not an archive.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let list = rest.get(..u32::from_le_bytes(*length) as usize)?;
        let entries = postcard::from_bytes(list).ok()?;
        Some(Self { bytes, entries })
    }

    /// Whether there are no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there are files of this model.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.entries.iter().any(|entry| Path::new(&entry.path).parent() == Some(Path::new(model)))
    }
}

impl Archive<'static> {
    /// The bytes of `file` of a model.
    #[must_use]
    pub fn file(&self, model: &str, file: &str) -> Option<&'static [u8]> {
        let path = format!("{model}/{file}");
        let entry = self.entries.iter().find(|entry| entry.path == path)?;
        let start = entry.start as usize;
        self.bytes.get(start..start.checked_add(entry.length as usize)?)
    }
}

#[cfg(target_family = "wasm")]
pub use slot::archive;

#[cfg(target_family = "wasm")]
#[allow(
    unsafe_code,
    reason = "baked memory is not laid out by the compiler and is reached by its address"
)]
mod slot {
    use super::{Archive, MARK};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// The place of the archive. Atomic, so that the compiler does not assume the values it compiled in.
    #[repr(C)]
    struct Slot {
        mark: [u8; 16],
        address: AtomicU32,
        length: AtomicU32,
    }

    static SLOT: Slot = Slot { mark: MARK, address: AtomicU32::new(0), length: AtomicU32::new(0) };

    /// The archive baked into this component; empty if there is none.
    pub fn archive() -> Archive<'static> {
        // Keeps the mark in the binary, beside the numbers.
        std::hint::black_box(&SLOT.mark);
        let address = SLOT.address.load(Ordering::Relaxed) as usize;
        let length = SLOT.length.load(Ordering::Relaxed) as usize;
        if length == 0 {
            return Archive::default();
        }
        // SAFETY: `bake`, which wrote the slot, has grown memory by a range past everything the linker and
        // the allocator use. The range begins at `address` and has `length` initialised bytes. Nothing
        // writes there, so the bytes stay unchanged as long as the instance lives.
        let bytes: &'static [u8] = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), length)
        };
        Archive::read(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::{ALIGNMENT, Archive};

    #[test]
    fn archived_files_are_read_unchanged() {
        let files =
            [("a/model.cell", vec![1_u8; 100]), ("b/card.json", vec![]), ("b/x", vec![3; 65])];
        let files = files.map(|(path, bytes)| (path.to_owned(), bytes));
        let packed: &'static [u8] = Archive::pack(&files).unwrap().leak();
        let archive = Archive::read(packed).unwrap();
        for (path, bytes) in &files {
            let (model, file) = path.split_once('/').unwrap();
            assert!(archive.has(model));
            let found = archive.file(model, file).unwrap();
            assert_eq!(found, &bytes[..], "{path}");
            let offset = found.as_ptr() as usize - packed.as_ptr() as usize;
            assert_eq!(offset % ALIGNMENT, 0, "{path}");
        }
        assert!(!archive.has("c") && !archive.has("") && archive.file("a", "x").is_none());
        assert!(Archive::read(&packed[..10]).is_none());
        assert!(Archive::default().is_empty());
    }
}
