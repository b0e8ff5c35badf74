//! Finds the photo, or the photos, among the fields of a form.
//!
//! A file in a field with a photo's name is a photo, with any content. A file in any other field is one if
//! its bytes are, or if no other field can be. Text in a field with a photo's name is a photo if it is base64
//! of one. Several values in the field of the photo are several photos, each of which is answered. Photos in
//! different fields are refused, because one may be the thumbnail of the other. `multipart` and `url_form`
//! parse the forms.

use crate::encoded;
use crate::problem::{Problem, excerpt};

/// Names of a photo's field, which may be followed by `[]` or an index in brackets.
pub(crate) const PHOTO_NAMES: [&str; 9] =
    ["image", "file", "photo", "img", "upload", "picture", "images", "files", "photos"];

/// Most field names that are kept for the error message about a missing photo.
const MOST_NAMES: usize = 8;

/// Most photos of a request. The runner lets a request run models a hundred times.
pub(crate) const MAX_PHOTOS: usize = 64;

/// The photo or the photos of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Photos {
    /// The bytes of one photo's file, not empty, and not yet checked.
    One(Vec<u8>),
    /// Several, at most `MAX_PHOTOS`, in the order of the request.
    Several(Vec<Sent>),
}

/// One of several photos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The name of its file, if the form has one.
    pub file: Option<String>,
    /// Its bytes, or its base64.
    pub content: Content,
}

/// What was sent as a photo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes of the file, possibly empty, and not yet checked.
    Bytes(Vec<u8>),
    /// Base64 of them, or a `data:` URL, not yet decoded.
    Text(Vec<u8>),
}

impl Content {
    /// The bytes of the file.
    ///
    /// # Errors
    /// [`Problem::BadBase64`].
    pub(crate) fn bytes(self) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => encoded::decode(text),
        }
    }

    fn is_blank(&self) -> bool {
        let (Self::Bytes(value) | Self::Text(value)) = self;
        value.trim_ascii().is_empty()
    }
}

/// Whether `name` is one of [`PHOTO_NAMES`].
pub(crate) fn is_photo_name(name: &str) -> bool {
    PHOTO_NAMES.iter().any(|known| known.eq_ignore_ascii_case(without_index(name)))
}

/// A field's name without the brackets at its end, which number the values of a list.
fn without_index(name: &str) -> &str {
    let plain = name.split_once('[').filter(|(_, rest)| rest.ends_with(']'));
    plain.map_or(name, |(plain, _)| plain)
}

/// A field of a form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    /// Its name; empty if it has none.
    pub(crate) name: &'a str,
    /// The name of its file, possibly empty; `None` if it is text.
    pub(crate) file: Option<&'a str>,
}

impl Field<'_> {
    /// Whether its value may be the photo.
    pub(crate) fn may_be_photo(self) -> bool {
        self.file.is_some() || is_photo_name(self.name)
    }
}

/// A value that may be a photo.
#[derive(Debug)]
struct Value {
    /// The field's name, for messages.
    field: String,
    /// The field's name without an index and in lower case; equal for the values of one list.
    list: String,
    is_photo: bool,
    sent: Sent,
}

/// The fields seen so far.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    values: Vec<Value>,
    names: Vec<String>,
}

impl Fields {
    /// Whether no value has been kept that could be the photo.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
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
    /// [`Problem::TooManyPhotos`].
    pub(crate) fn add(&mut self, field: Field<'_>, value: Vec<u8>) -> Result<(), Problem> {
        let file = field.file.filter(|file| !file.is_empty()).map(file_name);
        if value.trim_ascii().is_empty() {
            self.skip(field.name);
            if file.is_none() {
                // A browser sends an empty part without a file name for an unused file input.
                return Ok(());
            }
        }
        if self.values.len() == MAX_PHOTOS {
            return Err(Problem::TooManyPhotos { limit: MAX_PHOTOS as u64 });
        }
        let (content, is_photo) = match (encoded::photo(value), field.file) {
            (Ok(photo), _) => (Content::Bytes(photo), true),
            (Err(value), Some(_)) => (Content::Bytes(value), is_photo_name(field.name)),
            (Err(value), None) => (Content::Text(value), false),
        };
        self.values.push(Value {
            field: excerpt(field.name),
            list: excerpt(without_index(field.name)).to_ascii_lowercase(),
            is_photo: is_photo && !content.is_blank(),
            sent: Sent { file, content },
        });
        Ok(())
    }

    /// The photo of the form, or the photos in one field of it.
    ///
    /// # Errors
    /// [`Problem::MissingImage`], [`Problem::BadBase64`], [`Problem::SeveralPhotos`].
    pub(crate) fn finish(self) -> Result<Photos, Problem> {
        let mut photos = self.values.iter().filter(|value| value.is_photo);
        let Some(first) = photos.next() else {
            // Without a photo, the first value that is not blank: decoding it gives the reason.
            let mut others = self.values.into_iter().map(|value| value.sent.content);
            let Some(other) = others.find(|content| !content.is_blank()) else {
                let found = listed(&self.names);
                return Err(Problem::MissingImage { form: "form", found });
            };
            return other.bytes().map(Photos::One);
        };
        if let Some(other) = photos.find(|value| value.list != first.list) {
            let (first, second) = (first.field.clone(), other.field.clone());
            return Err(Problem::SeveralPhotos { first, second });
        }
        let list = first.list.clone();
        let same = self.values.into_iter().filter(|value| value.list == list);
        let mut sent: Vec<Sent> = same.map(|value| value.sent).collect();
        match (sent.len(), sent.pop()) {
            (1, Some(only)) => only.content.bytes().map(Photos::One),
            (_, last) => {
                sent.extend(last);
                Ok(Photos::Several(sent))
            }
        }
    }
}

/// The name of a file as an answer repeats it: at most 255 characters, the most that file systems have.
fn file_name(given: &str) -> String {
    const MOST: usize = 255;
    given.chars().take(MOST).collect()
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "no fields".to_owned(),
        [name] => format!("only the field `{name}`, and that is empty or no file"),
        names => format!("only the fields `{}`, each empty or no file", names.join("`, `")),
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
        let cases: [Case<'_>; 15] = [
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
            ("broken text", &[("image", false, b"a.png")], Err("bad-base64")),
            ("empty ones", &[("image", true, b""), ("image", false, b" ")], Err("missing-image")),
            ("none", &[], Err("missing-image")),
        ];
        for (name, given, expect) in cases {
            let mut fields = Fields::default();
            let mut take = || {
                for (name, is_file, value) in given {
                    let file = is_file.then_some("");
                    fields.add(Field { name, file }, value.to_vec())?;
                }
                std::mem::take(&mut fields).finish()
            };
            let found = take().map_err(|problem| problem.kind().name);
            assert_eq!(found, expect.map(|photo| Photos::One(photo.to_vec())), "{name}");
        }
    }

    #[test]
    fn all_values_of_the_photos_field_are_photos() {
        let bytes = |file: &str, bytes: &[u8]| Sent {
            file: Some(file.to_owned()).filter(|file| !file.is_empty()),
            content: Content::Bytes(bytes.to_vec()),
        };
        let text = Sent { file: None, content: Content::Text(b"?".to_vec()) };
        type Case<'a> = (&'a str, &'a [(&'a str, Option<&'a str>, &'a [u8])], Vec<Sent>);
        let cases: [Case<'_>; 5] = [
            (
                "two files",
                &[("image", Some("a.png"), PNG), ("image", Some("b.jpg"), JPEG)],
                vec![bytes("a.png", PNG), bytes("b.jpg", JPEG)],
            ),
            (
                "a numbered list, one of which is no photo and one empty",
                &[
                    ("images[0]", Some("a"), PNG),
                    ("Images[1]", Some("b"), b"words"),
                    ("images[]", Some("c"), b""),
                    ("notes", Some("d"), b"words"),
                ],
                vec![bytes("a", PNG), bytes("b", b"words"), bytes("c", b"")],
            ),
            (
                "a file and a text",
                &[("image", Some("a"), PNG), ("image", None, PNG_BASE64)],
                vec![bytes("a", PNG), bytes("", PNG)],
            ),
            (
                "a text and a broken one",
                &[("image", None, b"?"), ("image", None, PNG_BASE64)],
                vec![text, bytes("", PNG)],
            ),
            (
                "a list of another name",
                &[("scan", Some("a"), PNG), ("scan", Some("b"), b"words")],
                vec![bytes("a", PNG), bytes("b", b"words")],
            ),
        ];
        for (name, given, expect) in cases {
            let mut fields = Fields::default();
            for (name, file, value) in given {
                fields.add(Field { name, file: *file }, value.to_vec()).unwrap();
            }
            assert_eq!(fields.finish().unwrap(), Photos::Several(expect), "{name}");
        }
    }

    #[test]
    fn the_number_of_photos_is_limited() {
        let mut fields = Fields::default();
        let field = Field { name: "image", file: Some("a") };
        let added = (0..=MAX_PHOTOS).map(|_| fields.add(field, PNG.to_vec()));
        let refused: Vec<usize> =
            added.enumerate().filter(|(_, r)| r.is_err()).map(|(at, _)| at).collect();
        assert_eq!(refused, [MAX_PHOTOS]);
    }
}
