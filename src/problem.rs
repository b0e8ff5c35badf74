//! Every way a request can fail, and the table of their `type`, status and title.
//!
//! Answers are RFC 9457 `application/problem+json`. A `type` is `urn:skincell:problem:<name>`: an absolute
//! URI, as the RFC recommends, that is the same under every host and route prefix and does not suggest that
//! it can be fetched. Each message ends with what to do next. `answer` turns a problem into an HTTP
//! response.

use http::HeaderValue;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::photo::PhotoError;
use skincell_vision::rank::RankError;
use thiserror::Error;

use crate::inference::InferenceError;
use crate::settings::SettingsError;

/// The prefix of every `type`.
const TYPE_PREFIX: &str = "urn:skincell:problem:";

/// Why a request failed.
#[derive(Debug, Error)]
pub enum Problem {
    /// The path is unknown.
    #[error("there is nothing at {path:?}: post a photo to /predict, or get /, /health or /models")]
    UnknownPath {
        /// The requested path, shortened by [`excerpt`].
        path: String,
    },
    /// The path does not support the method.
    #[error("{method:?} is not served here: use {allow}")]
    MethodNotAllowed {
        /// The requested method, shortened by [`excerpt`].
        method: String,
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// `Accept` excludes all forms of an answer.
    #[error(
        "Accept is {accept:?}: ask for application/json (classes and heatmap), image/png (the overlay) or \
         text/html (a page)"
    )]
    NotAcceptable {
        /// The header, shortened by [`excerpt`].
        accept: String,
    },
    /// The body is empty.
    #[error(
        "the request has no body: post a photo as multipart field `image`, as raw image bytes, \
         or as JSON {{\"image\": \"<base64>\"}}"
    )]
    NoBody,
    /// The `Content-Type` is none of the three forms.
    #[error(
        "Content-Type is {found}, and the body is not a photo: send multipart/form-data with a \
         field `image`, the photo itself, or application/json"
    )]
    UnsupportedContentType {
        /// The declared type, quoted, or "missing".
        found: String,
    },
    /// The `Content-Encoding` is not supported.
    #[error(
        "Content-Encoding {found:?} is not decoded: send the body plain, or as gzip or deflate"
    )]
    UnsupportedEncoding {
        /// The coding, shortened by [`excerpt`].
        found: String,
    },
    /// The body does not match its `Content-Encoding`.
    #[error(
        "the body cannot be decoded as its Content-Encoding says ({why}): send it again, or \
         plain and without that header"
    )]
    BadEncoding {
        /// The reason.
        why: &'static str,
    },
    /// The body is larger than `SKINCELL_MAX_BODY`, before or after decoding.
    #[error("the body {}: send at most {limit} bytes, a smaller photo will do", over(*.actual, *.limit))]
    BodyTooLarge {
        /// The cap in bytes.
        limit: u64,
        /// The declared `Content-Length`, if there is one.
        actual: Option<u64>,
    },
    /// The body ended early.
    #[error("the body broke off after {received} bytes: send it again")]
    BodyInterrupted {
        /// Bytes received.
        received: u64,
        /// The host's message, for the log and not for the client.
        why: String,
    },
    /// The body is not valid `multipart/form-data`.
    #[error(
        "the multipart body cannot be read ({why}): let curl -F or the browser's FormData build it"
    )]
    BadForm {
        /// The reason.
        why: &'static str,
    },
    /// The header block of a part is too long, for example with a file name of megabytes.
    #[error("a part's header is longer than {limit} bytes: shorten its file name")]
    PartHeaderTooLong {
        /// The cap in bytes.
        limit: u64,
    },
    /// The form has more parts than photos and options can need.
    #[error("the form has more than {limit} parts: send fewer photos a request")]
    TooManyParts {
        /// The cap.
        limit: u64,
    },
    /// The request has more photos than it may have.
    #[error("there are more than {limit} photos: divide them among several requests")]
    TooManyPhotos {
        /// The cap.
        limit: u64,
    },
    /// The request has photos in different fields, of which one may be a thumbnail.
    #[error(
        "there are photos in `{first}` and in `{second}`: send one of them, or both in one field to have \
         both answered"
    )]
    SeveralPhotos {
        /// The field or member of the first, shortened by [`excerpt`].
        first: String,
        /// The field or member of the second, shortened by [`excerpt`].
        second: String,
    },
    /// The photo's field is missing or empty.
    #[error("no photo in the {form}, which has {found}: put it in `image`")]
    MissingImage {
        /// "form" or "JSON object".
        form: &'static str,
        /// A description of the other fields.
        found: String,
    },
    /// The body is not a JSON object.
    #[error("the JSON body cannot be read ({why}): send {{\"image\": \"<base64 or data: URL>\"}}")]
    BadJson {
        /// The parser's message, shortened by [`excerpt`].
        why: String,
    },
    /// The photo's text is not base64.
    #[error(
        "the photo's text is not base64 ({why}): encode the file's bytes, or send them raw as image/jpeg"
    )]
    BadBase64 {
        /// The reason, with the offset if known.
        why: String,
    },
    /// The photo cannot be decoded.
    #[error(transparent)]
    Photo(#[from] PhotoError),
    /// A query parameter or JSON member is unknown.
    #[error(
        "there is no option {name:?}: the options are top_k, gradcam, class, heatmap, colormap, model and \
         fields{photo}"
    )]
    UnknownOption {
        /// The given name, shortened by [`excerpt`].
        name: String,
        /// Where a photo belongs, as the end of the sentence, if the request has none; or empty.
        photo: &'static str,
    },
    /// An option has an invalid value.
    #[error("`{name}` is {value:?}: it takes {allowed}")]
    BadOption {
        /// The option's name.
        name: &'static str,
        /// The given value, shortened by [`excerpt`].
        value: String,
        /// The valid values.
        allowed: &'static str,
    },
    /// The model does not have the field.
    #[error("model {model:?} has no field {name:?}: it {known}")]
    UnknownField {
        /// The given name, shortened by [`excerpt`].
        name: String,
        /// The model.
        model: String,
        /// The model's fields, as the end of a sentence.
        known: String,
    },
    /// A field has a wrong count of numbers.
    #[error("the field {name:?} has {found} numbers, but the model takes {wanted}")]
    BadField {
        /// Name of the field.
        name: String,
        /// Count in the request.
        found: usize,
        /// Count that the model takes.
        wanted: usize,
    },
    /// The model does not exist.
    #[error("there is no model {name:?}: {known}")]
    UnknownModel {
        /// The requested name, shortened by [`excerpt`].
        name: String,
        /// The existing models, as the end of a sentence.
        known: String,
    },
    /// The version does not exist; every model has only version 1.
    #[error("there is no version {version:?}: every model has version 1 only; use it or name none")]
    UnknownVersion {
        /// The requested version, shortened by [`excerpt`].
        version: String,
    },
    /// A request of the Open Inference Protocol is inconsistent or does not fit the model.
    #[error("the inference request {why}; see the model's metadata")]
    BadInference {
        /// The reason, as the end of a sentence.
        why: String,
    },
    /// The model does not have the class.
    #[error("model {model:?} has no class {class:?}: name one of {known}")]
    UnknownClass {
        /// The requested class, shortened by [`excerpt`].
        class: String,
        /// The model.
        model: String,
        /// Some of its classes, and the range of the index.
        known: String,
    },
    /// `Accept: image/png`, but there is no heatmap to draw.
    #[error("there is no heatmap to draw, {why}: ask for application/json instead")]
    NoHeatmap {
        /// The reason.
        why: String,
    },
    /// The photo is not of the kind that the model knows, and `SKINCELL_UNFAMILIAR` is `refuse`.
    #[error(
        "{photo} is not of the kind that model {model:?} knows ({basis}): its distance is {score:.2} times \
         the largest accepted; send a photo of that kind"
    )]
    Unfamiliar {
        /// Which of the request's photos, in words.
        photo: String,
        /// The model.
        model: String,
        /// The photos that the model knows, in words.
        basis: String,
        /// The familiarity score.
        score: f64,
        /// The value of the header that says so in every form of answer.
        header: Option<HeaderValue>,
    },
    /// `SKINCELL_PREDICT` is `off`.
    #[error(
        "this service takes no photos (SKINCELL_PREDICT is off): open its page, which looks at them on the \
         device that it is opened on"
    )]
    PredictOff,
    /// An environment variable of the component has an invalid value.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A `card.json` is invalid.
    #[error("model {name:?} cannot be served, its {why}: run `skincell model prepare` again")]
    BadCard {
        /// The model's folder.
        name: String,
        /// The reason.
        why: String,
    },
    /// Inference failed.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The model's scores are invalid, for example NaN.
    #[error(transparent)]
    Scores(#[from] RankError),
    /// A step failed that cannot fail with checked inputs.
    #[error("{step} failed ({why}): this is a fault in skincell, please report it")]
    Internal {
        /// The step.
        step: &'static str,
        /// The error message.
        why: String,
    },
}

/// A row of the table of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The last part of the `type`.
    pub name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// `title`, the same for every occurrence.
    pub title: &'static str,
}

impl Problem {
    /// The row of the table for this problem.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let (name, status, title) = match self {
            Self::UnknownPath { .. } => ("unknown-path", 404, "No such path"),
            Self::MethodNotAllowed { .. } => ("method-not-allowed", 405, "Method not allowed"),
            Self::NotAcceptable { .. } => ("not-acceptable", 406, "No acceptable form of answer"),
            Self::NoBody => ("no-body", 400, "No photo was sent"),
            Self::UnsupportedContentType { .. } => {
                ("unsupported-content-type", 415, "Content type not taken")
            }
            Self::UnsupportedEncoding { .. } => {
                ("unsupported-content-encoding", 415, "Content encoding not decoded")
            }
            Self::BadEncoding { .. } => {
                ("bad-content-encoding", 400, "Body not as its content encoding says")
            }
            Self::BodyTooLarge { .. } => ("body-too-large", 413, "Body too large"),
            Self::BodyInterrupted { .. } => ("body-interrupted", 400, "Body broke off"),
            Self::BadForm { .. } => ("bad-form", 400, "Malformed multipart form"),
            Self::PartHeaderTooLong { .. } => {
                ("part-header-too-long", 400, "Header of a form part too long")
            }
            Self::TooManyParts { .. } => ("too-many-parts", 400, "Too many form parts"),
            Self::TooManyPhotos { .. } => ("too-many-photos", 400, "Too many photos"),
            Self::SeveralPhotos { .. } => ("several-photos", 400, "Photos in different fields"),
            Self::MissingImage { .. } => ("missing-image", 400, "No photo in the body"),
            Self::BadJson { .. } => ("bad-json", 400, "Malformed JSON"),
            Self::BadBase64 { .. } => ("bad-base64", 400, "Malformed base64"),
            Self::Photo(error) => return photo_kind(error),
            Self::UnknownOption { .. } => ("unknown-option", 400, "No such option"),
            Self::BadOption { .. } => ("bad-option", 400, "Option value not taken"),
            Self::UnknownField { .. } => ("unknown-field", 400, "No such field"),
            Self::BadField { .. } => ("bad-field", 400, "Field value not taken"),
            Self::UnknownModel { .. } => ("unknown-model", 404, "No such model"),
            Self::UnknownVersion { .. } => ("unknown-version", 404, "No such version"),
            Self::BadInference { .. } => ("bad-inference", 400, "Inference request not taken"),
            Self::UnknownClass { .. } => ("unknown-class", 400, "No such class"),
            Self::Unfamiliar { .. } => ("unfamiliar-photo", 422, "The photo is of an unknown kind"),
            Self::NoHeatmap { .. } => ("no-heatmap", 409, "No heatmap for this request"),
            Self::PredictOff => ("predict-off", 403, "This service takes no photos"),
            Self::Settings(_) => ("bad-settings", 500, "The service is misconfigured"),
            Self::BadCard { .. } => ("bad-card", 500, "The model's card cannot be used"),
            Self::Inference(error) => return inference_kind(error),
            Self::Scores(_) => ("inference-failed", 500, "The model failed"),
            Self::Internal { .. } => ("internal", 500, "Internal error"),
        };
        Kind { name, status, title }
    }

    /// The extension members `limit` and `actual`, if a limit was exceeded.
    #[must_use]
    pub fn numbers(&self) -> (Option<u64>, Option<u64>) {
        match self {
            Self::BodyTooLarge { limit, actual } => (Some(*limit), *actual),
            Self::PartHeaderTooLong { limit }
            | Self::TooManyParts { limit }
            | Self::TooManyPhotos { limit } => (Some(*limit), None),
            Self::Photo(error) => photo_numbers(error),
            _ => (None, None),
        }
    }

    /// The problem with a row of a batch, the first of which is 0.
    pub(crate) fn of_row(mut self, row: usize) -> Self {
        if let Self::Unfamiliar { photo, .. } = &mut self {
            *photo = format!("the photo in row {row} of the batch");
        }
        self
    }

    /// Whether it concerns one photo, so that others in the same request can still be answered. If the host
    /// cannot run the model, no photo can be answered.
    #[must_use]
    pub fn is_of_one_photo(&self) -> bool {
        match self {
            Self::BadBase64 { .. } | Self::Photo(_) | Self::Unfamiliar { .. } | Self::Scores(_) => {
                true
            }
            Self::Inference(error) => matches!(error, InferenceError::Failed { .. }),
            _ => false,
        }
    }

    /// The body of the response; `request_id` comes from the client or the host.
    #[must_use]
    pub fn to_json(&self, request_id: Option<&str>) -> Vec<u8> {
        // Strings and numbers always have a JSON form, so the fallback is never used.
        serde_json::to_vec(&self.body(request_id)).unwrap_or_default()
    }

    /// The members of the response.
    pub(crate) fn body<'a>(&self, request_id: Option<&'a str>) -> ProblemBody<'a> {
        let kind = self.kind();
        let (limit, actual) = self.numbers();
        ProblemBody {
            r#type: format!("{TYPE_PREFIX}{}", kind.name),
            title: kind.title,
            status: kind.status,
            detail: self.to_string(),
            limit,
            actual,
            request_id,
        }
    }
}

/// The members of RFC 9457, section 3.1, and extensions.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "Problem"))]
pub(crate) struct ProblemBody<'a> {
    /// `urn:skincell:problem:<name>`, stable.
    r#type: String,
    title: &'static str,
    status: u16,
    /// The problem with this request, and what to do next.
    detail: String,
    /// The exceeded limit, if there is one, in bytes, pixels or parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// The rows for failed inference.
fn inference_kind(error: &InferenceError) -> Kind {
    let (name, status, title) = match error {
        InferenceError::NotGranted { .. } => {
            ("model-not-granted", 404, "The host grants no such model")
        }
        InferenceError::Unavailable { .. } => {
            ("model-unavailable", 503, "The model cannot be loaded")
        }
        InferenceError::Timeout { .. } => ("inference-timeout", 504, "The model took too long"),
        InferenceError::Failed { .. } => ("inference-failed", 500, "The model failed"),
        InferenceError::Mismatch { .. } => {
            ("model-mismatch", 500, "The model does not fit its card")
        }
    };
    Kind { name, status, title }
}

/// The rows for photos that cannot be decoded: 415 if the format is not supported, 422 if the file is
/// invalid, 413 if decoding does not fit into an instance's memory.
fn photo_kind(error: &PhotoError) -> Kind {
    let (name, status, title) = match error {
        PhotoError::Empty => ("missing-image", 400, "No photo in the body"),
        PhotoError::UnknownFormat => ("not-an-image", 415, "Not a photo in a known format"),
        PhotoError::Heic => ("heic", 415, "HEIC is not decoded"),
        PhotoError::Avif => ("avif", 415, "AVIF is not decoded"),
        PhotoError::Unsupported { .. } => {
            ("unsupported-image-feature", 415, "Image feature not decoded")
        }
        PhotoError::ZeroSize { .. } => ("empty-image", 422, "Image without pixels"),
        PhotoError::TooLarge { .. } => ("too-many-pixels", 422, "Image has too many pixels"),
        PhotoError::NeedsTooMuchMemory { .. } => {
            ("image-needs-too-much-memory", 413, "Image needs too much memory")
        }
        PhotoError::TooMuchMetadata { .. } => {
            ("too-much-metadata", 422, "Image carries too much metadata")
        }
        PhotoError::Truncated { .. } => ("truncated-image", 422, "Image is cut short"),
        PhotoError::Corrupt { .. } => ("broken-image", 422, "Image is broken"),
    };
    Kind { name, status, title }
}

fn photo_numbers(error: &PhotoError) -> (Option<u64>, Option<u64>) {
    match error {
        PhotoError::TooLarge { width, height, max_pixels, .. } => {
            (Some(*max_pixels), u64::from(*width).checked_mul(u64::from(*height)))
        }
        PhotoError::NeedsTooMuchMemory { needed, limit } => (Some(*limit), Some(*needed)),
        PhotoError::TooMuchMetadata { limit, .. } => (Some(*limit), None),
        _ => (None, None),
    }
}

/// At most 80 characters of a client's text, so that an answer never echoes megabytes.
#[must_use]
pub fn excerpt(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn over(actual: Option<u64>, limit: u64) -> String {
    match actual {
        Some(actual) => format!("is {actual} bytes"),
        None => format!("goes on after {limit} bytes"),
    }
}
