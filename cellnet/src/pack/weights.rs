//! Packs weights in the order in which kernels read them.

use std::collections::HashMap;

use super::net::ConvLayer;
use crate::plan::{Algorithm, Blob, CHANNEL_BLOCK, LINE};

/// The weights section under construction.
#[derive(Default)]
pub struct Section {
    pub floats: Vec<f32>,
    /// Blobs by checksum. Equal ones, such as a dense layer's weights needed again for Grad-CAM, are stored
    /// once.
    held: HashMap<u32, Blob>,
}

impl Section {
    /// Appends the values at the next line, or finds an equal blob.
    pub fn push(&mut self, values: &[f32]) -> Blob {
        let crc = crc32fast::hash(bytemuck::cast_slice(values));
        if let Some(blob) = self.held.get(&crc)
            && self.same(*blob, values)
        {
            return *blob;
        }
        let offset = self.floats.len().next_multiple_of(LINE as usize);
        self.floats.resize(offset, 0.0);
        self.floats.extend_from_slice(values);
        let blob = Blob { offset: offset as u64, len: values.len() as u64 };
        self.held.entry(crc).or_insert(blob);
        blob
    }

    /// Whether a blob has exactly these bits.
    fn same(&self, blob: Blob, values: &[f32]) -> bool {
        let first = blob.offset as usize;
        let held = self.floats.get(first..first + blob.len as usize).unwrap_or_default();
        bytemuck::cast_slice::<f32, u8>(held) == bytemuck::cast_slice::<f32, u8>(values)
    }

    /// Appends one value per channel, padded to `stride`.
    pub fn push_channels(&mut self, values: &[f32], stride: usize) -> Blob {
        let mut values = values.to_vec();
        values.resize(stride, 0.0);
        self.push(&values)
    }
}

/// A convolution whose groups fit the kernels: one group, or groups of a multiple of eight outputs.
#[derive(Debug, Clone)]
pub struct Grouped {
    pub groups: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub panel: usize,
    /// `[output over all groups][input of the group][kernel y][kernel x]`.
    weights: Vec<f32>,
    positions: usize,
}

/// Joins as many neighbouring groups as make their outputs a multiple of eight, with zero weights between
/// different groups; all groups if their number has no such divisor.
pub fn regroup(conv: &ConvLayer) -> Grouped {
    let (inputs, outputs) = (conv.group_inputs, conv.outputs / conv.groups);
    let positions = conv.moving.kernel[0] * conv.moving.kernel[1];
    let block = CHANNEL_BLOCK as usize;
    let fits = |joined: &usize| {
        conv.groups.is_multiple_of(*joined) && (joined * outputs).is_multiple_of(block)
    };
    let joined =
        if conv.groups == 1 { 1 } else { (1..conv.groups).find(fits).unwrap_or(conv.groups) };
    let groups = conv.groups / joined;
    let mut weights = vec![0.0; conv.outputs * joined * inputs * positions];
    let each = inputs * positions;
    for (output, from) in conv.weights.chunks(each.max(1)).enumerate() {
        let member = output / outputs % joined;
        let at = (output * joined + member) * each;
        if let Some(to) = weights.get_mut(at..at + each) {
            to.copy_from_slice(from);
        }
    }
    let (inputs, outputs) = (inputs * joined, outputs * joined);
    let panel = if groups > 1 && !outputs.is_multiple_of(16) { 8 } else { 16 };
    Grouped { groups, inputs, outputs, panel, weights, positions }
}

impl Grouped {
    fn weight(&self, output: usize, input: usize, position: usize) -> f32 {
        self.weights[(output * self.inputs + input) * self.positions + position]
    }

    /// The bias in whole panels.
    pub fn bias(&self, bias: &[f32]) -> Vec<f32> {
        let lanes = self.outputs.next_multiple_of(self.panel);
        let mut packed = vec![0.0; self.groups * lanes];
        for (o, b) in bias.iter().enumerate() {
            packed[o / self.outputs * lanes + o % self.outputs] = *b;
        }
        packed
    }

    /// Weights `[group][panel][position][input][lane]`; a position is one in the kernel or, for Winograd,
    /// in the transform.
    pub fn pack(&self, algorithm: Algorithm) -> Vec<f32> {
        let side = algorithm.tile() as usize + 2;
        let positions = if algorithm == Algorithm::Direct { self.positions } else { side * side };
        let panels = self.outputs.div_ceil(self.panel);
        let mut packed = vec![0.0; self.groups * panels * positions * self.inputs * self.panel];
        for output in 0..self.groups * self.outputs {
            let (group, own) = (output / self.outputs, output % self.outputs);
            let panel = group * panels + own / self.panel;
            for input in 0..self.inputs {
                let at = |position: usize| {
                    ((panel * positions + position) * self.inputs + input) * self.panel
                        + own % self.panel
                };
                if algorithm == Algorithm::Direct {
                    for position in 0..positions {
                        packed[at(position)] = self.weight(output, input, position);
                    }
                    continue;
                }
                let kernel = std::array::from_fn(|p| f64::from(self.weight(output, input, p)));
                for (position, value) in transform(&kernel, algorithm).into_iter().enumerate() {
                    packed[at(position)] = value as f32;
                }
            }
        }
        packed
    }
}

/// Whole weights, four to a float, and the sums to begin with.
pub struct Whole {
    /// `[panel][position][four inputs][lane]`.
    pub weights: Vec<f32>,
    /// The bits of an `i32` for each lane: minus `zero` times the sum of its weights.
    pub start: Vec<f32>,
    /// Whether all weights are within ±64.
    pub is_narrow: bool,
}

/// Packs the weights of a convolution without groups as signed bytes, for inputs that are 0 at `zero`.
pub fn whole(grouped: &Grouped, zero: u8) -> Whole {
    let inputs = grouped.inputs.next_multiple_of(4);
    let lanes = grouped.outputs.next_multiple_of(grouped.panel);
    let mut weights = vec![0i8; lanes * grouped.positions * inputs];
    let mut start = vec![0i32; lanes];
    let mut is_narrow = true;
    for (output, start) in start.iter_mut().enumerate().take(grouped.outputs) {
        let (panel, lane) = (output / grouped.panel, output % grouped.panel);
        for position in 0..grouped.positions {
            for input in 0..grouped.inputs {
                // `as` saturates; the weights are whole numbers of eight bits.
                let weight = grouped.weight(output, input, position) as i8;
                let four = (panel * grouped.positions + position) * inputs / 4 + input / 4;
                weights[(four * grouped.panel + lane) * 4 + input % 4] = weight;
                *start = start.wrapping_sub(i32::from(zero) * i32::from(weight));
                is_narrow &= weight.unsigned_abs() <= 64;
            }
        }
    }
    let fours = weights.as_chunks::<4>().0.iter();
    let weights = fours.map(|four| f32::from_le_bytes(four.map(i8::cast_unsigned))).collect();
    let start = start.into_iter().map(|start| f32::from_bits(start.cast_unsigned())).collect();
    Whole { weights, start, is_narrow }
}

/// Weights as 16-bit integers, two to a float, and the scale of each output at each position.
pub struct Halved {
    pub weights: Vec<f32>,
    pub scales: Vec<f32>,
}

/// Rounds packed weights, `inputs` rows of `panel` lanes for each position, to integers from -32767 to 32767.
/// What rounding adds to a weight is taken from the next input's, so that an output's errors have no sum:
/// inputs after an activation have much in common, and that is multiplied with the sum.
///
/// Weights that were 8-bit integers times a scale stay what they were, because the scale is chosen so that
/// they are multiples of it.
pub fn halve(packed: &[f32], inputs: usize, panel: usize) -> Halved {
    let mut integers: Vec<i16> = Vec::with_capacity(packed.len());
    let mut scales = Vec::with_capacity(packed.len() / inputs.max(1));
    for position in packed.chunks(inputs * panel) {
        let own = (0..panel).map(|lane| scale(position.iter().skip(lane).step_by(panel)));
        let own: Vec<f32> = own.collect();
        let mut owed = vec![0.0; panel];
        for row in position.chunks(panel) {
            for ((weight, scale), owed) in row.iter().zip(&own).zip(&mut owed) {
                let wanted = weight / scale + *owed;
                let most = f32::from(i16::MAX);
                let integer = wanted.round().clamp(-most, most);
                *owed = wanted - integer;
                integers.push(integer as i16);
            }
        }
        scales.extend(own);
    }
    let pairs = integers.as_chunks::<2>().0;
    let bits = |[a, b]: &[i16; 2]| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        f32::from_le_bytes([a[0], a[1], b[0], b[1]])
    };
    Halved { weights: pairs.iter().map(bits).collect(), scales }
}

/// The scale of the 16-bit integers for these weights. If they are multiples of some number, so are the
/// integers of another: the largest weight is at most [`STEPS`] of the former.
fn scale<'w>(weights: impl Iterator<Item = &'w f32> + Clone) -> f32 {
    let largest = weights.clone().fold(0.0f32, |largest, w| largest.max(w.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    let are_multiples = |steps: &i16| {
        let by = f32::from(*steps) / largest;
        weights.clone().all(|w| (w * by - (w * by).round()).abs() < NEARLY)
    };
    let most = (1..=STEPS).find(are_multiples).map_or(i16::MAX, |steps| i16::MAX / steps * steps);
    largest / f32::from(most)
}

/// Most steps from 0 to the largest of some 8-bit integers less their zero point.
const STEPS: i16 = 255;

/// How far from a whole number of steps a weight may be, in steps. Scaling in float32 moves 255 of them by
/// less.
const NEARLY: f32 = 1e-3;

/// `G g Gᵀ` of a 3×3 kernel, in double precision.
fn transform(kernel: &[f64; 9], algorithm: Algorithm) -> Vec<f64> {
    const G2: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const G4: [[f64; 3]; 6] = [
        [0.25, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    let g: &[[f64; 3]] = if algorithm == Algorithm::Winograd4 { &G4 } else { &G2 };
    let mut result = Vec::with_capacity(g.len() * g.len());
    for row in g {
        let half: [f64; 3] =
            std::array::from_fn(|x| (0..3).map(|y| row[y] * kernel[y * 3 + x]).sum());
        for column in g {
            result.push((0..3).map(|x| half[x] * column[x]).sum());
        }
    }
    result
}

/// Depthwise weights `[kernel y][kernel x][stride]`.
pub fn depthwise(conv: &ConvLayer, stride: usize) -> Vec<f32> {
    let positions = conv.moving.kernel[0] * conv.moving.kernel[1];
    let mut packed = vec![0.0; positions * stride];
    for (channel, kernel) in conv.weights.chunks(positions.max(1)).enumerate() {
        for (position, weight) in kernel.iter().enumerate() {
            packed[position * stride + channel] = *weight;
        }
    }
    packed
}
