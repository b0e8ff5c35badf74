//! Parses the parameters of a header field, `value; name=value; name="value"`, as clients write them.
//!
//! RFC 9110 (5.6.6) requires quotes for a value with `=`, `/`, `:` or a space. Many clients do not quote,
//! so here an unquoted value ends only at the next `;`.

/// A parameter: its name in lower case, and its value without quotes.
pub(crate) type Parameter = (String, String);

/// The parameters after the first `;` of a field, in order.
pub(crate) fn parameters(field: &str) -> Vec<Parameter> {
    let mut rest = field.split_once(';').map_or("", |(_, rest)| rest);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(['=', ';']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => value(after),
            None => (String::new(), after),
        };
        let name = name.trim().to_ascii_lowercase();
        if !name.is_empty() {
            found.push((name, value));
        }
        // Text between a closing quote and the next `;` is ignored.
        rest = after.split_once(';').map_or("", |(_, rest)| rest);
    }
    found
}

/// The value of the first parameter `name`, given in lower case.
pub(crate) fn parameter(field: &str, name: &str) -> Option<String> {
    parameters(field).into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

/// The value at the start of `text`, and the rest.
fn value(text: &str) -> (String, &str) {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(';').unwrap_or(text.len()));
        return (value.trim_end().to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match (letter, letters.peek()) {
            ('"', _) => return (value, quoted.get(at + 1..).unwrap_or_default()),
            // Only these two can be escaped; the backslash in `C:\photo.jpg` is literal.
            ('\\', Some((_, next @ ('"' | '\\')))) => {
                value.push(*next);
                letters.next();
            }
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_common_clients_are_parsed() {
        let cases: [(&str, &[(&str, &str)]); 18] = [
            ("multipart/form-data", &[]),
            ("multipart/form-data; boundary=abc", &[("boundary", "abc")]),
            (
                "multipart/form-data;boundary=abc;charset=UTF-8",
                &[("boundary", "abc"), ("charset", "UTF-8")],
            ),
            ("multipart/form-data; BOUNDARY = abc ; x=y", &[("boundary", "abc"), ("x", "y")]),
            ("multipart/form-data; boundary=\"a b\"", &[("boundary", "a b")]),
            ("multipart/form-data; boundary=a b", &[("boundary", "a b")]),
            (
                "multipart/form-data; boundary====12:34/56?=; a=1",
                &[("boundary", "===12:34/56?="), ("a", "1")],
            ),
            ("multipart/form-data; ; boundary=abc;", &[("boundary", "abc")]),
            ("form-data; name=image; filename=a.jpg", &[("name", "image"), ("filename", "a.jpg")]),
            (
                "form-data; filename=\"x; name=other.jpg\"; name=\"image\"",
                &[("filename", "x; name=other.jpg"), ("name", "image")],
            ),
            ("form-data; name=\"a\\\"b\\\\c\"", &[("name", "a\"b\\c")]),
            (
                "form-data; name=\"image\"; filename=\"C:\\pictures\\a.jpg\"",
                &[("name", "image"), ("filename", "C:\\pictures\\a.jpg")],
            ),
            (
                "form-data; name=image; filename*=UTF-8''%e2%82%ac.jpg",
                &[("name", "image"), ("filename*", "UTF-8''%e2%82%ac.jpg")],
            ),
            ("form-data; name=\"image", &[("name", "image")]),
            (
                "form-data; name=\"image\" junk; filename=\"\"",
                &[("name", "image"), ("filename", "")],
            ),
            ("form-data; name", &[("name", "")]),
            ("form-data; =x; name=y", &[("name", "y")]),
            ("form-data; name=\"ảnh\"", &[("name", "ảnh")]),
        ];
        for (field, expect) in cases {
            let found = parameters(field);
            let found: Vec<(&str, &str)> =
                found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expect, "{field}");
        }
        assert_eq!(parameter("a; b=1; b=2", "b").as_deref(), Some("1"));
        assert_eq!(parameter("a; b=1", "c"), None);
    }
}
