//! What a request asks about each of its photos, and the result for one: decode, infer, rank, explain.

use skincell_vision::card::Card;
use skincell_vision::photo::Limits;
use skincell_vision::tensor::PhotoTensor;
use skincell_vision::view::{self, View};
use skincell_vision::{rank, tensor};

use crate::answer::Outcome;
use crate::clock::{Clock, Timing};
use crate::explain::{self, HeatmapRequest};
use crate::familiarity;
use crate::inference::{self, Inference};
use crate::model_fields;
use crate::options::{DEFAULT_TOP_K, Options};
use crate::problem::Problem;
use crate::settings::Settings;

/// What a request asks about each of its photos, checked against the model.
#[derive(Clone)]
pub(crate) struct Question<'c> {
    pub(crate) settings: &'c Settings,
    pub(crate) card: &'c Card,
    heatmap: HeatmapRequest,
    fields: Vec<(&'c str, PhotoTensor)>,
    top_k: usize,
}

impl<'c> Question<'c> {
    pub(crate) fn of(
        settings: &'c Settings,
        options: &Options,
        card: &'c Card,
    ) -> Result<Self, Problem> {
        let heatmap = HeatmapRequest::of(settings, options, card)?;
        let fields = model_fields::tensors(card, &options.fields, heatmap.class())?;
        let top_k = options.top_k.unwrap_or(DEFAULT_TOP_K);
        Ok(Self { settings, card, heatmap, fields, top_k })
    }

    /// The same without a heatmap, for this reason (the end of "no heatmap, …").
    pub(crate) fn without_heatmap(&self, why: String) -> Self {
        Self { heatmap: HeatmapRequest::Skip(why), ..self.clone() }
    }

    /// The result for one photo. `clock` was last stopped when the upload was complete.
    pub(crate) fn answer(
        &self,
        photo: Vec<u8>,
        limits: &Limits,
        inference: &impl Inference,
        clock: &mut Clock,
    ) -> Result<(Outcome, Timing), Problem> {
        let card = self.card;
        let seen = self.decode(photo, limits)?;
        let tensor =
            tensor::from_photo(&seen.photo, &card.input).map_err(internal("the tensor"))?;
        let decode = clock.lap();

        let fields = self.fields.clone();
        let scores = inference::run(inference, card, tensor, fields, self.heatmap.is_wanted())?;
        let inference = clock.lap();

        let familiarity = familiarity::read(&scores, card, self.settings.unfamiliar)?;
        let plain = rank::probabilities(&scores.scores, &card.output)?;
        let probabilities = rank::answered(&plain, card);
        let ranking = rank::rank(&probabilities, self.top_k);
        let heatmap = explain::explain(&self.heatmap, card, &seen, &scores, &plain, &ranking)?;
        let certainty = familiarity::certainty(familiarity, &probabilities, card);
        let timing = Timing { decode, inference, heatmap: clock.lap(), total: clock.total() };
        Ok((Outcome { ranking, heatmap, region: seen.region, certainty }, timing))
    }

    /// The photo as the model sees it. Takes the file's bytes by value, to free them before inference.
    fn decode(&self, bytes: Vec<u8>, limits: &Limits) -> Result<View, Problem> {
        let input = &self.card.input;
        let photo = view::decode_as(&bytes, input, limits, self.settings.colors)?;
        drop(bytes);
        view::view(&photo, input).map_err(internal("resizing"))
    }
}

fn internal<E: std::error::Error>(step: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::Internal { step, why: error.to_string() }
}
