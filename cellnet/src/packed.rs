//! A decoded and checked `model.cell`: the plan and weights that a run uses.

use crate::check::Checked;
use crate::error::OpenError;
use crate::format;
use crate::mapping::Bytes;
use crate::plan::Plan;
use crate::stage::Stage;

/// A checked plan and its weights.
#[derive(Debug)]
pub(crate) struct Packed {
    checked: Checked,
    bytes: Bytes,
    weights: std::ops::Range<usize>,
    weights_crc: u32,
}

impl Packed {
    pub(crate) fn new(bytes: Bytes) -> Result<Self, OpenError> {
        let parts = format::read(bytes.as_slice())?;
        let checked = Checked::new(parts.plan, parts.weights.len() / 4)?;
        let packed =
            Self { checked, bytes, weights: parts.weights, weights_crc: parts.weights_crc };
        if packed.weights().len() == packed.checked_weights() {
            return Ok(packed);
        }
        let reason = "the weights are not aligned to four bytes".to_owned();
        Err(OpenError::Decode { part: "header", reason })
    }

    /// The plan.
    pub(crate) fn plan(&self) -> &Plan {
        self.checked.plan()
    }

    /// The plan's stages, in order.
    pub(crate) fn stages(&self) -> &[Stage] {
        self.checked.stages()
    }

    /// The weights section as it lies in the file.
    pub(crate) fn weights(&self) -> &[f32] {
        bytemuck::try_cast_slice(self.weights_bytes()).unwrap_or_default()
    }

    /// The weights section as bytes.
    pub(crate) fn weights_bytes(&self) -> &[u8] {
        self.bytes.as_slice().get(self.weights.clone()).unwrap_or_default()
    }

    /// The weights' checksum as the file declares it.
    pub(crate) fn weights_crc(&self) -> u32 {
        self.weights_crc
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The number of floats of weights that the plan was checked against.
    pub(crate) fn checked_weights(&self) -> usize {
        self.checked.weights()
    }
}
