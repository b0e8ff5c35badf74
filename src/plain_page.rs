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
use crate::explain::Explanation;
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
    let (title, detail) = match problem {
        // The words of a person at the form, where nothing has a field's name.
        Problem::MissingImage { .. } => ("No photo was chosen", "Choose one below.".to_owned()),
        problem => (problem.kind().title, problem.to_string()),
    };
    format!("<p class=\"problem\"><strong>{}.</strong> {}</p>\n", escaped(title), escaped(&detail))
}

fn found(card: &Card, outcome: &Outcome) -> String {
    let name = |index: usize| {
        let class = card.classes.get(index);
        class.map_or("", |class| class.display.as_deref().unwrap_or(&class.label))
    };
    let mut text = String::new();
    let familiarity = outcome.certainty.familiarity.as_ref();
    let is_unfamiliar = familiarity.is_some_and(|familiar| !familiar.is_familiar);
    if is_unfamiliar {
        text += "<p class=\"problem\">The photo is not of the kind that the model knows: its classes mean \
                 little.</p>\n";
    } else if outcome.certainty.is_certain == Some(false) {
        text += "<p class=\"problem\">The model is not certain of any class.</p>\n";
    }
    text += "<table>\n<thead><tr><th scope=\"col\">Class</th><th scope=\"col\">Probability</th></tr></thead>\n\
             <tbody>\n";
    let is_judged = outcome.certainty.is_certain.is_some();
    for ranked in &outcome.ranking {
        let (class, share) = (escaped(name(ranked.index)), share(ranked.probability, is_judged));
        // Writing to a string cannot fail.
        let _ = write!(text, "<tr><th scope=\"row\">{class}</th><td>{share}</td>");
        if !is_unfamiliar {
            // The bar repeats the number.
            let bar = per_cent(ranked.probability);
            let _ = write!(
                text,
                "<td aria-hidden=\"true\"><meter max=\"100\" value=\"{bar:.1}\"></meter></td>"
            );
        }
        text += "</tr>\n";
    }
    text += "</tbody>\n</table>\n";
    match &outcome.heatmap {
        Explanation::Shown { png, class, .. } => {
            let class = escaped(name(*class));
            let _ = writeln!(
                text,
                "<figure><img alt=\"The photo under its heatmap for {class}\" \
                 src=\"data:image/png;base64,{}\">\n<figcaption>Where in the photo the model finds \
                 {class}.</figcaption></figure>",
                STANDARD.encode(png)
            );
        }
        Explanation::Maps(_) => {
            text += "<p class=\"quiet\">A heatmap of numbers is not drawn here.</p>\n"
        }
        Explanation::Missing(why) => {
            let _ = writeln!(text, "<p class=\"quiet\">No heatmap, {}.</p>", escaped(why));
        }
    }
    text
}

/// A class's percentage. If the model knows how sure it is, it is in whole per cent, and neither 0 nor 100:
/// more would claim a precision that no model has. The same rule as in `page/answer.js`.
fn share(probability: f32, is_judged: bool) -> String {
    let share = per_cent(probability);
    match share {
        _ if !is_judged => format!("{share:.1} %"),
        ..1.0 => "&lt; 1 %".to_owned(),
        _ if share > 99.0 => "&gt; 99 %".to_owned(),
        _ => format!("{share:.0} %"),
    }
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

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_judged_class_is_never_said_to_be_at_0_or_100_per_cent() {
        let judged = [0.0, 0.004, 0.62, 0.995, 1.0].map(|probability| share(probability, true));
        assert_eq!(judged, ["&lt; 1 %", "&lt; 1 %", "62 %", "&gt; 99 %", "&gt; 99 %"]);
        assert_eq!([share(1.0, false), share(0.0004, false)], ["100.0 %", "0.0 %"]);
    }
}
