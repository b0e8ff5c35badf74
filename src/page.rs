//! The page at `/`: hand-written files compiled into the component, with a policy that lets the browser
//! load nothing else.
//!
//! Where the page looks at photos is [`Place`]: on the server, on the user's device, or on either. The files
//! of the engine and of the models are not here but in `device`. [`files`] is the page as a folder for any
//! web host.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::Response;
use http::header::{self, HeaderName, HeaderValue};

use crate::answer;
use crate::settings::Place;

/// Headers of every file of the page, besides its content security policy. Of the device's features the page
/// may use only the camera.
const POLICIES: [(HeaderName, &str); 4] = [
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "camera=(self), geolocation=(), microphone=()"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Scripts, styles and requests from this origin only; photos from memory (`blob:`), and
/// the page's icon (`data:`); a form, for browsers without scripts; no text as markup (trusted types).
const ON_SERVER: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' blob: data:; manifest-src 'self'; base-uri 'none'; form-action 'self'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Also compiled WebAssembly, and a worker from memory, which has the page's own policy. `device.js` takes
/// away what is too much in it as soon as the device is chosen.
const ON_DEVICE: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
     connect-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; manifest-src 'self'; \
     base-uri 'none'; form-action 'self'; \
     require-trusted-types-for 'script'; trusted-types skincell";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const SERVICE_WORKER: &str = "/service-worker.js";

/// Posts photos without scripts.
pub(crate) const FORM: &str = include_str!("page/form.html");

/// In its place where photos do not leave the device: looking at them there takes scripts.
const NO_SERVICE: &str = "<p class=\"problem\">This page looks at photos on this device, for which it needs JavaScript.</p>";

/// The files: path, content type and text.
#[rustfmt::skip]
const ASSETS: [(&str, &str, &str); 17] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/page/app.webmanifest", "application/manifest+json", include_str!("page/app.webmanifest")),
    ("/page/main.js", SCRIPT, include_str!("page/main.js")),
    ("/page/words.js", SCRIPT, include_str!("page/words.js")),
    ("/page/photo.js", SCRIPT, include_str!("page/photo.js")),
    ("/page/crop.js", SCRIPT, include_str!("page/crop.js")),
    ("/page/camera.js", SCRIPT, include_str!("page/camera.js")),
    ("/page/heatmap.js", SCRIPT, include_str!("page/heatmap.js")),
    ("/page/send.js", SCRIPT, include_str!("page/send.js")),
    ("/page/answer.js", SCRIPT, include_str!("page/answer.js")),
    ("/page/report.js", SCRIPT, include_str!("page/report.js")),
    ("/page/visit.js", SCRIPT, include_str!("page/visit.js")),
    ("/page/device.js", SCRIPT, include_str!("page/device.js")),
    ("/page/worker.js", SCRIPT, include_str!("page/worker.js")),
    (SERVICE_WORKER, SCRIPT, include_str!("page/service-worker.js")),
];

/// Drawings to try, which the page loads when it is asked to.
const EXAMPLES: [(&str, &[u8]); 3] = [
    ("/page/example-1.jpg", include_bytes!("../tests/photos/drawn-acne-1.jpg")),
    ("/page/example-2.jpg", include_bytes!("../tests/photos/drawn-psoriasis-1.jpg")),
    ("/page/example-3.jpg", include_bytes!("../tests/photos/drawn-healthy-2.jpg")),
];

fn example(path: &str) -> Option<&'static [u8]> {
    EXAMPLES.iter().find(|(known, _)| *known == path).map(|(_, bytes)| *bytes)
}

/// The content type and text of the page's file at `path`.
fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    let found = ASSETS.iter().find(|(known, ..)| *known == path);
    found.map(|(_, content_type, text)| (*content_type, *text))
}

/// Whether the page has a file at `path`.
#[must_use]
pub(crate) fn has(path: &str) -> bool {
    asset(path).is_some() || example(path).is_some()
}

/// The page's file at `path` as a response; empty if there is none.
#[must_use]
pub(crate) fn answer(path: &str, place: Place) -> Response<Vec<u8>> {
    let mut response = match (example(path), asset(path)) {
        (Some(bytes), _) => answer::with_type("image/jpeg", bytes.to_vec()),
        (_, Some((content_type, _))) => {
            answer::with_type(content_type, text(path, place).into_bytes())
        }
        (None, None) => Response::default(),
    };
    protect(&mut response, place);
    if path == SERVICE_WORKER {
        // Browsers ask for it again at every visit; a day later is soon enough for a new version.
        let day = HeaderValue::from_static("public, max-age=86400");
        response.headers_mut().insert(header::CACHE_CONTROL, day);
    }
    response
}

/// Adds the policies of the page.
pub(crate) fn protect(response: &mut Response<Vec<u8>>, place: Place) {
    let headers = response.headers_mut();
    for (name, policy) in POLICIES {
        headers.insert(name, HeaderValue::from_static(policy));
    }
    let policy = format!("{}; frame-ancestors 'none'", policy(place));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// The page as a folder that any web host can serve, without a service: paths below it, and contents. The
/// policy is in the HTML, because such a host sets no headers.
#[must_use]
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let file = |(path, ..): &(&'static str, &str, &str)| {
        let mut text = text(path, Place::Device);
        let policy = format!(
            "<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"{ON_DEVICE}\">"
        );
        if *path == "/" {
            text = text.replacen("<meta charset=\"utf-8\">", &policy, 1);
        }
        let name = if *path == "/" { "index.html" } else { path.trim_start_matches('/') };
        (name, text.into_bytes())
    };
    let examples =
        EXAMPLES.iter().map(|(path, bytes)| (path.trim_start_matches('/'), bytes.to_vec()));
    ASSETS.iter().map(file).chain(examples).collect()
}

fn policy(place: Place) -> &'static str {
    match place {
        Place::Server => ON_SERVER,
        Place::Device | Place::Both => ON_DEVICE,
    }
}

/// The text of the file at `path`, with what depends on the settings and the version filled in.
fn text(path: &str, place: Place) -> String {
    let text = asset(path).map(|(_, text)| text).unwrap_or_default();
    let lean = lean(&filled(path, text, place));
    match path.rsplit_once('.') {
        Some((_, "js")) => joined(&lean),
        Some((_, "css")) => without_spaces(&joined(&lean)),
        _ => lean,
    }
}

fn filled(path: &str, text: &str, place: Place) -> String {
    match path {
        "/" => {
            let form = if place == Place::Device { NO_SERVICE } else { FORM };
            text.replacen("data-page=\"server\"", &format!("data-page=\"{}\"", place.name()), 1)
                .replacen("FORM_WITHOUT_SCRIPTS", form, 1)
        }
        SERVICE_WORKER => {
            let mut version = DefaultHasher::new();
            (ASSETS, place.name()).hash(&mut version);
            text.replacen("VERSION_OF_THE_PAGE", &format!("{:016x}", version.finish()), 1)
        }
        _ => text.to_owned(),
    }
}

/// The text without the indentation, the empty lines and the lines of comment that only its readers here
/// need. No file has a text of several lines, nor code on a line with a comment's beginning or end.
fn lean(text: &str) -> String {
    let mut lean = String::with_capacity(text.len());
    let mut in_comment = false;
    for line in text.lines().map(str::trim) {
        let begins = line.starts_with("/*");
        let is_comment = in_comment || begins || line.starts_with("//");
        in_comment = (in_comment || begins) && !line.ends_with("*/");
        if !is_comment && !line.is_empty() {
            lean += line;
            lean.push('\n');
        }
    }
    lean
}

/// Scripts or styles whose lines go on after `;`, `,` and braces, but for lines that may end in a comment. No
/// statement relies on the end of its line.
fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines() {
        joined += line;
        if !line.ends_with([';', '{', '}', ',']) || line.contains("//") {
            joined.push('\n');
        }
    }
    joined
}

/// Styles without the spaces and last semicolons that only readers need. No style has them in a text.
fn without_spaces(style: &str) -> String {
    let marks = [": ", "; ", "{ ", ", ", " {", " }"];
    let style = marks.iter().fold(style.to_owned(), |style, mark| style.replace(mark, mark.trim()));
    style.replace(";}", "}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Largest page, in bytes as sent: a phone on a slow network loads it in a second or two.
    const LARGEST: usize = 90 * 1024;

    /// Every path that the file at `path` refers to, resolved by hand: `page/x` from the HTML, `./x`
    /// from a module.
    fn linked(path: &str) -> BTreeSet<String> {
        let (_, text) = asset(path).unwrap();
        text.split(['"', '\''])
            .filter_map(|word| word.strip_prefix("page/").or_else(|| word.strip_prefix("./")))
            .filter(|name| name.contains('.') && !name.contains('/'))
            .map(|name| format!("/page/{name}"))
            .collect()
    }

    #[test]
    fn the_page_is_complete_and_small() {
        let mut found = BTreeSet::from(["/".to_owned(), SERVICE_WORKER.to_owned()]);
        let mut open = vec!["/".to_owned()];
        while let Some(path) = open.pop() {
            for next in linked(&path) {
                assert!(has(&next), "{path} refers to {next}, which is not served");
                if found.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        assert_eq!(found.len(), ASSETS.len(), "a file is served that nothing refers to: {found:?}");
        let weight: usize = found.iter().map(|path| text(path, Place::Both).len()).sum();
        println!("the page weighs {weight} bytes");
        assert!(weight <= LARGEST, "the page weighs {weight} bytes");
    }

    #[test]
    fn comments_for_readers_are_not_sent() {
        let text =
            "// a\n/** b\n * c\n */\n  if (x) {\n\n    y = 'z'; // stays\n  }\n/* d */\n* { e }\n";
        assert_eq!(lean(text), "if (x) {\ny = 'z'; // stays\n}\n* { e }\n");
        assert_eq!(joined(&lean(text)), "if (x) {y = 'z'; // stays\n}* { e }");
        let style = "a, b:not([c]) { d: e; f: calc(1px + 2px); }\n";
        assert_eq!(without_spaces(style), "a,b:not([c]){d:e;f:calc(1px + 2px)}\n");
        for (path, _, text) in ASSETS {
            let ticks = |line: &str| line.matches('`').count() % 2;
            assert!(
                text.lines().all(|line| ticks(line) == 0),
                "{path} has a text of several lines"
            );
        }
    }

    /// An unfamiliar photo that is refused had the words of an unknown problem.
    #[test]
    fn every_kind_of_problem_has_words_in_both_languages() {
        let (_, send) = asset("/page/send.js").unwrap();
        let (_, words) = asset("/page/words.js").unwrap();
        let kinds = send.split_once("const KINDS = {").unwrap().1.split_once("};").unwrap().0;
        let kinds: Vec<&str> = kinds
            .lines()
            .filter_map(|line| line.trim().split_once(": ["))
            .map(|(kind, _)| kind)
            .collect();
        assert!(kinds.len() > 10 && kinds.contains(&"unfamiliar"), "{kinds:?}");
        for kind in kinds {
            assert_eq!(words.matches(&format!("\n  {kind}: [")).count(), 2, "{kind}");
        }
    }

    #[test]
    fn what_is_kept_for_later_visits_is_the_whole_page() {
        let worker = text(SERVICE_WORKER, Place::Device);
        for (path, ..) in ASSETS.iter().filter(|(path, ..)| *path != SERVICE_WORKER) {
            let name = if *path == "/" { "./" } else { path.trim_start_matches('/') };
            assert!(worker.contains(&format!("'{name}'")), "{name} is not kept");
        }
        assert_ne!(worker, text(SERVICE_WORKER, Place::Both), "another page is another version");
    }

    #[test]
    fn the_page_complies_with_its_policy() {
        let (_, html) = asset("/").unwrap();
        for forbidden in ["http://", "https://", "<style", " style=", " onclick=", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden} would be blocked or leave this host");
        }
        for place in [Place::Server, Place::Device, Place::Both] {
            let page = answer("/", place);
            let policy = page.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'"));
            assert_eq!(policy.contains("wasm-unsafe-eval"), place != Place::Server);
            let html = String::from_utf8(page.into_body()).unwrap();
            assert!(html.contains(&format!("data-page=\"{}\"", place.name())));
        }
    }

    #[test]
    fn the_folder_has_its_policy_in_the_html() {
        let files = files();
        let (_, html) = files.iter().find(|(name, _)| *name == "index.html").unwrap();
        let html = String::from_utf8_lossy(html);
        assert!(
            html.contains("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'")
        );
        assert!(html.contains("data-page=\"device\""));
        assert_eq!(files.len(), ASSETS.len() + EXAMPLES.len());
    }
}
