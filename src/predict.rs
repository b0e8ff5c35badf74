//! The main path, `/predict`: read, then decode, infer, rank and explain (`question`), then answer.

use http::Response;
use http::request::Parts;
use skincell_vision::photo::Limits;

use crate::answer;
use crate::body::Source;
use crate::clock::Clock;
use crate::inference::Inference;
use crate::models;
use crate::negotiate::{self, Form};
use crate::plain_page;
use crate::problem::Problem;
use crate::question::Question;
use crate::settings::Settings;
use crate::several;
use crate::upload::{self, Photos, Upload};

/// Answers a request to `/predict`, of one photo or of several, in the form that the client prefers.
pub(crate) fn predict<S: Source>(
    head: &Parts,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
) -> Result<Response<Vec<u8>>, Problem> {
    let form = negotiate::answer_form(&head.headers)?;
    let answer = answer(head, source, settings, inference, form);
    match (form, answer) {
        (Form::Html, Err(problem)) => Ok(plain_page::refusal(settings, &problem)),
        (_, answer) => answer,
    }
}

fn answer<S: Source>(
    head: &Parts,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
    form: Form,
) -> Result<Response<Vec<u8>>, Problem> {
    let mut clock = Clock::start();
    accepts_photos(settings)?;
    let Upload { photos, options } = upload::read(head, source, settings.max_body)?;
    let card = models::find(settings, options.model.as_deref())?;
    let question = Question::of(settings, &options, &card)?;
    clock.lap();
    let photo = match photos {
        Photos::One(photo) => photo,
        Photos::Several(photos) => {
            return several::answer(&question, photos, inference, &clock, form);
        }
    };
    let (outcome, timing) = question.answer(photo, &Limits::default(), inference, &mut clock)?;
    match form {
        Form::Json => answer::prediction(&card, &outcome, timing),
        Form::Png => {
            let certainty = outcome.certainty.header(&card);
            Ok(answer::annotated(answer::overlay(outcome.heatmap)?, timing, certainty))
        }
        Form::Html => {
            let certainty = outcome.certainty.header(&card);
            let section = plain_page::section(&card, None, &Ok(outcome));
            let page = plain_page::answer(settings, &card, &[section]);
            Ok(answer::annotated(page, timing, certainty))
        }
    }
}

/// Checks that the service takes photos and tensors at all.
pub(crate) fn accepts_photos(settings: &Settings) -> Result<(), Problem> {
    if settings.predict { Ok(()) } else { Err(Problem::PredictOff) }
}
