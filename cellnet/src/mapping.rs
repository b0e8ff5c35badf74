//! The bytes of a model file: mapped read-only, or in memory if the target cannot map.
//!
//! One of the two modules with `unsafe`. It does not interpret the bytes.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; the argument is beside the block"
)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The bytes of a model file. They begin at a 64-byte boundary; static ones only if they were compiled in
/// so.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Pages of the file: shared between processes, and reclaimed under memory pressure.
    Mapped(memmap2::Mmap),
    /// Bytes compiled into the program.
    Static(&'static [u8]),
    /// A copy, for targets that cannot map (Wasm) and for tests.
    Held {
        /// The bytes, padded with zeros to whole lines.
        lines: Vec<Line>,
        /// Number of bytes without padding.
        len: usize,
    },
}

/// 64 bytes at a 64-byte boundary.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

// SAFETY: `Line` is `repr(C)` around bytes only, 64 of them at alignment 64, so it has no padding,
// and every bit pattern (all zeros included) is a valid value; it is `Copy` and `'static`.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

impl Bytes {
    /// Maps the file, or reads it if the target cannot map.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe that nobody writes to never ends. (skincell-onnx checks so too, but is there for
        // packing only.)
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            let words = "it is a pipe, a socket or a device, not a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let file = File::open(path)?;
        if cfg!(target_family = "wasm") {
            return Self::read(file);
        }
        // SAFETY: the mapping is read-only and private to this value, and every `&[u8]` to it ends with the
        // value. The operating system cannot prevent changes to the file meanwhile. The contract (README,
        // `Model::open`) is that a `model.cell` is replaced by renaming a new file over it, never written
        // in place. If it is broken, the bytes read are still initialised `u8`/`f32` memory: header and
        // plan have been decoded into values of our own and are never read from the pages again, and
        // weights are only numbers, never offsets or lengths, so no index can go wrong. A truncated file
        // raises SIGBUS and ends the process.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self::Mapped(map))
    }

    /// Reads the file straight into its final place, so that there is never a second copy.
    fn read(mut file: File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| ErrorKind::FileTooLarge)?;
        let count = len.div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| ErrorKind::OutOfMemory)?;
        lines.resize(count, Line([0; 64]));
        file.read_exact(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self::Held { lines, len })
    }

    /// Copies `bytes` to a 64-byte boundary.
    pub(crate) fn hold(bytes: &[u8]) -> Self {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        let flat: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        flat[..bytes.len()].copy_from_slice(bytes);
        Self::Held { lines, len: bytes.len() }
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Held { lines, len } => &bytemuck::cast_slice::<Line, u8>(lines)[..*len],
        }
    }

    /// Asks the system to read everything ahead, without waiting for it.
    pub(crate) fn will_need(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // The hint is optional; without it, pages are read on first use.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Whether the bytes are pages of the file, not a copy.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }
}
