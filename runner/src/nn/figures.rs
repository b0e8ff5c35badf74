//! What is known of a model's memory: reported by its engine, or measured on its runs. Acting on it is left
//! to `model` and the ledger.

use crate::memory::ModelShare;

/// Memory of a model, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// What it holds once loaded.
    pub(crate) share: ModelShare,
    /// Peak of one run; `None` before the first.
    pub(crate) activation: Option<u64>,
    /// Measured runs, if the engine cannot report a run's need in advance: the first, and the one with the
    /// largest inputs.
    pub(super) measured: Option<(Run, Run)>,
}

/// One measured run, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) inputs: u64,
    pub(super) peak: u64,
}

impl Figures {
    /// Bytes that a run with `inputs` bytes of inputs may take beyond `activation`, its request's
    /// reservation. This matters to graphs whose axes have no fixed length: beyond what was measured, memory
    /// is assumed to grow with the square, as that of attention does.
    pub(super) fn beyond_activation(&self, inputs: u64) -> u64 {
        let Some((first, largest)) = self.measured else { return 0 };
        if inputs <= first.inputs {
            return 0;
        }
        let ratio = u128::from(inputs).div_ceil(u128::from(largest.inputs.max(1)));
        let peak = match inputs <= largest.inputs {
            true => u128::from(largest.peak),
            false => u128::from(largest.peak).saturating_mul(ratio.saturating_mul(ratio)),
        };
        u64::try_from(peak).unwrap_or(u64::MAX).saturating_sub(self.activation.unwrap_or(0))
    }

    /// Whether a run with `inputs` bytes of inputs should be measured.
    pub(super) fn is_beyond_measure(&self, inputs: u64) -> bool {
        self.measured.is_some_and(|(_, largest)| inputs > largest.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Run};

    #[test]
    fn larger_inputs_need_the_square_of_what_was_measured() {
        let run = |inputs, peak| Run { inputs, peak };
        let measured = Some((run(10, 100), run(20, 300)));
        let figures = Figures { activation: Some(100), measured, ..Figures::default() };
        let cases = [(1, 0), (10, 0), (11, 200), (20, 200), (21, 1100), (40, 1100), (41, 2600)];
        for (inputs, more) in cases {
            assert_eq!(figures.beyond_activation(inputs), more, "{inputs}");
            assert_eq!(figures.is_beyond_measure(inputs), inputs > 20);
        }
        assert_eq!(figures.beyond_activation(u64::MAX), u64::MAX - 100);
        let known = Figures { activation: Some(100), ..Figures::default() };
        assert_eq!(
            (known.beyond_activation(u64::MAX), known.is_beyond_measure(u64::MAX)),
            (0, false)
        );
    }
}
