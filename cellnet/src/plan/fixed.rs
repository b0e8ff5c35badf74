//! Numbers of 16 bits with a fixed point: how results are rounded to bytes from them.

/// Fewest and most bits after the point. With more, SiLU's bend would not fit 16 bits.
pub(crate) const BITS: std::ops::RangeInclusive<u8> = 6..=12;

/// Units in one, of numbers with `bits` after the point: 2^bits.
pub(crate) fn units(bits: u8) -> f32 {
    f32::from_bits((127 + u32::from(bits)) << 23)
}

/// How a number becomes steps of a byte: times `factor / 2^15`, rounded, which gives steps with `places` bits
/// after the point; then rounded to whole steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ToSteps {
    pub(crate) factor: i16,
    pub(crate) places: u32,
}

impl ToSteps {
    /// For numbers with `bits` after the point, and steps of `scale`. `None` if the steps are so small or so
    /// large that few bits of the numbers count.
    pub(crate) fn new(bits: u8, scale: f32) -> Option<Self> {
        let units = scale * units(bits);
        if !BITS.contains(&bits) || !(16.0..=4096.0).contains(&units) {
            return None;
        }
        // The most places for which a number's size does not grow.
        let places = (4..=12).rev().find(|places| (1 << places) as f32 <= units * 0.999)?;
        let factor = (32768.0 * (1 << places) as f32 / units).round() as i16;
        Some(Self { factor, places })
    }
}
