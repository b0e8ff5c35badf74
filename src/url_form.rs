//! Reads `application/x-www-form-urlencoded` with a photo as base64, as sent by PHP, jQuery and `curl -d`.
//!
//! In this form a `+` stands for a space, but it is also a base64 character that some clients do not
//! escape; so in the photo's field a `+` is kept. `fields` decides which field is the photo.

use percent_encoding::percent_decode;

use crate::fields::{Field, Fields, Photos};
use crate::options::{self, Options};
use crate::problem::Problem;

/// Reads the form and returns its photos; options among its fields are set in `options`.
///
/// # Errors
/// The problems of [`Fields`] and of options.
pub(crate) fn read(body: &[u8], options: &mut Options) -> Result<Photos, Problem> {
    let mut fields = Fields::default();
    for pair in body.split(|byte| *byte == b'&') {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(end);
        let value = value.get(1..).unwrap_or_default();
        let name = form_urlencoded::parse(name).next().map(|(name, _)| name).unwrap_or_default();
        let field = Field { name: &name, file: None };
        if options::is_option(&name) {
            let value = form_urlencoded::parse(pair).next().map(|(_, value)| value);
            options.set(&name, &value.unwrap_or_default())?;
        } else if field.may_be_photo() {
            fields.add(field, percent_decode(value).collect())?;
        } else if !pair.is_empty() {
            fields.skip(&name);
        }
    }
    fields.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on \xfb\xff";

    #[test]
    fn forms_are_read() {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, PNG);
        assert!(text.contains('+') || text.contains('/'), "{text}");
        let escaped: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let cases = [
            (format!("image={escaped}"), None),
            (format!("image={text}"), None),
            (format!("image=data%3Aimage%2Fpng%3Bbase64%2C{escaped}&top_k=3"), Some(3)),
            (format!("top_k=3&csrf=a%26b&photo=data:image/png;base64,{text}"), Some(3)),
            (format!("image%5B%5D={escaped}&&"), None),
            (format!("image=&file={escaped}&more"), None),
        ];
        for (body, top_k) in cases {
            let mut options = Options::default();
            let photo = read(body.as_bytes(), &mut options).unwrap();
            assert_eq!(photo, Photos::One(PNG.to_vec()), "{body}");
            assert_eq!(options.top_k, top_k, "{body}");
        }
        let class = b"class=Eczema+Photos&image=iVBORw0KGgo";
        let mut options = Options::default();
        read(class, &mut options).unwrap();
        assert_eq!(options.class.as_deref(), Some("Eczema Photos"));
    }

    #[test]
    fn each_kind_of_bad_form_has_its_own_problem() {
        let cases = [
            ("", "missing-image"),
            ("image", "missing-image"),
            ("image=", "missing-image"),
            ("picture_of_me=iVBORw0KGgo", "missing-image"),
            ("image=photo.jpg", "bad-base64"),
            ("image=iVBORw0KGgo&file=iVBORw0KGgo", "several-photos"),
            ("image=iVBORw0KGgo&top_k=few", "bad-option"),
        ];
        for (body, expect) in cases {
            let problem = read(body.as_bytes(), &mut Options::default()).unwrap_err();
            assert_eq!(problem.kind().name, expect, "{body}");
        }
    }
}
