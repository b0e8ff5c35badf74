//! `application/x-www-form-urlencoded`: a photo as base64 in a field, as PHP, jQuery and `curl -d` send it.
//!
//! A `+` stands for a space there. Base64 has `+` as well, and clients that do not escape it send the
//! photo's as they are; so in the photo's field a `+` stays one. It leaves out which field is the photo
//! (`fields`).

use percent_encoding::percent_decode;

use crate::fields::{Field, Fields};
use crate::options::{self, Options};
use crate::problem::Problem;

/// Reads the form and gives its photo; options among its fields are set in `options`.
///
/// # Errors
/// Those of [`Fields`], or one of the options'.
pub(crate) fn read(body: &[u8], options: &mut Options) -> Result<Vec<u8>, Problem> {
    let mut fields = Fields::default();
    for pair in body.split(|byte| *byte == b'&') {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(end);
        let value = value.get(1..).unwrap_or_default();
        let name = form_urlencoded::parse(name).next().map(|(name, _)| name).unwrap_or_default();
        let field = Field { name: &name, is_file: false };
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
            assert_eq!(read(body.as_bytes(), &mut options).unwrap(), PNG, "{body}");
            assert_eq!(options.top_k, top_k, "{body}");
        }
        let class = b"class=Eczema+Photos&image=iVBORw0KGgo";
        let mut options = Options::default();
        read(class, &mut options).unwrap();
        assert_eq!(options.class.as_deref(), Some("Eczema Photos"));
    }

    #[test]
    fn bad_forms_are_told_apart() {
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
