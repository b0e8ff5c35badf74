//! The page at `/`: hand-written files compiled into the component, with a policy that lets the browser
//! load nothing else.

use http::Response;
use http::header::{self, HeaderName, HeaderValue};

use crate::answer;

/// Headers of every file of the page. They allow scripts, styles and requests from this origin only; photos
/// from memory (`blob:`); no text as markup (trusted types); and of the device's features only the camera.
const POLICIES: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "camera=(self), geolocation=(), microphone=()"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The content type and text of the page's file at `path`.
#[must_use]
pub(crate) fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page/style.css" => ("text/css; charset=utf-8", include_str!("page/style.css")),
        "/page/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        "/page/main.js" => (SCRIPT, include_str!("page/main.js")),
        "/page/words.js" => (SCRIPT, include_str!("page/words.js")),
        "/page/photo.js" => (SCRIPT, include_str!("page/photo.js")),
        "/page/crop.js" => (SCRIPT, include_str!("page/crop.js")),
        "/page/camera.js" => (SCRIPT, include_str!("page/camera.js")),
        "/page/heatmap.js" => (SCRIPT, include_str!("page/heatmap.js")),
        "/page/send.js" => (SCRIPT, include_str!("page/send.js")),
        _ => return None,
    })
}

/// The page's file at `path` as a response; empty if there is none.
#[must_use]
pub(crate) fn answer(path: &str) -> Response<Vec<u8>> {
    let (content_type, text) = asset(path).unwrap_or(("text/plain", ""));
    let mut response = answer::with_type(content_type, text.as_bytes().to_vec());
    for (name, policy) in POLICIES {
        response.headers_mut().insert(name, HeaderValue::from_static(policy));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Largest page, in bytes as sent: a phone on a slow network loads it in a second or two.
    const LARGEST: usize = 64 * 1024;

    /// Every path that the file at `path` refers to, resolved by hand: `page/x` from the HTML, `./x`
    /// from a module.
    fn linked(path: &str) -> BTreeSet<String> {
        let (_, text) = asset(path).unwrap();
        text.split(['"', '\''])
            .filter_map(|word| word.strip_prefix("page/").or_else(|| word.strip_prefix("./")))
            .map(|name| format!("/page/{name}"))
            .collect()
    }

    #[test]
    fn the_page_is_complete_and_small() {
        let mut found = BTreeSet::from(["/".to_owned()]);
        let mut open = vec!["/".to_owned()];
        while let Some(path) = open.pop() {
            for next in linked(&path) {
                assert!(asset(&next).is_some(), "{path} refers to {next}, which is not served");
                if found.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        assert_eq!(found.len(), 10, "a file is served that nothing refers to: {found:?}");
        let weight: usize = found.iter().map(|path| asset(path).unwrap().1.len()).sum();
        assert!(weight <= LARGEST, "the page weighs {weight} bytes");
    }

    #[test]
    fn the_page_complies_with_its_policy() {
        let (_, html) = asset("/").unwrap();
        for forbidden in ["http://", "https://", "<style", " style=", " onclick=", "javascript:"] {
            assert!(!html.contains(forbidden), "{forbidden} would be blocked or leave this host");
        }
        let page = answer("/");
        let policy = &page.headers()["content-security-policy"];
        assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
    }
}
