//! Answers several photos of one request, one after another in the same instance. Each has its own prediction
//! or its own problem.
//!
//! The memory stays that of one photo: the files together are one body, each is freed when its turn comes,
//! and what the answers take is taken from what a decoder may hold. The result for one is `question`'s.

use http::Response;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use skincell_vision::card::Card;
use skincell_vision::photo::Limits;

use crate::answer::{self, Model, Outcome, PredictResponse};
use crate::clock::{Clock, Timing};
use crate::familiarity;
use crate::fields::Sent;
use crate::inference::Inference;
use crate::negotiate::Form;
use crate::plain_page;
use crate::problem::{Problem, ProblemBody};
use crate::question::Question;

/// Most bytes of the entries of one answer with heatmaps; later photos are answered without one. Decoders
/// keep 28 MiB, enough for a JPEG or PNG of any size.
const MAX_ENTRIES: u64 = 12 << 20;

/// The answer to several photos.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "Predictions"))]
pub(crate) struct SeveralResponse<'a> {
    model: Model<'a>,
    /// One entry for each photo, in the order of the request.
    #[cfg_attr(test, schemars(with = "Vec<Entry<'a>>"))]
    photos: Vec<Box<RawValue>>,
    /// Number of entries with a prediction.
    answered: usize,
    /// Number of entries with a problem.
    refused: usize,
    timing_ms: Total,
}

/// One of several photos. It has either a prediction or a problem.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "PhotoEntry"))]
struct Entry<'a> {
    /// The photo's place in the request, from 0.
    index: usize,
    /// The name of its file, if the form has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    /// The answer to the photo, as if it had been sent alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<PredictResponse<'a>>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody<'a>>,
}

/// Milliseconds for all photos.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "TotalTiming"))]
struct Total {
    /// From the request's head to the answer, including the upload.
    total: f64,
}

/// Answers `photos` as JSON or as a page.
///
/// # Errors
/// [`Problem::NoHeatmap`] for the form of one picture; the first problem that is not of one photo, see
/// [`Problem::is_of_one_photo`].
pub(crate) fn answer(
    question: &Question<'_>,
    photos: Vec<Sent>,
    inference: &impl Inference,
    clock: &Clock,
    form: Form,
) -> Result<Response<Vec<u8>>, Problem> {
    let (settings, card) = (question.settings, question.card);
    let mut headers = Vec::new();
    let mut note = |outcome: &Outcomes| {
        headers.extend(match outcome {
            Ok((outcome, _)) => outcome.certainty.header(card),
            Err(Problem::Unfamiliar { header, .. }) => header.clone(),
            Err(_) => None,
        });
    };
    let mut response = match form {
        Form::Png => {
            let why = format!("the request has {} photos", photos.len());
            Err(Problem::NoHeatmap { why })
        }
        Form::Html => {
            let write = |_: usize, file: Option<&str>, outcome: Outcomes| {
                note(&outcome);
                let outcome = outcome.map(|(outcome, _)| outcome);
                Ok(plain_page::section(card, file, &outcome))
            };
            let sections = each(question, photos, inference, write)?;
            Ok(plain_page::answer(settings, card, &sections))
        }
        Form::Json => {
            let mut answered = 0;
            let write = |index: usize, file: Option<&str>, outcome: Outcomes| {
                note(&outcome);
                answered += usize::from(outcome.is_ok());
                entry(card, index, file, &outcome)
            };
            let entries = each(question, photos, inference, write)?;
            let refused = entries.len() - answered;
            let photos = entries.into_iter().map(RawValue::from_string);
            let photos = photos.collect::<Result<Vec<_>, _>>().map_err(not_json)?;
            let (model, timing_ms) = (Model::of(card), Total { total: clock.total() });
            answer::json(&SeveralResponse { model, photos, answered, refused, timing_ms })
        }
    }?;
    if let Some(value) = familiarity::several(&headers) {
        response.headers_mut().insert(familiarity::HEADER, value);
    }
    Ok(response)
}

/// The result for a photo, or its problem.
type Outcomes = Result<(Outcome, Timing), Problem>;

/// What `write` makes of the place, the file name and the result of each photo.
fn each(
    question: &Question<'_>,
    photos: Vec<Sent>,
    inference: &impl Inference,
    mut write: impl FnMut(usize, Option<&str>, Outcomes) -> Result<String, Problem>,
) -> Result<Vec<String>, Problem> {
    let mut entries = Vec::with_capacity(photos.len());
    let mut held = 0_u64;
    for (index, Sent { file, content }) in photos.into_iter().enumerate() {
        let all = Limits::default();
        let limits = Limits { max_alloc: all.max_alloc.saturating_sub(held), ..all };
        let question =
            if held < MAX_ENTRIES { question } else { &question.without_heatmap(full()) };
        let outcome = content
            .bytes()
            .and_then(|bytes| question.answer(bytes, &limits, inference, &mut Clock::start()));
        let outcome = match outcome {
            Err(problem) if !problem.is_of_one_photo() => return Err(problem),
            outcome => outcome,
        };
        let entry = write(index, file.as_deref(), outcome)?;
        held = held.saturating_add(entry.len() as u64);
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(
    card: &Card,
    index: usize,
    file: Option<&str>,
    outcome: &Outcomes,
) -> Result<String, Problem> {
    let prediction = outcome.as_ref().ok();
    let prediction =
        prediction.map(|(outcome, timing)| PredictResponse::of(card, outcome, *timing));
    let problem = outcome.as_ref().err().map(|problem| problem.body(None));
    serde_json::to_string(&Entry { index, file, prediction, problem }).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Problem {
    Problem::Internal { step: "the answer", why: error.to_string() }
}

fn full() -> String {
    let limit = MAX_ENTRIES >> 20;
    format!("the answers before it have {limit} MiB: send this photo in another request")
}
