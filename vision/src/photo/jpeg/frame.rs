//! A JPEG's frame header: its size, its components and the layout of their 8×8 blocks (ITU-T T.81, B.2.2 and
//! A.2). Coefficients are read in `coefficients`.

use super::refusal::{corrupt, unsupported};
use super::tables::Steps;
use crate::photo::error::PhotoError;

/// The frame header.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) width: u32,
    /// 0 until a DNL segment defines it.
    pub(super) height: u32,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component<'a>>,
}

/// One component of the picture.
#[derive(Debug)]
pub(super) struct Component<'a> {
    pub(super) identifier: u8,
    /// Sampling factors, 1 to 4.
    pub(super) across: u8,
    pub(super) down: u8,
    /// The number of its quantization table.
    pub(super) table: u8,
    /// Its quantization table, once a scan of the component has begun.
    pub(super) steps: Option<Steps<'a>>,
    /// Mask of the coefficients that scans have completed in full precision.
    finished: u64,
}

impl<'a> Component<'a> {
    pub(super) fn new(identifier: u8, across: u8, down: u8, table: u8) -> Self {
        Self { identifier, across, down, table, steps: None, finished: 0 }
    }

    /// Records a scan of coefficients `from` to `to` down to the bit `low`.
    pub(super) fn mark(&mut self, (from, to): (u8, u8), low: u8) {
        if low == 0 {
            self.finished |= (from..=to).fold(0, |bits, at| bits | 1 << at);
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.finished == u64::MAX
    }
}

impl<'a> Frame<'a> {
    /// Reads the segment of a SOF marker.
    pub(super) fn read(marker: u8, segment: &[u8]) -> Result<Self, PhotoError> {
        let coding = match marker {
            0xC0..=0xC2 => None,
            0xC3 => Some("lossless coding"),
            0xC9..=0xCB => Some("arithmetic coding"),
            _ => Some("hierarchical coding"),
        };
        if let Some(feature) = coding {
            return Err(unsupported(feature));
        }
        let short = || corrupt("its frame header has the wrong length");
        let &[precision, h1, h0, w1, w0, count] = segment.first_chunk().ok_or_else(short)?;
        if precision != 8 {
            return Err(unsupported(format!("{precision}-bit samples")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(format!("{count} colour components")));
        }
        let listed = segment.get(6..).unwrap_or_default().as_chunks::<3>().0;
        if listed.len() != usize::from(count) {
            return Err(short());
        }
        let read = |&[id, factors, table]: &[u8; 3]| {
            let (across, down) = (factors >> 4, factors & 15);
            let fits = (1..=4).contains(&across) && (1..=4).contains(&down) && table < 4;
            fits.then_some(Component::new(id, across, down, table))
        };
        let components = listed.iter().map(read).collect::<Option<Vec<_>>>();
        let components = components
            .ok_or_else(|| corrupt("a sampling factor is not 1 to 4, or a table number above 3"))?;
        let side = |bytes: [u8; 2]| u32::from(u16::from_be_bytes(bytes));
        let (width, height) = (side([w1, w0]), side([h1, h0]));
        Ok(Self { width, height, progressive: marker == 0xC2, components })
    }

    /// Width and height at `eighths` / 8 of the full size, rounded up.
    pub(super) fn scaled(&self, eighths: u32) -> (u32, u32) {
        let side = |side: u32| (side * eighths).div_ceil(8);
        (side(self.width), side(self.height))
    }

    /// Largest sampling factors, across and down.
    fn sampling(&self) -> (u32, u32) {
        let most = |of: fn(&Component<'_>) -> u8| self.components.iter().map(of).max();
        let factor = |most: Option<u8>| u32::from(most.unwrap_or(1).max(1));
        (factor(most(|c| c.across)), factor(most(|c| c.down)))
    }

    /// Number of interleaved units (MCUs) across and down.
    pub(super) fn units(&self) -> (u32, u32) {
        let (across, down) = self.sampling();
        (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down))
    }

    /// Blocks across and down of component `at`, padded to whole units as in interleaved scans.
    pub(super) fn padded(&self, at: usize) -> (u32, u32) {
        let ((columns, rows), component) = (self.units(), &self.components[at]);
        (columns * u32::from(component.across), rows * u32::from(component.down))
    }

    /// Blocks across and down of component `at` in a scan of that component alone.
    pub(super) fn own(&self, at: usize) -> (u32, u32) {
        let ((across, down), component) = (self.sampling(), &self.components[at]);
        let blocks = |side: u32, factor: u8, most: u32| {
            (side * u32::from(factor)).div_ceil(most).div_ceil(8)
        };
        (blocks(self.width, component.across, across), blocks(self.height, component.down, down))
    }

    /// Number of blocks of component `at`, padding included.
    pub(super) fn blocks(&self, at: usize) -> u64 {
        let (columns, rows) = self.padded(at);
        u64::from(columns) * u64::from(rows)
    }

    /// Blocks of all components together, and in one row of units.
    pub(super) fn all_blocks(&self) -> (u64, u64) {
        let all = (0..self.components.len()).map(|at| self.blocks(at)).sum();
        let row = (0..self.components.len())
            .map(|at| u64::from(self.padded(at).0) * u64::from(self.components[at].down));
        (all, row.sum())
    }
}
