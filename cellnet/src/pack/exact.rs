//! Convolution by its definition, in double precision: the reference for Winograd's error, and for the
//! kernels in tests.

use super::net::{ConvLayer, Moving, Shape};

/// A value `[height][width][channels]` in double precision, and the magnitude of the terms it was summed
/// from, to which rounding errors are relative.
#[derive(Debug, Clone)]
pub struct Exact {
    pub shape: Shape,
    pub values: Vec<f64>,
    pub magnitude: f64,
}

impl Exact {
    pub fn new(shape: Shape, values: Vec<f64>) -> Self {
        let magnitude = values.iter().fold(0.0, |m, v| v.abs().max(m));
        Self { shape, values, magnitude }
    }

    pub fn at(&self, y: usize, x: usize, c: usize) -> f64 {
        self.values[(y * self.shape.width + x) * self.shape.channels + c]
    }

    fn zeros(shape: Shape) -> Self {
        let values = vec![0.0; shape.pixels() * shape.channels];
        Self { shape, values, magnitude: 0.0 }
    }
}

/// Convolution without activation and residual; the magnitude is the largest sum of absolute terms.
pub fn convolve(input: &Exact, conv: &ConvLayer, shape: Shape) -> Exact {
    let [ky, kx] = conv.moving.kernel;
    let group_outputs = conv.outputs / conv.groups;
    let zero = conv.sums.as_ref().map_or(0.0, |sums| f64::from(sums.zero));
    let mut result = Exact::zeros(shape);
    let mut at = 0;
    for y in 0..shape.height {
        for x in 0..shape.width {
            for o in 0..conv.outputs {
                let first = o / group_outputs * conv.group_inputs;
                let bias = f64::from(conv.bias[o]);
                let (mut sum, mut size) = (0.0, 0.0f64);
                for i in 0..conv.group_inputs {
                    for (dy, dx) in (0..ky).flat_map(|dy| (0..kx).map(move |dx| (dy, dx))) {
                        let Some((iy, ix)) = inside(&conv.moving, input.shape, (y, x), (dy, dx))
                        else {
                            continue;
                        };
                        let w = conv.weights[((o * conv.group_inputs + i) * ky + dy) * kx + dx];
                        let term = f64::from(w) * (input.at(iy, ix, first + i) - zero);
                        sum += term;
                        size += term.abs();
                    }
                }
                let factor = conv.sums.as_ref().map_or(1.0, |sums| f64::from(sums.factors[o]));
                result.values[at] = sum * factor + bias;
                result.magnitude = result.magnitude.max(size * factor.abs() + bias.abs());
                at += 1;
            }
        }
    }
    result
}

/// The input pixel at position `(dy, dx)` of the window for output `(y, x)`; `None` in the padding.
pub fn inside(
    moving: &Moving,
    shape: Shape,
    (y, x): (usize, usize),
    (dy, dx): (usize, usize),
) -> Option<(usize, usize)> {
    let iy = (y * moving.stride[0] + dy).checked_sub(moving.pads[0])?;
    let ix = (x * moving.stride[1] + dx).checked_sub(moving.pads[1])?;
    (iy < shape.height && ix < shape.width).then_some((iy, ix))
}
