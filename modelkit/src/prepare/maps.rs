//! Adds the Grad-CAM output to a graph, or finds the reason why it has none.

use skincell_vision::card::{GradCam, Input, Layout, Target};

use super::PrepareError;
use super::options::{CamTarget, PrepareOptions};
use crate::compare::Samples;
use crate::gradcam::{self, Added, CamOptions, FeatureMap, Refusal, Shown};
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, label, output};
use crate::scores::Scores;

/// Computes the added maps on a few photos. If that fails, removes them from both graphs and returns the
/// reason in the inner error.
///
/// # Errors
/// [`PrepareError::Layer`] if the user named the layer.
pub(super) fn without_failing_maps(
    solved: Result<Added, String>,
    graph: &mut Graph,
    twin: Option<&mut Graph>,
    (samples, options): (&Samples, &PrepareOptions),
) -> Result<Result<Added, String>, PrepareError> {
    let Ok(added) = &solved else { return Ok(solved) };
    let Err(why) = gradcam::computable(graph, &added.card, samples) else { return Ok(solved) };
    if options.layer.is_some() {
        return Err(PrepareError::Layer(why));
    }
    [Some(graph), twin].into_iter().flatten().for_each(|g| gradcam::without_maps(g, &added.card));
    Ok(Err(why))
}

/// What the card and the report say of the maps: their description or the reason why there are none, and the
/// name and the channels of their layer.
pub(super) type Described = (Option<GradCam>, Option<String>, Option<(String, usize)>);

pub(super) fn shown(solved: Result<Added, String>, notes: &mut Vec<String>) -> Described {
    match solved {
        Ok(added) => {
            notes.extend(added.notes);
            (Some(added.card), None, Some((added.shown_layer, added.channels)))
        }
        Err(why) => (None, Some(why), None),
    }
}

/// What the maps are made from, besides the graph.
pub(super) struct Given<'a> {
    pub(super) scores: &'a Scores,
    pub(super) shifts: &'a Shifts,
    pub(super) input: &'a Input,
    pub(super) options: &'a PrepareOptions,
    pub(super) samples: &'a Samples,
}

impl Given<'_> {
    fn wanted(&self, graph: &Graph) -> CamOptions {
        let target = match self.options.target {
            CamTarget::Only(target) => Some(target),
            CamTarget::None | CamTarget::Solvable => None,
        };
        let own_bias = self.options.own_bias.or(graph.own_biases);
        CamOptions { target, basis: self.options.basis, own_bias, only_conv: false }
    }

    /// What of a map may be shown: its last convolution, itself, or both, as far as they lie over the photo;
    /// and why the map itself does not, if only the convolution does.
    fn placed(
        &self,
        graph: &Graph,
        probe: &mut Probe,
        map: &FeatureMap,
    ) -> Result<Result<(CamOptions, Option<Refusal>), Refusal>, EngineError> {
        let wanted = self.wanted(graph);
        let conv = map.conv.and_then(|index| graph.nodes.get(index));
        let conv = conv.filter(|_| wanted.target != Some(Target::Activation));
        let conv = conv.map(|node| FeatureMap {
            pooled: output(node).to_owned(),
            axis: 1,
            tokens: None,
            ..map.clone()
        });
        let conv = conv.map(|conv| self.upright(graph, probe, &conv)).transpose()?;
        let map = self.upright(graph, probe, map)?;
        Ok(match (conv, map) {
            (Some(Ok(())), Err(why)) => Ok((CamOptions { only_conv: true, ..wanted }, Some(why))),
            (_, Err(why)) => Err(why),
            (Some(Err(why)), Ok(())) if wanted.target == Some(Target::Conv) => Err(why),
            (Some(Err(_)), Ok(())) => {
                Ok((CamOptions { target: Some(Target::Activation), ..wanted }, None))
            }
            _ => Ok((wanted, None)),
        })
    }

    /// Why a map does not lie over the photo.
    fn upright(
        &self,
        graph: &Graph,
        probe: &mut Probe,
        map: &FeatureMap,
    ) -> Result<Result<(), Refusal>, EngineError> {
        let rows = if self.input.layout == Layout::Nchw { 2 } else { 1 };
        let shown = match gradcam::upright(graph, probe, map, (&self.input.name, rows))? {
            Ok(shown) => shown,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if shown == Shown::ByOperators {
            return Ok(Ok(()));
        }
        let why = gradcam::response(graph, map, self.samples, rows)?;
        Ok(why.map_err(|why| {
            let node = graph.producer_of(&map.pooled).map(|(_, node)| label(node));
            let why = format!(
                "{why}, so that a heatmap would lie in the wrong place; prepare the model without the layer \
                 that moves them, or name an earlier layer with --cam-layer"
            );
            Refusal { node: node.unwrap_or_default(), why: why.into() }
        }))
    }

    /// Adds the output for a named layer, or for a map that is proposed to the user.
    fn add_named(
        &self,
        graph: &mut Graph,
        probe: &mut Probe,
        name: &str,
    ) -> Result<Result<Added, Refusal>, EngineError> {
        let named = match gradcam::named(graph, probe, self.shifts, name)? {
            Ok(named) => named,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = self.upright(graph, probe, &named)? {
            return Ok(Err(refusal));
        }
        let last_map = gradcam::find(graph, probe, self.scores.differentiated())?;
        let last_map = last_map.as_ref().unwrap_or(&named);
        let wanted = self.wanted(graph);
        gradcam::add(graph, probe, self.scores, (last_map, Some(&named)), self.shifts, wanted)
    }

    /// Up to `most` of the names whose maps can be shown.
    fn possible(
        &self,
        graph: &Graph,
        probe: &mut Probe,
        names: &[String],
    ) -> Result<Vec<String>, EngineError> {
        let mut possible = Vec::new();
        for name in names.iter().take(TRIED) {
            if possible.len() == LISTED {
                break;
            }
            if self.add_named(&mut graph.clone(), probe, name)?.is_ok() {
                possible.push(name.clone());
            }
        }
        Ok(possible)
    }
}

/// Most names that an error lists.
const LISTED: usize = 8;
/// Most names that are tried for that.
const TRIED: usize = 24;

/// Adds the Grad-CAM output for the requested target, or for the first possible one. The inner error names
/// the operator that prevents it.
///
/// # Errors
/// [`PrepareError::Layer`] if the layer that the user named cannot be shown.
pub(super) fn solve(
    graph: &mut Graph,
    probe: &mut Probe,
    given: &Given<'_>,
) -> Result<Result<Added, String>, PrepareError> {
    if given.options.target == CamTarget::None {
        return Ok(Err("the model was prepared without".to_owned()));
    }
    if let Some(name) = &given.options.layer {
        let why = match given.add_named(graph, probe, name)? {
            Ok(added) => return Ok(Ok(added)),
            Err(refusal) => refusal,
        };
        let mut text = why.to_string();
        if let Some(names) = why.proposes() {
            let possible = given.possible(graph, probe, names)?;
            text += &match &possible[..] {
                [] => "; no layer of this model can be shown".to_owned(),
                names => format!(": {}", names.join(", ")),
            };
        }
        return Err(PrepareError::Layer(text));
    }
    let last_maps = match gradcam::find_all(graph, probe, given.scores.differentiated())? {
        Ok(last_maps) => last_maps,
        Err(refusal) => return Ok(Err(of_parts(graph, probe, given, refusal)?)),
    };
    let mut first = None;
    // An earlier map has a heatmap where the last one lies elsewhere, or the derivative by it is not known.
    for last_map in &last_maps {
        let wanted = match given.placed(graph, probe, last_map)? {
            Ok((wanted, elsewhere)) => {
                first = first.or(elsewhere);
                wanted
            }
            Err(refusal) => {
                first.get_or_insert(refusal);
                continue;
            }
        };
        let shown = (last_map, None);
        match gradcam::add(graph, probe, given.scores, shown, given.shifts, wanted)? {
            Ok(added) => return Ok(Ok(added)),
            Err(refusal) if refusal.is_of_parts() => {
                first.get_or_insert(refusal);
                break;
            }
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    match first {
        Some(refusal) => Ok(Err(of_parts(graph, probe, given, refusal)?)),
        None => Ok(Err("there is no map".to_owned())),
    }
}

/// The text of a refusal. If parts of the model end in maps of their own, it names those that can be shown.
fn of_parts(
    graph: &Graph,
    probe: &mut Probe,
    given: &Given<'_>,
    refusal: Refusal,
) -> Result<String, EngineError> {
    if !refusal.is_of_parts() {
        return Ok(refusal.to_string());
    }
    let maps = gradcam::last_maps(graph, probe)?;
    if maps.is_empty() {
        return Ok(refusal.to_string());
    }
    let parts = "no layer comes after all convolutions, because the model is an ensemble or joins maps of \
                 several sizes";
    Ok(match &given.possible(graph, probe, &maps)?[..] {
        [] => format!("{refusal}; no other layer lies over the photo and can be shown either"),
        maps => {
            format!("{parts}; --cam-layer NAME shows the map of one part: {}", maps.join(", "))
        }
    })
}
