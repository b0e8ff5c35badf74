//! The answer of `/predict` as a page, for browsers without scripts: the form of `/` posts a photo, and gets
//! the classes, the heatmap and the notices back.
//!
//! Whatever comes from a client or a card is escaped.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Response, StatusCode};
use skincell_vision::card::Card;

use crate::answer::{Outcome, per_cent};
use crate::explain::Heatmap;
use crate::html::{self, escaped};
use crate::page;
use crate::problem::Problem;
use crate::settings::Settings;

/// The page with these sections, made by [`section`], about photos that `card`'s model looked at.
pub(crate) fn answer(settings: &Settings, card: &Card, sections: &[String]) -> Response<Vec<u8>> {
    let title = if card.title.is_empty() { &card.name } else { &card.title };
    let about = format!(
        "<p class=\"quiet\" lang=\"en\">Model: {}. {}</p>\n",
        escaped(title),
        escaped(&card.notice)
    );
    whole(settings, StatusCode::OK, &[&about, sections.concat().as_str()].concat())
}

/// The page about a request that was refused.
pub(crate) fn refusal(settings: &Settings, problem: &Problem) -> Response<Vec<u8>> {
    let status =
        StatusCode::from_u16(problem.kind().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(settings, status, &said(problem))
}

/// What one photo's answer says: the classes and the heatmap, or the problem.
pub(crate) fn section(
    card: &Card,
    file: Option<&str>,
    outcome: &Result<Outcome, Problem>,
) -> String {
    let title = file.map_or(Cow::Borrowed("What the model finds likeliest"), escaped);
    let content = match outcome {
        Ok(outcome) => found(card, outcome),
        Err(problem) => said(problem),
    };
    format!("<section class=\"panel\">\n<h2>{title}</h2>\n{content}</section>\n")
}

fn said(problem: &Problem) -> String {
    let (title, detail) = (problem.kind().title, problem.to_string());
    format!("<p class=\"problem\"><strong>{}.</strong> {}</p>\n", escaped(title), escaped(&detail))
}

fn found(card: &Card, outcome: &Outcome) -> String {
    let name = |index: usize| {
        let class = card.classes.get(index);
        class.map_or("", |class| class.display.as_deref().unwrap_or(&class.label))
    };
    let mut text = String::new();
    if outcome.certainty.familiarity.as_ref().is_some_and(|familiar| !familiar.is_familiar) {
        text += "<p class=\"problem\">The photo is not of the kind that the model knows: its classes mean \
                 little.</p>\n";
    } else if outcome.certainty.is_certain == Some(false) {
        text += "<p class=\"problem\">The model is not certain of any class.</p>\n";
    }
    text += "<table>\n<thead><tr><th scope=\"col\">Class</th><th scope=\"col\">Probability</th></tr></thead>\n\
             <tbody>\n";
    for ranked in &outcome.ranking {
        let (class, share) = (escaped(name(ranked.index)), per_cent(ranked.probability));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "<tr><th scope=\"row\">{class}</th><td>{share:.1} %</td></tr>");
    }
    text += "</tbody>\n</table>\n";
    match &outcome.heatmap {
        Heatmap::Shown { png, class, .. } => {
            let class = escaped(name(*class));
            let _ = writeln!(
                text,
                "<figure><img alt=\"The photo under its heatmap for {class}\" \
                 src=\"data:image/png;base64,{}\">\n<figcaption>Where in the photo the model finds \
                 {class}.</figcaption></figure>",
                STANDARD.encode(png)
            );
        }
        Heatmap::Maps(_) => {
            text += "<p class=\"quiet\">A heatmap of numbers is not drawn here.</p>\n"
        }
        Heatmap::Missing(why) => {
            let _ = writeln!(text, "<p class=\"quiet\">No heatmap, {}.</p>", escaped(why));
        }
    }
    text
}

/// A whole page, with the form for the next photo at its end.
fn whole(settings: &Settings, status: StatusCode, content: &str) -> Response<Vec<u8>> {
    html::page(
        settings,
        status,
        "A closer look at a photo of skin",
        &[content, page::FORM].concat(),
    )
}
