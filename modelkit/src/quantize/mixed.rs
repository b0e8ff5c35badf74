//! Finds the convolutions that stay in float32 so that the answers to the photos stay close enough.
//!
//! Each convolution is put on integers alone, and what that does to probabilities and heatmaps is measured
//! and divided by what keeping it costs in weights and multiplications. Those with most are kept, more and
//! more, until the targets hold. cellnet packs the large ones among them in 16 bits.

use std::collections::{BTreeMap, BTreeSet};

use rten_tensor::prelude::*;
use skincell_vision::card::{Card, MapClasses};
use skincell_vision::gradcam::Cam;
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

use super::agreement::{Agreement, Answer, Tally};
use super::calibrate::{self, Statistics};
use super::int8::{self, Convolution, Rounded};
use super::{QuantizeError, QuantizeStep};
use crate::fields;
use crate::onnx::engine::GraphEngine;
use crate::onnx::graph::Graph;

/// Most photos that each convolution is tried on alone.
const RANKED_ON: usize = 24;
/// How many times as far below 1 as the mean a single heatmap's correlation may be.
const LEAST: f64 = 3.0;

/// What the answers of a model on integers keep of the original's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Share of the photos with the same likeliest class, 0 to 1.
    pub agreement: f64,
    /// Least mean correlation of the heatmaps, up to 1. A single one may be three times as far below 1.
    pub heatmap: f64,
    /// Largest change of any class's probability on any photo, 0 to 1.
    pub change: f64,
}

impl Default for Targets {
    fn default() -> Self {
        Self { agreement: 0.99, heatmap: 0.99, change: 0.02 }
    }
}

impl Targets {
    /// Whether they hold.
    #[must_use]
    pub fn hold(&self, found: &Agreement) -> bool {
        let same = found.same_top as f64 >= self.agreement * found.photos as f64;
        let change = f64::from(found.worst_probability) <= self.change;
        let heatmaps = found.heatmaps.is_none_or(|(mean, least)| {
            mean >= self.heatmap && 1.0 - least <= LEAST * (1.0 - self.heatmap)
        });
        same && change && heatmaps
    }

    /// How far answers are off, in units of what is allowed.
    fn harm(&self, tally: &Tally) -> f64 {
        let allowed = |allowed: f64| allowed.max(1e-6);
        let mean = tally.agreement().heatmaps.map_or(1.0, |(mean, _)| mean);
        tally.usual_change() / allowed(self.change) + (1.0 - mean) / allowed(1.0 - self.heatmap)
    }
}

/// A convolution that stayed in float32.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Name of its output.
    pub name: String,
    /// Number of its weights.
    pub weights: usize,
    /// What it does alone on integers, on some of the photos.
    pub alone: Agreement,
}

/// Puts convolutions on integers, all but those kept for the targets; returns their number and the others.
///
/// # Errors
/// [`QuantizeError::Engine`] if the graph cannot be run, [`QuantizeError::Scores`] if its scores are no
/// probabilities, [`QuantizeError::Targets`] if keeping all but one does not suffice.
pub(super) fn convert(
    graph: &mut Graph,
    card: &Card,
    photos: &[PhotoTensor],
    targets: &Targets,
    progress: &mut dyn FnMut(QuantizeStep),
) -> Result<(usize, Vec<Kept>), QuantizeError> {
    let all = int8::convolutions(graph);
    let inputs = all.iter().map(|c| c.input.as_str()).collect();
    let alone = fields::closed(graph, &card.fields);
    let statistics = calibrate::statistics(&alone, inputs, photos, progress)?;
    if all.is_empty() {
        return Ok((0, Vec::new()));
    }
    let rounded = int8::rounded(&alone, &all, &statistics);
    let trial = Trial::new(alone, card, photos, statistics, rounded)?;
    let ranked = trial.ranked(&all, targets, progress)?;
    let kept = trial.kept(&ranked, targets, progress)?;
    let (stay, changed): (Vec<_>, Vec<_>) =
        ranked.into_iter().enumerate().partition(|(at, _)| kept.contains(at));
    let changed: Vec<&Convolution> = changed.into_iter().map(|(_, (c, _))| c).collect();
    let stay = stay.into_iter().map(|(_, (convolution, alone))| Kept {
        name: convolution.output.clone(),
        weights: convolution.weights,
        alone,
    });
    Ok((int8::convert(graph, &changed, &trial.statistics, &trial.rounded), stay.collect()))
}

/// A graph, photos, and the original's answers to them.
struct Trial<'t> {
    graph: Graph,
    card: &'t Card,
    photos: &'t [PhotoTensor],
    statistics: BTreeMap<String, Statistics>,
    rounded: BTreeMap<String, Rounded>,
    original: Vec<Answer>,
}

impl<'t> Trial<'t> {
    fn new(
        graph: Graph,
        card: &'t Card,
        photos: &'t [PhotoTensor],
        statistics: BTreeMap<String, Statistics>,
        rounded: BTreeMap<String, Rounded>,
    ) -> Result<Self, QuantizeError> {
        let engine = GraphEngine::load_as_served(&graph)?;
        let answers = photos.iter().map(|photo| answer(&engine, card, photo));
        let original = answers.collect::<Result<_, _>>()?;
        Ok(Self { graph, card, photos, statistics, rounded, original })
    }

    /// Answers every `step`th photo with these convolutions on integers, and compares.
    fn on_integers(&self, some: &[&Convolution], step: usize) -> Result<Tally, QuantizeError> {
        let mut graph = self.graph.clone();
        int8::convert(&mut graph, some, &self.statistics, &self.rounded);
        let engine = GraphEngine::load_as_served(&graph)?;
        let mut tally = Tally::default();
        for (photo, was) in self.photos.iter().zip(&self.original).step_by(step) {
            tally.add(self.card, was, &answer(&engine, self.card, photo)?);
        }
        Ok(tally)
    }

    /// Positions in `ranked` of the convolutions to keep: the first ones, as many as the targets need,
    /// without those of them that the targets then do not need.
    fn kept(
        &self,
        ranked: &[(&Convolution, Agreement)],
        targets: &Targets,
        progress: &mut dyn FnMut(QuantizeStep),
    ) -> Result<BTreeSet<usize>, QuantizeError> {
        let mut holds = |kept: &BTreeSet<usize>| {
            progress(QuantizeStep::Mix(kept.len()));
            let rest = ranked.iter().enumerate().filter(|(at, _)| !kept.contains(at));
            let rest: Vec<&Convolution> = rest.map(|(_, (convolution, _))| *convolution).collect();
            Ok::<_, QuantizeError>(targets.hold(&self.on_integers(&rest, 1)?.agreement()))
        };
        let mut kept = BTreeSet::new();
        while !holds(&kept)? {
            let count = kept.len();
            if count + 1 >= ranked.len() {
                return Err(QuantizeError::Targets);
            }
            // At least one goes on integers, or nothing would be quantized.
            kept.extend(count..(ranked.len() - 1).min(count + 1 + count / 6));
        }
        // The last of them do least harm.
        for at in (0..kept.len()).rev() {
            kept.remove(&at);
            if !holds(&kept)? {
                kept.insert(at);
            }
        }
        Ok(kept)
    }

    /// The convolutions, those first that do most harm alone for what keeping them costs.
    fn ranked<'c>(
        &self,
        all: &'c [Convolution],
        targets: &Targets,
        progress: &mut dyn FnMut(QuantizeStep),
    ) -> Result<Vec<(&'c Convolution, Agreement)>, QuantizeError> {
        let step = self.photos.len().div_ceil(RANKED_ON).max(1);
        let pixels = |c: &Convolution| {
            self.statistics.get(&c.input).map_or(1, |statistics| statistics.pixels)
        };
        let products = |c: &Convolution| (c.weights * pixels(c) / c.skipped) as f64;
        let weights: f64 = all.iter().map(|c| c.weights as f64).sum();
        let work: f64 = all.iter().map(products).sum();
        let mut priced = Vec::new();
        for (index, convolution) in all.iter().enumerate() {
            progress(QuantizeStep::Rank(index, all.len()));
            let tally = self.on_integers(&[convolution], step)?;
            let cost = convolution.weights as f64 / weights + products(convolution) / work.max(1.0);
            priced.push((targets.harm(&tally) / cost, convolution, tally.agreement()));
        }
        priced.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(priced.into_iter().map(|(_, convolution, alone)| (convolution, alone)).collect())
    }
}

/// The graph's answer to a photo.
fn answer(engine: &GraphEngine, card: &Card, photo: &PhotoTensor) -> Result<Answer, QuantizeError> {
    let mut names = vec![card.output.name.as_str()];
    if let Some(map) = &card.gradcam {
        names.push(&map.output);
        if let MapClasses::Likeliest { output, .. } = &map.classes {
            names.push(output);
        }
    }
    let mut values = calibrate::run(engine, &names, photo)?.into_iter().map(|value| value.to_vec());
    let scores = values.next().unwrap_or_default();
    let maps = values.next().map(|maps| Cam { maps, classes: values.next().unwrap_or_default() });
    Ok(Answer { probabilities: probabilities(&scores, &card.output)?, cam: maps })
}
