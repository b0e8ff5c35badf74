//! Checks a plan once: every index, offset and length that a kernel will use.
//!
//! The kernels rely on these checks (see `kernels`) and check nothing in their loops. Checksums and
//! encoding are checked in [`crate::format`]. Whether the plan computes anything sensible is not checked.

mod pixels;

use crate::error::OpenError;
use crate::plan::fixed::ToSteps;
use crate::plan::{
    Activation, Affine, Algorithm, Binary, Blob, CHANNEL_BLOCK, Conv, Depthwise, LINE, Map,
    Operand, Plan, Pool, Reduce, Rounding, Step, Sums, TensorSpec, Window,
};
use crate::stage::{Stage, stages};

/// Longest side of a map or halo; keeps every product below within `u64`.
const MAX_SIDE: u32 = 1 << 16;
/// Most channels of a map.
const MAX_CHANNELS: u32 = 1 << 20;
/// Largest kernel side and stride.
const MAX_KERNEL: u32 = 255;
/// Most floats of an arena: 8 GiB.
const MAX_ARENA: u64 = 1 << 31;

/// A plan that passed all checks against a weights section of known length.
#[derive(Debug)]
pub(crate) struct Checked {
    plan: Plan,
    stages: Vec<Stage>,
    weights: usize,
}

impl Checked {
    /// Checks `plan` for a weights section of `weights` floats.
    ///
    /// # Errors
    /// [`OpenError::Plan`] for the first check that fails.
    pub(crate) fn new(plan: Plan, weights: usize) -> Result<Self, OpenError> {
        let checker = Checker { plan: &plan, weights: weights as u64 };
        checker.all().map_err(|(step, reason)| OpenError::Plan { step, reason })?;
        Ok(Self { stages: stages(&plan), plan, weights })
    }

    /// The plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan's stages, in order.
    pub(crate) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Floats the weights section must have.
    pub(crate) fn weights(&self) -> usize {
        self.weights
    }
}

type Check = Result<(), String>;

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(reason()) }
}

struct Checker<'a> {
    plan: &'a Plan,
    weights: u64,
}

impl Checker<'_> {
    fn all(&self) -> Result<(), (usize, String)> {
        let arena = self.plan.arena;
        ensure(arena <= MAX_ARENA, || format!("arena of {arena} floats")).map_err(|r| (0, r))?;
        for (i, map) in self.plan.maps.iter().enumerate() {
            self.map_fits(map).map_err(|r| (i, format!("map {i}: {r}")))?;
        }
        for (i, spec) in self.plan.inputs.iter().chain(&self.plan.outputs).enumerate() {
            self.spec(spec).map_err(|r| (i, format!("tensor `{}`: {r}", spec.name)))?;
        }
        for (i, step) in self.plan.steps.iter().enumerate() {
            self.step(step).map_err(|r| (i, r))?;
        }
        Ok(())
    }

    fn map_fits(&self, map: &Map) -> Check {
        let sides = [map.height, map.width].iter().all(|s| (1..=MAX_SIDE).contains(s))
            && map.halo.iter().all(|s| *s <= MAX_SIDE);
        let channels =
            map.channels >= 1 && map.stride >= map.channels && map.stride <= MAX_CHANNELS;
        ensure(sides && channels, || format!("size out of range: {map:?}"))?;
        let end = map.offset.checked_add(map.floats());
        let inside = map.offset.is_multiple_of(LINE) && end.is_some_and(|e| e <= self.plan.arena);
        ensure(inside, || format!("{map:?} is not inside the arena of {}", self.plan.arena))
    }

    fn spec(&self, spec: &TensorSpec) -> Check {
        let map = self.floats(spec.map)?;
        let elements = spec.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
        let expected = u64::from(map.height) * u64::from(map.width) * u64::from(map.channels);
        ensure(elements == Some(expected), || format!("{:?} on a map of {expected}", spec.dims))?;
        let fits = |v: &[f32]| v.is_empty() || v.len() == map.channels as usize;
        ensure(fits(&spec.scale) && fits(&spec.bias), || "scale or bias length".to_owned())
    }

    fn map(&self, index: u32) -> Result<&Map, String> {
        self.plan.maps.get(index as usize).ok_or_else(|| format!("no map {index}"))
    }

    /// A map of floats.
    fn floats(&self, index: u32) -> Result<&Map, String> {
        let map = self.map(index)?;
        ensure(map.zero.is_none(), || format!("map {index} is of bytes"))?;
        Ok(map)
    }

    /// A map of floats that vector kernels may read and write in blocks of channels.
    fn blocked(&self, index: u32) -> Result<&Map, String> {
        let map = self.floats(index)?;
        let whole = map.stride.is_multiple_of(CHANNEL_BLOCK);
        ensure(whole, || format!("map {index} has a channel stride of {}", map.stride))?;
        Ok(map)
    }

    fn blob(&self, blob: Blob, len: u64) -> Check {
        let end = blob.offset.checked_add(blob.len);
        let inside = blob.offset.is_multiple_of(LINE) && end.is_some_and(|e| e <= self.weights);
        ensure(inside && blob.len == len, || {
            format!("{blob:?} should have {len} floats within {}", self.weights)
        })
    }

    /// A step's outputs must not overlap its inputs, except for an elementwise step in place and for the
    /// residual of a convolution on integers, each value of which is read just before it is written.
    fn apart(&self, step: &Step) -> Check {
        let range = |i: u32| self.map(i).map(|m| m.offset..m.offset + m.floats());
        let disjoint = |a: u32, b: u32| -> Check {
            let (x, y) = (range(a)?, range(b)?);
            ensure(x.end <= y.start || y.end <= x.start, || format!("maps {a} and {b} overlap"))
        };
        let in_place = |read: u32| match step {
            Step::Binary(_) => true,
            Step::Conv(s) => s.sums.is_some() && s.residual == Some(read) && s.input != read,
            _ => false,
        };
        for read in step.inputs() {
            if !(in_place(read) && read == step.output()) {
                disjoint(step.output(), read)?;
            }
            if let Some(second) = step.second_output() {
                disjoint(second, read)?;
            }
        }
        step.second_output().map_or(Ok(()), |second| disjoint(second, step.output()))
    }

    fn step(&self, step: &Step) -> Check {
        match step {
            Step::Conv(s) => self.conv(s)?,
            Step::Depthwise(s) => self.depthwise(s)?,
            Step::Pool(s) => self.pool(s)?,
            Step::Reduce(s) => self.reduce(s)?,
            Step::Affine(s) => self.affine(s)?,
            Step::Binary(s) => self.binary(s)?,
            Step::Softmax(s) => self.softmax(s)?,
            Step::Product(s) => self.product(s)?,
            Step::Quantize(s) => self.quantize(s)?,
            Step::Norm(s) => self.norm(s)?,
            Step::Attention(s) => self.attention(s)?,
            Step::Slice(s) => self.slice(s)?,
            Step::Prepend(s) => self.prepend(s)?,
            Step::Shuffle(s) => self.shuffle(s)?,
            Step::DynamicQuantize(s) => self.dynamic_quantize(s)?,
        }
        self.apart(step)
    }

    /// Checks the window's sizes, and that the input's halo covers everything the window reads.
    fn window(&self, window: &Window, input: &Map, output: &Map) -> Check {
        let sizes = window.kernel.iter().chain(&window.stride);
        let sane = sizes.into_iter().all(|s| (1..=MAX_KERNEL).contains(s))
            && window.pad.iter().all(|p| *p <= MAX_KERNEL);
        ensure(sane, || format!("{window:?}"))?;
        let below = window.pad_after(0, input.height, output.height);
        let right = window.pad_after(1, input.width, output.width);
        let covered = window.pad[0] <= input.halo[0]
            && window.pad[1] <= input.halo[1]
            && below <= u64::from(input.halo[2])
            && right <= u64::from(input.halo[3]);
        ensure(covered, || format!("{window:?} reads outside of {input:?}"))
    }

    fn conv(&self, s: &Conv) -> Check {
        let (input, output) = (self.map(s.input)?, self.map(s.output)?);
        let limits = [s.groups, s.group_inputs, s.group_outputs];
        ensure(limits.iter().all(|n| (1..=MAX_CHANNELS).contains(n)), || format!("{limits:?}"))?;
        let (groups, inputs) = (u64::from(s.groups), u64::from(s.group_inputs));
        let outputs = u64::from(s.group_outputs);
        let channels = groups * inputs == u64::from(input.channels)
            && (groups * outputs == u64::from(output.channels) || output.zero.is_some());
        ensure(channels, || format!("{limits:?} for {input:?} and {output:?}"))?;
        let whole = s.group_outputs.is_multiple_of(CHANNEL_BLOCK);
        let panel = s.panel == 16 || (s.panel == 8 && whole);
        ensure(panel && (s.groups == 1 || whole), || format!("panel {} of {limits:?}", s.panel))?;
        self.window(&s.window, input, output)?;
        match &s.rounding {
            Some(rounding) => self.rounding(s, rounding)?,
            None => self.blocked(s.output).map(drop)?,
        }
        if let Activation::FixedSilu { bits } = s.activation {
            self.fixed(s, bits)?;
        }
        let lanes = groups * u64::from(s.group_panels()) * u64::from(s.panel);
        let weights = lanes.saturating_mul(s.depth());
        ensure(input.zero.is_some() == s.sums.is_some(), || {
            format!("{:?} on the map {input:?}", s.sums)
        })?;
        if let Some(sums) = &s.sums {
            self.sums(s, sums, lanes)?;
        }
        match s.scales {
            None => self.blob(s.weights, weights)?,
            // `lanes` is a multiple of eight, so that a pair of weights fills a float.
            Some(scales) => {
                self.blob(s.weights, weights / 2)?;
                self.blob(scales, lanes.saturating_mul(s.positions()))?;
            }
        }
        self.blob(s.bias, lanes)?;
        if let Some(residual) = s.residual {
            let residual = self.blocked(residual)?;
            self.same_sides(residual, output)?;
            ensure(u64::from(residual.channels) == groups * outputs, || {
                format!("adds {residual:?}")
            })?;
        }
        if s.algorithm == Algorithm::Direct { Ok(()) } else { self.winograd(s, input, output) }
    }

    fn sums(&self, s: &Conv, sums: &Sums, lanes: u64) -> Check {
        let plain = s.algorithm == Algorithm::Direct
            && s.scales.is_none()
            && (s.groups, s.panel) == (1, 16);
        ensure(plain, || format!("{sums:?} by {:?} in {} groups", s.algorithm, s.groups))?;
        self.blob(sums.start, lanes)?;
        self.blob(sums.factors, lanes)
    }

    /// Checks the bytes that a convolution of bytes writes, and the map of its values unless it is the same.
    fn rounding(&self, s: &Conv, rounding: &Rounding) -> Check {
        ensure(s.sums.is_some(), || format!("{rounding:?} without sums"))?;
        let bytes = self.bytes(rounding.output, s.group_outputs, rounding.scale)?;
        if rounding.output == s.output {
            return Ok(());
        }
        self.same_sides(self.blocked(s.output)?, bytes)
    }

    /// An activation in integers gives bytes, and nothing else.
    fn fixed(&self, s: &Conv, bits: u8) -> Check {
        let alone = s.rounding.filter(|r| r.output == s.output && s.residual.is_none());
        let steps = alone.and_then(|rounding| ToSteps::new(bits, rounding.scale));
        ensure(steps.is_some(), || format!("{:?} of {:?}", s.activation, s.rounding))
    }

    /// A map of the bytes of so many channels, written in whole blocks of channels, two floats each.
    fn bytes(&self, index: u32, channels: u32, scale: f32) -> Result<&Map, String> {
        let map = self.map(index)?;
        let fits = map.zero.is_some()
            && map.stride.is_multiple_of(CHANNEL_BLOCK / 4)
            && map.channels == channels.div_ceil(4);
        ensure(fits, || format!("{channels} channels rounded to {map:?}"))?;
        ensure(scale.is_normal() && scale > 0.0, || format!("a scale of {scale}"))?;
        ensure(scale.recip().is_normal(), || format!("a scale of {scale}"))?;
        Ok(map)
    }

    fn same_sides(&self, a: &Map, b: &Map) -> Check {
        let same = (a.height, a.width) == (b.height, b.width);
        ensure(same, || format!("{a:?} and {b:?} differ in size"))
    }

    fn winograd(&self, s: &Conv, input: &Map, output: &Map) -> Check {
        self.blocked(s.input)?;
        let tile = u64::from(s.algorithm.tile());
        let kind = s.groups == 1 && s.window.kernel == [3, 3] && s.window.stride == [1, 1];
        ensure(kind && s.panel == 16, || format!("{:?} for {:?}", s.algorithm, s.window))?;
        // Tiles cover whole multiples of their side; the halo must contain everything the last tile reads.
        let reads = |outputs: u32| u64::from(outputs).next_multiple_of(tile) + 2;
        let height =
            u64::from(s.window.pad[0]) + u64::from(input.height) + u64::from(input.halo[2]);
        let width = u64::from(s.window.pad[1]) + u64::from(input.width) + u64::from(input.halo[3]);
        let covered = reads(output.height) <= height && reads(output.width) <= width;
        ensure(covered, || format!("tiles of {tile} read outside of {input:?}"))
    }

    fn same_shape(&self, a: &Map, b: &Map) -> Check {
        let same = (a.height, a.width, a.channels) == (b.height, b.width, b.channels);
        ensure(same, || format!("{a:?} and {b:?} differ in shape"))
    }

    fn vector_for(&self, index: u32, stride: u32) -> Check {
        let map = self.floats(index)?;
        let plain = (map.height, map.width, map.halo) == (1, 1, [0; 4]);
        ensure(plain && map.stride == stride, || format!("{map:?} is not a vector of {stride}"))
    }

    fn depthwise(&self, s: &Depthwise) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.blocked(s.output)?);
        let same = input.channels == output.channels && input.stride == output.stride;
        ensure(same, || format!("{input:?} and {output:?}"))?;
        self.window(&s.window, input, output)?;
        let stride = u64::from(output.stride);
        let taps = u64::from(s.window.kernel[0]) * u64::from(s.window.kernel[1]);
        self.blob(s.weights, taps * stride)?;
        self.blob(s.bias, stride)?;
        s.means.map_or(Ok(()), |means| self.vector_for(means, output.stride))
    }

    fn pool(&self, s: &Pool) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.blocked(s.output)?);
        let same = input.channels == output.channels && input.stride == output.stride;
        ensure(same, || format!("{input:?} and {output:?}"))?;
        let sizes = s.window.kernel.iter().chain(&s.window.stride);
        let sane = sizes.into_iter().all(|n| (1..=MAX_SIDE).contains(n))
            && s.window.pad[0] < s.window.kernel[0]
            && s.window.pad[1] < s.window.kernel[1];
        // Windows are cut off at the map's edges, but each must begin inside the map or its padding.
        let begins = |axis: usize, size: u32, outputs: u32| {
            u64::from(outputs - 1) * u64::from(s.window.stride[axis])
                < u64::from(size) + u64::from(s.window.pad[axis])
        };
        let inside = begins(0, input.height, output.height) && begins(1, input.width, output.width);
        ensure(sane && inside, || format!("{:?} on {input:?}", s.window))
    }

    fn reduce(&self, s: &Reduce) -> Check {
        let input = self.blocked(s.input)?;
        self.vector_for(s.output, input.stride)
    }

    fn affine(&self, s: &Affine) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.blocked(s.output)?);
        let same = (input.height, input.width) == (output.height, output.width);
        let last = u64::from(s.first) + u64::from(input.channels);
        ensure(same && last <= u64::from(output.channels), || {
            format!("{input:?} at channel {} of {output:?}", s.first)
        })?;
        for blob in [s.scale, s.bias].into_iter().flatten() {
            self.blob(blob, u64::from(input.stride))?;
        }
        Ok(())
    }

    fn binary(&self, s: &Binary) -> Check {
        let output = match s.scale {
            None => self.blocked(s.output)?,
            // Each operand is checked against the number of its bytes.
            Some(scale) => {
                let fours = self.map(s.output)?.channels.min(MAX_CHANNELS);
                self.bytes(s.output, 4 * fours, scale)?
            }
        };
        let stored =
            |channels: u32| if s.scale.is_some() { channels.div_ceil(4) } else { channels };
        let repeats = |size: u32, full: u32| size == 1 || size == full;
        for operand in [s.a, s.b] {
            let (height, width, channels) = match operand {
                Operand::Map(m) => {
                    let map = self.blocked(m)?;
                    (map.height, map.width, map.channels)
                }
                Operand::Constant { height, width, channels, values } => {
                    let sides = [height, width].iter().all(|n| (1..=MAX_SIDE).contains(n));
                    ensure(sides && (1..=MAX_CHANNELS).contains(&channels), || {
                        format!("{operand:?}")
                    })?;
                    let stride =
                        if channels == 1 { 1 } else { channels.next_multiple_of(CHANNEL_BLOCK) };
                    self.blob(values, u64::from(height) * u64::from(width) * u64::from(stride))?;
                    (height, width, channels)
                }
            };
            let fits = repeats(height, output.height)
                && repeats(width, output.width)
                && (channels == 1 || stored(channels) == output.channels);
            ensure(fits, || format!("{operand:?} does not repeat to {output:?}"))?;
        }
        Ok(())
    }
}
