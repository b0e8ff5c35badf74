//! The bytes of a model: mapped read-only from its file, or held where a target cannot map.
//!
//! One of the two modules with `unsafe`. It leaves out what the bytes mean.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; the argument is beside the block"
)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Bytes that begin at a 64-byte boundary, unless whoever compiled them in did not see to it.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Pages of the file: shared, and given back under pressure.
    Mapped(memmap2::Mmap),
    /// Part of the program.
    Static(&'static [u8]),
    /// A copy, for targets that cannot map (Wasm) and for tests.
    Held {
        /// The bytes, filled up with zeros to whole lines.
        lines: Vec<Line>,
        /// How many of them count.
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
    /// Maps the file, or reads it where the target cannot map.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if cfg!(target_family = "wasm") {
            return Self::read(file);
        }
        // SAFETY: the mapping is read-only and private to this value, which hands out `&[u8]` no
        // longer than it lives. What the operating system cannot promise is that nobody changes the
        // file meanwhile. The contract (README, `Model::open`) is that a `model.cell` is replaced by
        // renaming a new file over it, never written in place. Were it broken, the bytes read are
        // still initialised `u8`/`f32` memory: header and plan were decoded into values of our own
        // and never read from the pages again, and weights are only ever numbers, never offsets or
        // lengths, so no index can go wrong; a file cut short raises SIGBUS and ends the process.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self::Mapped(map))
    }

    /// Reads the file to where it stays: there is no second copy, not even for a moment.
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
            // A refused hint costs nothing but time later.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Whether the bytes are pages of the file and not a copy.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }
}
