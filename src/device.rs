//! The files with which the page looks at photos on the user's own device: an index, the engine compiled
//! to WebAssembly, and packed models. `skincell page` writes them as a folder, whose paths are those served
//! here; `spin.toml` mounts it.
//!
//! | path | file |
//! |---|---|
//! | `/page/device/index.json` | [`Index`]: what there is, and how large |
//! | `/page/device/{digest}` | the engine |
//! | `/page/models/{name}/{digest}` | a packed model |
//!
//! A digest is the SHA-256 of the file's content, so such a path never changes its content and may be cached
//! for ever. Where compression pays, files are stored and sent as gzip, and the page decompresses them: a web
//! host need not know. Only models whose card says `"on_device": true` are served.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer;
use crate::models;
use crate::problem::{Problem, excerpt};
use crate::settings::{Place, Settings};

/// The page's and the engine's part of a path.
const DEVICE: &str = "/page/device/";
const MODELS: &str = "/page/models/";

/// The file of the index, in the folder and as a path.
pub const INDEX_FILE: &str = "page/device/index.json";

/// What there is for the device.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Index {
    /// The engine, fastest build first.
    pub engines: Vec<Engine>,
    /// The models.
    pub models: Vec<DeviceModel>,
    /// The model chosen at first.
    pub default: Option<String>,
    /// The service's settings that concern answers, lines of `NAME=value`.
    #[serde(default)]
    pub settings: String,
}

/// A build of the engine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Engine {
    /// The WebAssembly features it needs: `relaxed` or `simd`.
    pub features: String,
    /// Its file.
    pub file: StoredFile,
}

/// A model for the device.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceModel {
    /// Its name.
    pub name: String,
    /// Its card.
    pub card: Value,
    /// The packed model.
    pub file: StoredFile,
}

/// A file as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredFile {
    /// SHA-256 of the content, in lower-case hexadecimal.
    pub digest: String,
    /// Bytes of the content.
    pub bytes: u64,
    /// Bytes as stored and sent.
    pub stored: u64,
    /// Whether it is stored as gzip.
    pub gzip: bool,
}

/// Whether `path` is one of these files' paths.
#[must_use]
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with(DEVICE) || path.starts_with(MODELS)
}

/// The file at the request's path.
///
/// # Errors
/// [`Problem::UnknownPath`] if the page does not run on the device here, or there is no such file;
/// [`Problem::Internal`] if a file cannot be read.
pub(crate) fn answer(head: &Parts, settings: &Settings) -> Result<Response<Vec<u8>>, Problem> {
    let path = head.uri.path();
    let unknown = || Problem::UnknownPath { path: excerpt(path) };
    if settings.page == Place::Server {
        return Err(unknown());
    }
    let folder = &settings.device;
    if path.strip_prefix('/') == Some(INDEX_FILE) {
        return index(&folder.join(INDEX_FILE), settings);
    }
    let (digest, file) = if let Some(digest) = path.strip_prefix(DEVICE) {
        (digest, folder.join("page/device"))
    } else {
        let below = path.strip_prefix(MODELS).and_then(|below| below.split_once('/'));
        let (name, digest) = below.ok_or_else(unknown)?;
        if !is_granted(settings, name) {
            return Err(unknown());
        }
        (digest, folder.join("page/models").join(name))
    };
    if !is_digest(digest) {
        return Err(unknown());
    }
    let mut file = File::open(file.join(digest)).map_err(|_| unknown())?;
    stored(&head.headers, digest, &mut file).map_err(|error| Problem::Internal {
        step: "reading a file for the device",
        why: error.to_string(),
    })
}

/// Whether the card of `name` lets browsers load the model. Names that are no model's are refused with it,
/// so that only a valid name becomes a part of a path.
fn is_granted(settings: &Settings, name: &str) -> bool {
    models::find(settings, Some(name)).is_ok_and(|card| card.on_device)
}

fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_hex)
}

/// The index, with the models that are granted and this service's settings.
fn index(path: &Path, settings: &Settings) -> Result<Response<Vec<u8>>, Problem> {
    let failed = |why: String| Problem::Internal { step: "the index for the device", why };
    let json = std::fs::read(path).map_err(|error| {
        failed(format!("{error}: run `skincell page -o device` beside spin.toml, and mount it"))
    })?;
    let mut index: Index =
        serde_json::from_slice(&json).map_err(|error| failed(error.to_string()))?;
    index.models.retain(|model| is_granted(settings, &model.name));
    let wanted = settings.default_model.clone().or(index.default.take());
    let has = |name: &String| index.models.iter().any(|model| model.name == *name);
    let first = index.models.first().map(|model| model.name.clone());
    index.default = wanted.filter(has).or(first);
    index.settings = settings.for_device();
    let mut response = answer::json(&index)?;
    let hour = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, hour);
    Ok(response)
}

/// A file's bytes, or the part that is asked for (RFC 9110, section 14).
fn stored(
    headers: &HeaderMap,
    digest: &str,
    file: &mut File,
) -> std::io::Result<Response<Vec<u8>>> {
    let length = file.metadata()?.len();
    let tag = format!("\"{digest}\"");
    let mut response = answer::with_type("application/octet-stream", Vec::new());
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_kept = text(header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.split(',').any(|kept| ["*", tag.as_str()].contains(&kept.trim())));
    let is_same = text(header::IF_RANGE).is_none_or(|kept| kept == tag);
    let range = text(header::RANGE).filter(|_| is_same).map(|range| part(range, length));
    if is_kept {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if let Some(Part::Unsatisfiable) = range {
        *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{length}"));
    } else {
        let (start, end) = match range {
            Some(Part::Of(start, end)) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {start}-{}/{length}", end - 1);
                set(response.headers_mut(), header::CONTENT_RANGE, &range);
                (start, end)
            }
            _ => (0, length),
        };
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(response.body_mut())?;
    }
    let headers = response.headers_mut();
    set(headers, header::ETAG, &tag);
    set(headers, header::ACCEPT_RANGES, "bytes");
    set(headers, header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    Ok(response)
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// From a byte to before another.
    Of(u64, u64),
    /// It begins after the end.
    Unsatisfiable,
    /// It is malformed, of another unit, or several ranges: the whole file is sent, as the RFC allows.
    Ignored,
}

fn part(range: &str, length: u64) -> Part {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Part::Ignored;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= length => Part::Unsatisfiable,
        (Ok(first), Ok(last)) if last >= first => {
            Part::Of(first, last.saturating_add(1).min(length))
        }
        (Ok(first), Err(_)) if last.trim().is_empty() => Part::Of(first, length),
        (Err(_), Ok(0)) if first.trim().is_empty() => Part::Unsatisfiable,
        (Err(_), Ok(last)) if first.trim().is_empty() && length > 0 => {
            Part::Of(length.saturating_sub(last), length)
        }
        _ => Part::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tests::{card_json, mounted};

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    /// Settings with two models for the device in files; only the card of `skin` lets browsers load it.
    fn with_files() -> (tempfile::TempDir, Settings) {
        let skin = card_json("skin").replacen(
            "\"card_version\"",
            "\"on_device\": true, \"card_version\"",
            1,
        );
        let (folder, settings) =
            mounted(&[("skin", &skin), ("secret", &card_json("secret"))], Some("skin"));
        let device = folder.path().join("device");
        for name in ["skin", "secret"] {
            let models = device.join("page/models").join(name);
            std::fs::create_dir_all(&models).unwrap();
            std::fs::write(models.join(DIGEST), "0123456789").unwrap();
        }
        std::fs::create_dir_all(device.join("page/device")).unwrap();
        let file = || StoredFile { digest: DIGEST.to_owned(), bytes: 10, stored: 10, gzip: false };
        let model =
            |name: &str| DeviceModel { name: name.to_owned(), card: Value::Null, file: file() };
        let index = Index { models: vec![model("secret"), model("skin")], ..Index::default() };
        let json = serde_json::to_vec(&index).unwrap();
        std::fs::write(device.join("page/device/index.json"), json).unwrap();
        (folder, Settings { device, page: Place::Both, ..settings })
    }

    fn get(settings: &Settings, path: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let outcome = answer(&head, settings);
        answer::finish(&head, outcome)
    }

    #[test]
    fn a_model_is_served_whole_in_part_or_not_again() {
        let (_folder, settings) = with_files();
        let tag = format!("\"{DIGEST}\"");
        let model = format!("/page/models/skin/{DIGEST}");
        type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);
        let cases: [Case<'_>; 10] = [
            (&[], 200, "0123456789"),
            (&[("if-none-match", &tag)], 304, ""),
            (&[("if-none-match", "\"other\"")], 200, "0123456789"),
            (&[("range", "bytes=2-4")], 206, "234"),
            (&[("range", "bytes=8-")], 206, "89"),
            (&[("range", "bytes=-3")], 206, "789"),
            (&[("range", "bytes=8-99"), ("if-range", &tag)], 206, "89"),
            (&[("range", "bytes=8-"), ("if-range", "\"other\"")], 200, "0123456789"),
            (&[("range", "bytes=10-")], 416, ""),
            (&[("range", "bytes=0-1,4-5")], 200, "0123456789"),
        ];
        for (headers, status, body) in cases {
            let response = get(&settings, &model, headers);
            assert_eq!(response.status(), status, "{headers:?}");
            assert_eq!(response.headers()["etag"], tag.as_str());
            assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
            assert_eq!(String::from_utf8_lossy(response.body()), body, "{headers:?}");
        }
    }

    #[test]
    fn only_granted_models_are_served() {
        let (_folder, settings) = with_files();
        for path in [
            format!("/page/models/secret/{DIGEST}"),
            format!("/page/models/../models/skin/{DIGEST}"),
            format!("/page/models/skin/../skin/{DIGEST}"),
            format!("/page/models/skin/{}", DIGEST.to_uppercase()),
            "/page/models/skin/index.json".to_owned(),
            "/page/models/skin".to_owned(),
            "/page/device/".to_owned(),
        ] {
            assert_eq!(get(&settings, &path, &[]).status(), 404, "{path}");
        }
        let index = get(&settings, "/page/device/index.json", &[]);
        let index: Index = serde_json::from_slice(index.body()).unwrap();
        let names: Vec<&str> = index.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!((names, index.default.as_deref()), (vec!["skin"], Some("skin")));
        assert!(index.settings.contains("SKINCELL_COLOR=srgb\n"), "{}", index.settings);
        let on_server = Settings { page: Place::Server, ..settings };
        let model = format!("/page/models/skin/{DIGEST}");
        assert_eq!(get(&on_server, &model, &[]).status(), 404);
    }
}
