//! Chooses the form of the answer by `Accept` (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

use crate::problem::{Problem, excerpt};

/// The forms of an answer to a photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `application/json`: classes, and the overlay as base64.
    Json,
    /// `image/png`: the overlay itself.
    Png,
    /// `text/html`: a page, for browsers without scripts.
    Html,
}

/// The client's preferred form; JSON if others are equal or there is no header.
///
/// # Errors
/// [`Problem::NotAcceptable`] if the client accepts none.
pub fn answer_form(headers: &HeaderMap) -> Result<Form, Problem> {
    let lines: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).collect();
    let accept = lines.join(",");
    if accept.trim().is_empty() {
        return Ok(Form::Json);
    }
    let html = quality(&accept, "text", "html");
    let json = quality(&accept, "application", "json");
    let png = quality(&accept, "image", "png");
    match html.max(json).max(png) {
        best if best <= 0.0 => Err(Problem::NotAcceptable { accept: excerpt(&accept) }),
        best if json >= best => Ok(Form::Json),
        best if png >= best => Ok(Form::Png),
        _ => Ok(Form::Html),
    }
}

/// The `q` of the most specific range that matches `kind/subtype`; 0 if none does.
fn quality(accept: &str, kind: &str, subtype: &str) -> f32 {
    let mut best = (0, 0.0);
    for range in accept.split(',') {
        let mut pieces = range.split(';').map(str::trim);
        let (range_kind, range_subtype) =
            pieces.next().and_then(|essence| essence.split_once('/')).unwrap_or_default();
        let specificity = match (range_kind, range_subtype) {
            ("*", "*") => 1,
            (k, "*") if k.eq_ignore_ascii_case(kind) => 2,
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 3,
            _ => continue,
        };
        let weight = pieces
            .find_map(|piece| piece.strip_prefix("q=").or_else(|| piece.strip_prefix("Q=")))
            .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0));
        if specificity > best.0 {
            best = (specificity, weight);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_form_follows_accept() {
        let cases = [
            ("", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            ("application/json", Some(Form::Json)),
            ("image/png", Some(Form::Png)),
            ("IMAGE/PNG", Some(Form::Png)),
            ("image/*", Some(Form::Png)),
            ("image/avif,image/webp,image/*,*/*;q=0.8", Some(Form::Png)),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some(Form::Html)),
            ("text/html,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", Some(Form::Html)),
            ("text/html, application/json", Some(Form::Json)),
            ("text/html;q=0.5, */*;q=0.9", Some(Form::Json)),
            ("application/json, image/png", Some(Form::Json)),
            ("application/json;q=0.1, image/png;q=0.2", Some(Form::Png)),
            ("image/png;q=0, */*", Some(Form::Json)),
            ("application/json;q=0, */*;q=0.1", Some(Form::Png)),
            ("text/html", Some(Form::Html)),
            ("text/plain", None),
            ("image/jpeg", None),
            ("*/*;q=0", None),
            ("application/json;q=none", None),
            ("rubbish", None),
        ];
        for (accept, expect) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(answer_form(&headers).ok(), expect, "{accept:?}");
        }
        assert_eq!(answer_form(&HeaderMap::new()).ok(), Some(Form::Json), "no header");
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("application/json;q=0.5"));
        headers.append(ACCEPT, HeaderValue::from_static("image/png"));
        assert_eq!(answer_form(&headers).ok(), Some(Form::Png));
    }
}
