//! One model held in memory, and the component's answer to a photo by it.

use http::Request;
use skincell::body::{CHUNK, Source};
use skincell::inference::{Element, Inference, InferenceError, OutputTensor};
use skincell::settings::{Cards, Settings};
use skincell_engines::source::{self, StaticFiles};
use skincell_engines::{Cellnet, Dtype, Engine, Model, NamedTensor, Tensor};
use skincell_vision::card::{self, Card};
use skincell_vision::tensor::PhotoTensor;

/// A model ready to answer photos.
pub struct LocalModel {
    settings: Settings,
    model: Loaded,
}

/// What a [`LocalModel`] is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The model's card, JSON.
    pub card: &'a [u8],
    /// The service's settings, lines of `NAME=value`; of a repeated name the first counts.
    pub settings: &'a str,
    /// The bytes of `model.cell`, at an address that is a multiple of 4; `exports` takes one of 64, as in the
    /// file.
    pub cell: &'static [u8],
}

/// The model, with its name.
struct Loaded {
    name: String,
    model: Box<dyn Model>,
}

impl LocalModel {
    /// Loads a model.
    ///
    /// # Errors
    /// The reason, as a sentence, if the card, a setting or the model is refused.
    pub fn load(parts: Parts<'_>) -> Result<Self, String> {
        let name = Card::parse(parts.card).map_err(|error| error.to_string())?.name;
        let set = |asked: &str| {
            let lines = parts.settings.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(name, _)| *name == asked).map(|(_, value)| value.to_owned()).next()
        };
        let settings = Settings::read(set).map_err(|error| error.to_string())?;
        let cards = Cards::Held(name.clone(), parts.card.to_vec());
        let settings = Settings { cards, default_model: Some(name.clone()), ..settings };
        let files = StaticFiles { name: &name, cell: Some(parts.cell), graph: None, weights: None };
        let threads = if cfg!(feature = "two-threads") { 2 } else { 1 };
        let model = Cellnet::new(threads).load(source::Source::Static(files));
        let model = model.map_err(|error| error.to_string())?;
        Ok(Self { settings, model: Loaded { name, model } })
    }

    /// The status and body of the component's answer to `POST /predict?<query>` with this photo as its body.
    /// The query is percent-encoded; the body is JSON, or text if the query cannot be part of a target.
    #[must_use]
    pub fn predict(&self, query: &str, photo: Vec<u8>) -> (u16, Vec<u8>) {
        let request = Request::post(format!("/predict?{query}"))
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(Given(photo.into_iter()));
        let request = match request {
            Ok(request) => request,
            Err(error) => return (400, error.to_string().into_bytes()),
        };
        let response = skincell::respond_to_photo(request, &self.settings, &self.model);
        (response.status().as_u16(), response.into_body())
    }
}

/// A body that is in memory.
struct Given(std::vec::IntoIter<u8>);

impl Source for Given {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let length = self.0.len().min(CHUNK);
        let chunk = self.0.as_slice().get(..length).unwrap_or_default().to_vec();
        if let Some(last) = length.checked_sub(1) {
            self.0.nth(last);
        }
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

impl Inference for Loaded {
    fn load(&self, model: &str) -> Result<(), InferenceError> {
        if model == self.name {
            return Ok(());
        }
        let why = format!("only {:?} is loaded on this device", self.name);
        Err(InferenceError::NotGranted { model: model.to_owned(), why })
    }

    fn infer(
        &self,
        model: &str,
        inputs: Vec<(&str, PhotoTensor)>,
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, InferenceError> {
        self.load(model)?;
        let named = |(name, tensor): (&str, PhotoTensor)| {
            let dtype = match tensor.dtype {
                card::Dtype::F32 => Dtype::F32,
                card::Dtype::U8 => Dtype::U8,
            };
            let PhotoTensor { dimensions, data, .. } = tensor;
            (name.to_owned(), Tensor { dimensions, dtype, data })
        };
        let inputs: Vec<NamedTensor> = inputs.into_iter().map(named).collect();
        let outputs = self.model.run(&inputs).map_err(|error| InferenceError::Failed {
            model: model.to_owned(),
            why: error.to_string(),
        })?;
        let wanted = outputs.into_iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        Ok(wanted.map(|(name, tensor)| output(name, tensor)).collect())
    }
}

fn output(name: String, tensor: Tensor) -> OutputTensor {
    let element = match tensor.dtype {
        Dtype::F32 => Element::F32,
        other => Element::Other(other.to_string()),
    };
    OutputTensor { name, dimensions: tensor.dimensions, element, data: tensor.data }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_body_in_memory_comes_in_chunks() {
        let bytes: Vec<u8> = (0..CHUNK * 2 + 5).map(|at| (at % 251) as u8).collect();
        let mut given = Given(bytes.clone().into_iter());
        let mut chunks = Vec::new();
        while let Some(chunk) = given.next_chunk().unwrap() {
            assert!(chunk.len() <= CHUNK);
            chunks.push(chunk);
        }
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks.concat(), bytes);
        assert_eq!(given.next_chunk(), Ok(None));
    }

    #[test]
    fn what_is_damaged_is_refused_with_the_reason() {
        let card = include_bytes!("../../models/skin/card.json");
        let load = |card: &[u8], settings, cell| {
            LocalModel::load(Parts { card, settings, cell }).err().unwrap_or_default()
        };
        let cases = [
            (load(b"{", "", b""), "card.json"),
            (load(card, "SKINCELL_COLOR=none", b""), "SKINCELL_COLOR"),
            (load(card, "", b"no model"), "skin"),
        ];
        for (said, expect) in cases {
            assert!(said.contains(expect), "{said:?} does not name {expect}");
        }
    }
}
