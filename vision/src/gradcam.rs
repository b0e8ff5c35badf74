//! The last step of Grad-CAM: makes the heatmap of one class from the maps that a prepared graph returns
//! for many classes at once. The graph computes the maps (see `modelkit`); `overlay` draws the heatmap.

use crate::card::{Activation, Basis, Form, GradCam, MapClasses};
use thiserror::Error;

/// A map is normalised and shown only if its maximum is above this threshold of the origin app; smaller
/// values are rounding errors.
pub const SMALLEST_MAXIMUM: f64 = 1e-10;

/// Shows where in the photo the evidence for one class lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Heatmap {
    width: u32,
    height: u32,
    values: Vec<f32>,
    basis: Basis,
}

impl Heatmap {
    /// A heatmap of `values`, `[height, width]`, each 0 to 1, rows from the top. `None` if their number is
    /// not `width * height`, a side is 0 or a value lies outside 0 to 1.
    #[must_use]
    pub fn new(width: u32, height: u32, values: Vec<f32>, basis: Basis) -> Option<Self> {
        let area = u64::from(width) * u64::from(height);
        let fits = area > 0 && area == values.len() as u64;
        let in_range = values.iter().all(|v| (0.0..=1.0).contains(v));
        (fits && in_range).then_some(Self { width, height, values, basis })
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width]`, 0 to 1, rows from the top. In those of [`heatmap`] the largest is 1, or all are 0
    /// if none is above [`SMALLEST_MAXIMUM`].
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The score whose gradient is shown: the card's choice, or [`Basis::Logit`] if the probability is
    /// saturated and its gradient vanishes.
    #[must_use]
    pub fn basis(&self) -> Basis {
        self.basis
    }
}

/// The Grad-CAM outputs of one run, as [`GradCam`] describes them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cam {
    /// `[rows, height, width]`.
    pub maps: Vec<f32>,
    /// `[count]`, whole numbers: the class index of map i, and where there are two sets of maps, also of map
    /// count + i. Empty if every class has a map.
    pub classes: Vec<f32>,
}

impl From<Vec<f32>> for Cam {
    fn from(maps: Vec<f32>) -> Self {
        Self { maps, classes: Vec::new() }
    }
}

/// A borrowed [`Cam`].
#[derive(Debug, Clone, Copy)]
pub struct CamView<'a> {
    maps: &'a [f32],
    classes: &'a [f32],
}

impl<'a> From<&'a Cam> for CamView<'a> {
    fn from(cam: &'a Cam) -> Self {
        Self { maps: &cam.maps, classes: &cam.classes }
    }
}

/// A slice holds the maps of all classes.
impl<'a, M: AsRef<[f32]> + ?Sized> From<&'a M> for CamView<'a> {
    fn from(maps: &'a M) -> Self {
        Self { maps: maps.as_ref(), classes: &[] }
    }
}

/// Why a heatmap cannot be made.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GradCamError {
    /// The graph's output does not have the number of elements that the card says.
    #[error(
        "the model's Grad-CAM output has {found} values, its card says {rows} maps of {height} x {width}: \
         prepare the model again"
    )]
    Shape {
        /// Elements in the output.
        found: usize,
        /// Expected number of maps.
        rows: usize,
        /// Rows of a map, by the card.
        height: u32,
        /// Columns of a map, by the card.
        width: u32,
    },
    /// The model has no class of this index.
    #[error("class {class} was asked for, the model has {classes}: ask for 0 to {last}", last = classes.saturating_sub(1))]
    Class {
        /// The requested index.
        class: usize,
        /// Number of the model's classes.
        classes: usize,
    },
    /// The class is not among those that have maps.
    #[error(
        "the model gives heatmaps of the {count} likeliest classes of a photo, and class {class} is not one \
         of them: ask for one of the first {count} results"
    )]
    Unlikely {
        /// The requested index.
        class: usize,
        /// Number of classes that have maps.
        count: usize,
    },
    /// The output with the class indices of the maps does not hold valid indices.
    #[error(
        "the model's output of the classes of its maps holds {found:?}, its card says {count} of {classes} \
         classes: prepare the model again"
    )]
    Classes {
        /// The values found.
        found: Vec<f32>,
        /// Number of classes that have maps.
        count: usize,
        /// Number of the model's classes.
        classes: usize,
    },
    /// A value is NaN or infinite.
    #[error("the model's {what} {index} is not finite: run `skincell model check` on this model")]
    NotFinite {
        /// Name of the values.
        what: &'static str,
        /// Index of the first such value.
        index: usize,
    },
}

/// The heatmap of `class`. `cam` holds the maps `M` of all classes or of the likeliest,
/// `[rows, map.height, map.width]` f32 (see [`GradCam`]); `probabilities` is `[classes]`, 0 to 1.
///
/// With [`Basis::Probability`] the gradient of the class's probability `p_c` is computed through the
/// activation: `R_c = Σ_j J[c,j]·M_j / (h·w)` in f64, where for softmax `J[c,j] = -p_c·p_j` and
/// `J[c,c] = p_c·Σ_{j≠c} p_j`, and for sigmoid `J[c,c] = p_c·(1 - p_c)` and all others are 0. The heatmap
/// is `relu(R_c)` divided by its maximum. If the maximum is not above [`SMALLEST_MAXIMUM`], the activation
/// is saturated: the heatmap is then `relu(M_c)` divided by its maximum, with [`Basis::Logit`], or all
/// zeros if that is not above the threshold either.
///
/// If the graph takes the gradient of the probabilities itself ([`GradCam::of`]), `M_c` is already the
/// gradient of `p_c`, and the heatmap is `relu(M_c / (h·w))` divided by its maximum.
///
/// If only the likeliest classes have maps, the first set is such gradients of `p_c`. With logits in the
/// graph a second set follows, gradients of the logits, which is used where the first has no value above the
/// threshold. If the card's basis is the logit, that set is the only one.
///
/// # Errors
/// [`GradCamError`] for a shape that differs from the card's, a class out of range, a class without a map,
/// or a value that is not finite.
pub fn heatmap<'a>(
    cam: impl Into<CamView<'a>>,
    map: &GradCam,
    probabilities: &[f32],
    activation: Activation,
    class: usize,
) -> Result<Heatmap, GradCamError> {
    let CamView { maps: cam, classes } = cam.into();
    let area = check(cam, map, probabilities, class)?;
    let done = |values: Vec<f32>, basis: Basis| Heatmap {
        width: map.width,
        height: map.height,
        values,
        basis,
    };
    if let MapClasses::Likeliest { count, .. } = map.classes {
        let at = place(classes, count as usize, probabilities.len(), class)?;
        let of = |row: usize, divisor: f64| {
            let row = cam.chunks_exact(area).nth(row).unwrap_or_default();
            normalised(&row.iter().map(|&m| f64::from(m) / divisor).collect::<Vec<_>>())
        };
        if map.basis == Basis::Probability {
            let found = of(at, area as f64);
            if found.is_some() || map.sets() == 1 {
                return Ok(done(found.unwrap_or_else(|| vec![0.0; area]), Basis::Probability));
            }
        }
        let logit = of(at + (map.sets() - 1) * count as usize, 1.0);
        return Ok(done(logit.unwrap_or_else(|| vec![0.0; area]), Basis::Logit));
    }
    if map.of == Form::Probabilities {
        let only_class: Vec<f64> =
            (0..probabilities.len()).map(|j| f64::from(u8::from(j == class))).collect();
        let values = normalised(&mixed(cam, &only_class, area)).unwrap_or_else(|| vec![0.0; area]);
        return Ok(done(values, Basis::Probability));
    }
    if map.basis == Basis::Probability {
        let jacobian = jacobian(probabilities, activation, class);
        if let Some(values) = normalised(&mixed(cam, &jacobian, area)) {
            return Ok(done(values, Basis::Probability));
        }
    }
    let map_of_class = cam.chunks_exact(area).nth(class).unwrap_or_default();
    let logit: Vec<f64> = map_of_class.iter().map(|&m| f64::from(m)).collect();
    Ok(done(normalised(&logit).unwrap_or_else(|| vec![0.0; area]), Basis::Logit))
}

/// Position of `class` among the `listed` classes that have maps.
fn place(
    listed: &[f32],
    count: usize,
    classes: usize,
    class: usize,
) -> Result<usize, GradCamError> {
    let known = |c: &f32| c.fract() == 0.0 && *c >= 0.0 && (*c as usize) < classes;
    if listed.len() != count || !listed.iter().all(known) {
        return Err(GradCamError::Classes { found: listed.to_vec(), count, classes });
    }
    let found = listed.iter().position(|c| *c as usize == class);
    found.ok_or(GradCamError::Unlikely { class, count })
}

/// Checks all inputs against each other; returns the number of values per map.
fn check(
    cam: &[f32],
    map: &GradCam,
    probabilities: &[f32],
    class: usize,
) -> Result<usize, GradCamError> {
    let classes = probabilities.len();
    let (width, height) = (map.width, map.height);
    let area = u64::from(width) * u64::from(height);
    let rows = map.rows(classes);
    if area == 0 || rows == 0 || area.checked_mul(rows as u64) != Some(cam.len() as u64) {
        return Err(GradCamError::Shape { found: cam.len(), rows, height, width });
    }
    if class >= classes {
        return Err(GradCamError::Class { class, classes });
    }
    for (what, values) in [("Grad-CAM value", cam), ("probability", probabilities)] {
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(GradCamError::NotFinite { what, index });
        }
    }
    Ok(cam.len() / rows)
}

/// `∂p_class/∂logit_j` for every class `j`. For softmax `1 - p` is computed as the sum of the other
/// probabilities, because the subtraction loses all digits near 1.
fn jacobian(probabilities: &[f32], activation: Activation, class: usize) -> Vec<f64> {
    let p: Vec<f64> = probabilities.iter().map(|&p| f64::from(p)).collect();
    let p_class = p.get(class).copied().unwrap_or_default();
    let others: f64 = p.iter().enumerate().filter(|(j, _)| *j != class).map(|(_, p)| p).sum();
    p.iter()
        .enumerate()
        .map(|(j, p)| match (activation, j == class) {
            (Activation::Softmax, true) => p_class * others,
            (Activation::Softmax, false) => -p_class * p,
            (Activation::Sigmoid, true) => p_class * (1.0 - p_class),
            (Activation::Sigmoid, false) => 0.0,
        })
        .collect()
}

/// `Σ_j jacobian[j]·M_j / area`, `[area]`.
fn mixed(cam: &[f32], jacobian: &[f64], area: usize) -> Vec<f64> {
    let mut sum = vec![0.0; area];
    for (maps, &factor) in cam.chunks_exact(area).zip(jacobian) {
        if factor != 0.0 {
            sum.iter_mut().zip(maps).for_each(|(s, &m)| *s += factor * f64::from(m));
        }
    }
    sum.iter_mut().for_each(|s| *s /= area as f64);
    sum
}

/// `relu(map)` divided by its maximum; `None` if the maximum is not above [`SMALLEST_MAXIMUM`].
fn normalised(map: &[f64]) -> Option<Vec<f32>> {
    let most = map.iter().copied().fold(0.0, f64::max);
    (most > SMALLEST_MAXIMUM).then(|| map.iter().map(|v| (v.max(0.0) / most) as f32).collect())
}

/// Bilinear enlargement of `heatmap` to `width` × `height`, `[height, width]`, 0 to 1.
///
/// Half-pixel centres, edges repeated: output column `x` reads at `(x + 0.5)·w/width - 0.5`, as in
/// `tf.image.resize` (version 2) and OpenCV's `INTER_LINEAR`.
#[must_use]
pub fn upsample(heatmap: &Heatmap, width: u32, height: u32) -> Vec<f32> {
    let columns = taps(heatmap.width, width);
    let stretched: Vec<Vec<f32>> = heatmap
        .values
        .chunks_exact(heatmap.width as usize)
        .map(|row| columns.iter().map(|tap| tap.between(row[tap.low], row[tap.high])).collect())
        .collect();
    let mut out = Vec::with_capacity(width as usize * height as usize);
    for tap in taps(heatmap.height, height) {
        let pairs = stretched[tap.low].iter().zip(&stretched[tap.high]);
        out.extend(pairs.map(|(&low, &high)| tap.between(low, high)));
    }
    out
}

/// The two source samples around an output sample, and the weight of the second one.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl Tap {
    fn between(&self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.weight
    }
}

fn taps(from: u32, to: u32) -> Vec<Tap> {
    let scale = f64::from(from) / f64::from(to.max(1));
    let last = from.saturating_sub(1);
    (0..to)
        .map(|x| {
            let at = ((f64::from(x) + 0.5) * scale - 0.5).clamp(0.0, f64::from(last));
            let low = at as u32;
            let high = (low + 1).min(last);
            Tap { low: low as usize, high: high as usize, weight: (at - f64::from(low)) as f32 }
        })
        .collect()
}

#[cfg(test)]
#[path = "gradcam/tests.rs"]
mod tests;
