//! Finds the photo among the fields of a form.
//!
//! A file in a field with a photo's name is the photo, with any content. A file in any other field is the
//! photo if its bytes are one, or if no other field can be. Text in a field with a photo's name is the
//! photo if it is base64 of one. Two photos are refused, because an answer for either could be the wrong
//! one. `multipart` and `url_form` parse the forms.

use crate::encoded;
use crate::problem::{Problem, excerpt};

/// Names of a photo's field, which may be followed by `[]` or an index in brackets.
pub(crate) const PHOTO_NAMES: [&str; 9] =
    ["image", "file", "photo", "img", "upload", "picture", "images", "files", "photos"];

/// Most field names that are kept for the error message about a missing photo.
const MOST_NAMES: usize = 8;

/// Whether `name` is one of [`PHOTO_NAMES`].
pub(crate) fn is_photo_name(name: &str) -> bool {
    let plain = name.split_once('[').filter(|(_, rest)| rest.ends_with(']'));
    let plain = plain.map_or(name, |(plain, _)| plain);
    PHOTO_NAMES.iter().any(|known| known.eq_ignore_ascii_case(plain))
}

/// A field of a form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    /// Its name; empty if it has none.
    pub(crate) name: &'a str,
    /// Whether it has a file name, possibly empty.
    pub(crate) is_file: bool,
}

impl Field<'_> {
    /// Whether its value may be the photo.
    pub(crate) fn may_be_photo(self) -> bool {
        self.is_file || is_photo_name(self.name)
    }
}

/// The fields seen so far.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// The name of the photo's field, and its bytes.
    photo: Option<(String, Vec<u8>)>,
    /// The value used as the photo if no field has one; decoding it gives the reason.
    spare: Option<Result<Vec<u8>, Problem>>,
    names: Vec<String>,
}

impl Fields {
    /// Whether no value has been kept that could be the photo.
    pub(crate) fn is_empty(&self) -> bool {
        self.photo.is_none() && self.spare.is_none()
    }

    /// Records an unused field, to name it if the photo is missing.
    pub(crate) fn skip(&mut self, name: &str) {
        if self.names.len() < MOST_NAMES {
            self.names.push(excerpt(name));
        }
    }

    /// Takes the value of a field that [`Field::may_be_photo`].
    ///
    /// # Errors
    /// [`Problem::SeveralPhotos`] if there was one before.
    pub(crate) fn add(&mut self, field: Field<'_>, value: Vec<u8>) -> Result<(), Problem> {
        if value.trim_ascii().is_empty() {
            // A browser sends an empty part for an unused file input.
            self.skip(field.name);
            return Ok(());
        }
        let is_photo_name = is_photo_name(field.name);
        let (value, is_photo) = match encoded::photo(value) {
            Ok(photo) => (photo, true),
            Err(value) => (value, field.is_file && is_photo_name),
        };
        if is_photo {
            if let Some((first, _)) = &self.photo {
                let second = excerpt(field.name);
                return Err(Problem::SeveralPhotos { first: first.clone(), second });
            }
            self.photo = Some((excerpt(field.name), value));
            self.spare = None;
        } else if self.is_empty() {
            let text = || encoded::decode(value.clone());
            self.spare = Some(if field.is_file { Ok(value) } else { text() });
        }
        Ok(())
    }

    /// The photo of the form.
    ///
    /// # Errors
    /// [`Problem::MissingImage`], [`Problem::BadBase64`].
    pub(crate) fn finish(self) -> Result<Vec<u8>, Problem> {
        match (self.photo, self.spare) {
            (Some((_, photo)), _) => Ok(photo),
            (None, Some(spare)) => spare,
            (None, None) => Err(Problem::MissingImage { form: "form", found: listed(&self.names) }),
        }
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "no fields".to_owned(),
        [name] => format!("only the field `{name}`, without a photo in it"),
        names => format!("only the fields `{}`, without a photo in any", names.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_photo_fields_are_recognised() {
        for name in
            ["image", "Photo", "image[]", "images[0]", "files", "files[]", "FILE", "img", "upload"]
        {
            assert!(is_photo_name(name), "{name}");
        }
        for name in ["", "imagery", "model", "image[", "[]", "my image", "file_name"] {
            assert!(!is_photo_name(name), "{name}");
        }
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 and so on";
    const PNG_BASE64: &[u8] = b"iVBORw0KGgogYW5kIHNvIG9u";
    const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0";

    #[test]
    fn the_photo_is_found_among_other_fields() {
        /// Name, whether it is a file, value.
        type Given<'a> = &'a [(&'a str, bool, &'a [u8])];
        type Case<'a> = (&'a str, Given<'a>, Result<&'a [u8], &'a str>);
        let cases: [Case<'_>; 17] = [
            ("a file", &[("image", true, PNG)], Ok(PNG)),
            ("a text", &[("image", false, PNG_BASE64)], Ok(PNG)),
            ("base64 in a file", &[("photo[]", true, PNG_BASE64)], Ok(PNG)),
            ("a sole file of any name", &[("attachment", true, PNG)], Ok(PNG)),
            ("no photo in a sole file", &[("attachment", true, b"words")], Ok(b"words")),
            (
                "an untouched input, then a photo",
                &[("image", true, b""), ("file", true, PNG)],
                Ok(PNG),
            ),
            ("a letter, then a photo", &[("letter", true, b"words"), ("scan", true, PNG)], Ok(PNG)),
            ("a photo, then a letter", &[("scan", true, PNG), ("letter", true, b"words")], Ok(PNG)),
            (
                "a name in text, then a photo",
                &[("file", false, b"a.png"), ("image", true, PNG)],
                Ok(PNG),
            ),
            ("two", &[("image", true, PNG), ("image", true, JPEG)], Err("several-photos")),
            ("two of other names", &[("a", true, PNG), ("b", true, JPEG)], Err("several-photos")),
            (
                "HEIC and a thumbnail",
                &[("image", true, HEIC), ("small", true, JPEG)],
                Err("several-photos"),
            ),
            (
                "unknown and a thumbnail",
                &[("image", true, b"?"), ("small", true, JPEG)],
                Err("several-photos"),
            ),
            (
                "a file and a text",
                &[("image", true, PNG), ("image", false, PNG_BASE64)],
                Err("several-photos"),
            ),
            ("broken text", &[("image", false, b"a.png")], Err("bad-base64")),
            ("empty ones", &[("image", true, b""), ("image", false, b" ")], Err("missing-image")),
            ("none", &[], Err("missing-image")),
        ];
        for (name, given, expect) in cases {
            let mut fields = Fields::default();
            let mut take = || {
                for (name, is_file, value) in given {
                    fields.add(Field { name, is_file: *is_file }, value.to_vec())?;
                }
                std::mem::take(&mut fields).finish()
            };
            let found = take();
            let found = found.as_deref().map_err(|problem| problem.kind().name);
            assert_eq!(found, expect, "{name}");
        }
    }
}
