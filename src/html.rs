//! Pages without scripts: their frame, and the escaping of what comes from clients and cards.

use std::borrow::Cow;

use http::{Response, StatusCode};

use crate::answer;
use crate::page;
use crate::settings::Settings;

/// A whole page under the title `title`. It has the policy of `/`.
pub(crate) fn page(
    settings: &Settings,
    status: StatusCode,
    title: &str,
    content: &str,
) -> Response<Vec<u8>> {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>skincell: {title}</title>\n\
         <link rel=\"icon\" href=\"page/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"page/style.css\">\n</head>\n<body class=\"plain-page\">\n\
         <header><p class=\"brand\"><a href=\"./\">skincell</a></p></header>\n\
         <aside class=\"notice\" aria-label=\"Please note\"><p><strong>Not a medical device: it cannot tell \
         you whether you are ill.</strong> If something on your skin worries you, see a doctor.</p></aside>\n\
         <main>\n<h1>{title}</h1>\n{content}</main>\n</body>\n</html>\n"
    );
    let mut response = answer::with_type("text/html; charset=utf-8", text.into_bytes());
    *response.status_mut() = status;
    page::protect(&mut response, settings.page);
    response
}

/// The text with HTML's special characters escaped, for elements and quoted attributes.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other => safe.push(other),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_escaped() {
        assert_eq!(escaped("<a b='\"'>&c"), "&lt;a b=&#39;&quot;&#39;&gt;&amp;c");
        assert_eq!(escaped("ảnh 1.jpg"), "ảnh 1.jpg");
    }
}
