//! Reads the photo and the options of a JSON body: `{"image": "<base64 or data: URL>", "top_k": 3, …}`; or
//! several photos, as a list in that member or as the body itself.
//!
//! Members are read one by one with serde, not into a tree, so that a hostile body of nested arrays needs
//! no memory, and an unknown member is named without being kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::encoded;
use crate::fields::{self, Content, MAX_PHOTOS, Photos, Sent};
use crate::options::{self, Options};
use crate::problem::{Problem, excerpt};

/// Reads a JSON body and returns its photos; options among its members are set in `options`.
///
/// # Errors
/// [`Problem::BadJson`], [`Problem::MissingImage`], [`Problem::BadBase64`], [`Problem::TooManyPhotos`],
/// [`Problem::UnknownOption`], or [`Problem::BadOption`].
pub(crate) fn read(body: Vec<u8>, options: &mut Options) -> Result<Photos, Problem> {
    let bad = |error: serde_json::Error| Problem::BadJson { why: excerpt(&error.to_string()) };
    let mut reader = serde_json::Deserializer::from_slice(without_bom(&body));
    let members = reader.deserialize_any(MembersVisitor).map_err(bad)?;
    reader.end().map_err(bad)?;
    // The text has been copied out, so the body is freed before decoding.
    drop(body);
    if let Some(name) = members.unknown {
        let photo = match members.image {
            Some(_) => "",
            None => "; a photo's base64 belongs in \"image\"",
        };
        return Err(Problem::UnknownOption { name, photo });
    }
    for (name, value) in &members.options {
        options.set(name, value)?;
    }
    if let Some((first, second)) = members.several {
        return Err(Problem::SeveralPhotos { first, second });
    }
    match members.image {
        Some((_, Image::Text(text))) if !text.trim_ascii().is_empty() => {
            encoded::decode(text.into_bytes()).map(Photos::One)
        }
        Some((_, Image::Text(_))) => Err(missing("an empty `image`")),
        Some((_, Image::List(list))) if list.is_empty() => Err(missing("an empty list of photos")),
        Some((_, Image::List(list))) if list.len() > MAX_PHOTOS => {
            Err(Problem::TooManyPhotos { limit: MAX_PHOTOS as u64 })
        }
        Some((_, Image::List(list))) => {
            let sent = |text: Option<String>| Sent {
                file: None,
                content: Content::Text(text.unwrap_or_default().into_bytes()),
            };
            Ok(Photos::Several(list.into_iter().map(sent).collect()))
        }
        None => Err(missing("no `image`, or null")),
    }
}

/// The text without a byte order mark, which some clients write before JSON (RFC 8259, 8.1).
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

fn missing(found: &str) -> Problem {
    Problem::MissingImage { form: "JSON object", found: found.to_owned() }
}

/// The object's members.
#[derive(Default)]
struct Members {
    /// The name of the photo's member, and its value.
    image: Option<(String, Image)>,
    /// The names of two members with photos.
    several: Option<(String, String)>,
    options: Vec<(String, String)>,
    unknown: Option<String>,
}

/// The value of a photo's member.
enum Image {
    /// One photo.
    Text(String),
    /// Several photos: at most one more than [`MAX_PHOTOS`], further ones are not kept.
    List(Vec<Option<String>>),
}

impl Image {
    fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) => text.trim_ascii().is_empty(),
            Self::List(list) => list.is_empty(),
        }
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImageVisitor)
    }
}

struct ImageVisitor;

impl<'de> Visitor<'de> for ImageVisitor {
    type Value = Image;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a photo's base64 or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Image, E> {
        Ok(Image::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Image, E> {
        Ok(Image::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Image, A::Error> {
        let mut texts = Vec::new();
        while texts.len() <= MAX_PHOTOS {
            match list.next_element()? {
                Some(text) => texts.push(text),
                None => return Ok(Image::List(texts)),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Image::List(texts))
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or a list of photos")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Members, A::Error> {
        let photos = ImageVisitor.visit_seq(list)?;
        Ok(Members { image: Some((String::new(), photos)), ..Members::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(Name(name)) = map.next_key()? {
            match name.as_str() {
                name if fields::is_photo_name(name) => {
                    let Some(image) = map.next_value::<Option<Image>>()? else { continue };
                    match &members.image {
                        Some((first, before)) if !before.is_blank() => {
                            members.several = Some((first.clone(), name.to_owned()));
                        }
                        _ => members.image = Some((name.to_owned(), image)),
                    }
                }
                "fields" => {
                    let raw: Box<RawValue> = map.next_value()?;
                    members.options.push(("fields".to_owned(), fields_text(raw.get())));
                }
                name if options::is_option(name) => {
                    let Scalar(value) = map.next_value()?;
                    members.options.push((name.to_owned(), value));
                }
                _ => {
                    let IgnoredAny = map.next_value()?;
                    members.unknown.get_or_insert(name);
                }
            }
        }
        Ok(members)
    }
}

/// The object itself, or the text of it; empty for `null`.
fn fields_text(raw: &str) -> String {
    match raw {
        "null" => String::new(),
        raw => serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned()),
    }
}

/// A member's name, shortened to what an answer shows.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(excerpt(name)))
            }
        }
        deserializer.deserialize_identifier(NameVisitor)
    }
}

/// An option's value as text; empty for `null`.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true, false or null")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar(String::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_and_options_are_read() {
        let cases = [
            (r#"{"image": "AAEC"}"#, Options::default()),
            (r#"{"file": "data:image\/png;base64,AAEC", "top_k": null}"#, Options::default()),
            (r#"{"photo": "", "image": "data:image/jpeg; base64,AAEC"}"#, Options::default()),
            ("\u{feff}{\"image\": \"AAEC\"}", Options::default()),
            (
                r#" {"top_k": 3, "image": "AAEC"} "#,
                Options { top_k: Some(3), ..Options::default() },
            ),
            (
                r#"{"image": "AAEC", "top_k": "3"}"#,
                Options { top_k: Some(3), ..Options::default() },
            ),
            (
                r#"{"image": "AA\nEC", "gradcam": false, "class": 1, "model": "skin"}"#,
                Options {
                    top_k: None,
                    gradcam: Some(false),
                    class: Some("1".to_owned()),
                    heatmap: None,
                    colormap: None,
                    model: Some("skin".to_owned()),
                    fields: Vec::new(),
                },
            ),
            (
                r#"{"fields": {"age": 54, "site": [0, 1]}, "image": "AAEC"}"#,
                Options {
                    fields: vec![
                        ("age".to_owned(), vec![54.0]),
                        ("site".to_owned(), vec![0.0, 1.0]),
                    ],
                    ..Options::default()
                },
            ),
            (r#"{"image": "AAEC", "fields": null}"#, Options::default()),
        ];
        for (body, expect) in cases {
            let mut options = Options::default();
            let photo = read(body.as_bytes().to_vec(), &mut options);
            assert_eq!((photo.unwrap(), options), (Photos::One(vec![0, 1, 2]), expect), "{body}");
        }
    }

    #[test]
    fn a_list_is_several_photos_even_of_one() {
        let cases: [(&str, &[&str]); 4] = [
            (r#"{"images": ["AAEC", "", null, "?"], "top_k": 3}"#, &["AAEC", "", "", "?"]),
            (r#"{"image": null, "image": ["AAEC"], "top_k": 3}"#, &["AAEC"]),
            (r#"{"image": "", "files": ["AAEC"], "top_k": 3}"#, &["AAEC"]),
            (r#" ["AAEC", "AA\nEC"] "#, &["AAEC", "AA\nEC"]),
        ];
        for (body, expect) in cases {
            let photos = read(body.as_bytes().to_vec(), &mut Options::default()).unwrap();
            let sent =
                |text: &&str| Sent { file: None, content: Content::Text(text.as_bytes().to_vec()) };
            assert_eq!(photos, Photos::Several(expect.iter().map(sent).collect()), "{body}");
        }
    }

    #[test]
    fn each_kind_of_bad_body_has_its_own_problem() {
        let deep = format!("{{\"image\": {}1", "[".repeat(100_000));
        let many = format!("[{}\"AAEC\"]", "\"AAEC\",".repeat(10_000));
        let deep_and_ignored = format!("{{\"more\": {}1", "[".repeat(100_000));
        let cases = [
            ("", "bad-json"),
            ("[]", "missing-image"),
            ("[1]", "bad-json"),
            (r#"{"images": []}"#, "missing-image"),
            (r#"{"images": ["AAEC", {"b64": "AAEC"}]}"#, "bad-json"),
            (r#"{"images": ["AAEC"], "image": "AAEC"}"#, "several-photos"),
            (&many, "too-many-photos"),
            ("\"AAEC\"", "bad-json"),
            ("{", "bad-json"),
            (r#"{"image": "AAEC"} x"#, "bad-json"),
            (r#"{"image": 1}"#, "bad-json"),
            (r#"{"image": "AAEC", "top_k": [1]}"#, "bad-json"),
            ("{\"image\": \"\u{0}\"}", "bad-json"),
            (&deep, "bad-json"),
            (&deep_and_ignored, "bad-json"),
            ("{}", "missing-image"),
            (r#"{"image": null}"#, "missing-image"),
            (r#"{"image": " "}"#, "missing-image"),
            (r#"{"image": "A*"}"#, "bad-base64"),
            (r#"{"image": "https://example.org/a.jpg"}"#, "bad-base64"),
            (r#"{"image": "AAEC", "photo": "AAEC"}"#, "several-photos"),
            (r#"{"image": "AAEC", "topk": 3}"#, "unknown-option"),
            (r#"{"image": "AAEC", "more": [[1, {"a": "b"}]]}"#, "unknown-option"),
            (r#"{"image": "AAEC", "top_k": 1.5}"#, "bad-option"),
            (r#"{"image": "AAEC", "fields": [1]}"#, "bad-option"),
            (r#"{"image": "AAEC", "fields": {"age": {"years": 1}}}"#, "bad-option"),
            (r#"{"image": "AAEC", "gradcam": "maybe"}"#, "bad-option"),
        ];
        for (body, expect) in cases {
            let problem = read(body.as_bytes().to_vec(), &mut Options::default()).unwrap_err();
            assert_eq!(problem.kind().name, expect, "{:.60}", body);
        }
    }

    #[test]
    fn a_name_of_megabytes_is_not_echoed() {
        let body = format!("{{\"{}\": 1}}", "n".repeat(1 << 20));
        let problem = read(body.into_bytes(), &mut Options::default()).unwrap_err();
        assert!(problem.to_string().len() < 300);
    }
}
