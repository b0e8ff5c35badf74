//! Fixed answers of a manifest, which need no component.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An answer that needs no component.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct StaticResponse {
    /// HTTP status; 200 by default.
    #[serde(default = "ok_status")]
    pub status_code: u16,
    /// Header fields. Names that differ only in case are values of one field.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub body: Option<String>,
    /// Keys that nothing reads. Spin ignores them.
    #[serde(flatten, skip_serializing)]
    pub unread: BTreeMap<String, IgnoredAny>,
}

impl StaticResponse {
    /// The head of the answer.
    ///
    /// # Errors
    /// When the status is below 200 or above 999, a header field is malformed, or a `content-length` is not
    /// the body's.
    pub fn head(&self) -> anyhow::Result<http::response::Parts> {
        let mut head = http::Response::new(()).into_parts().0;
        let status = http::StatusCode::from_u16(self.status_code).ok();
        let Some(status) = status.filter(|status| !status.is_informational()) else {
            anyhow::bail!(
                "status_code {} is not between 200 and 999; after one of 100 to 199 another answer would follow",
                self.status_code
            );
        };
        head.status = status;
        for (name, value) in &self.headers {
            let (Ok(parsed), Ok(sent)) =
                (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(value))
            else {
                anyhow::bail!("the header {name:?} with the value {value:?} cannot be sent");
            };
            let length = self.body.as_ref().map_or(0, String::len);
            let is_length = parsed == http::header::CONTENT_LENGTH;
            if is_length && (head.headers.contains_key(&parsed) || *value != length.to_string()) {
                anyhow::bail!(
                    "the header {name:?} says {value:?}, and the body has {length} bytes; leave the header out, \
                     it is added"
                );
            }
            head.headers.append(parsed, sent);
        }
        Ok(head)
    }
}

fn ok_status() -> u16 {
    200
}

#[cfg(test)]
mod tests {
    use super::StaticResponse;

    fn head(text: &str) -> anyhow::Result<http::response::Parts> {
        toml::from_str::<toml::Table>(text)?.try_into::<StaticResponse>()?.head()
    }

    #[test]
    fn names_that_differ_in_case_are_values_of_one_field() {
        let head = head("[headers]\nset-cookie = \"b=2\"\nSet-Cookie = \"a=1\"\n").unwrap();
        let cookies: Vec<_> = head.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
    }

    #[test]
    fn answers_that_cannot_be_sent_are_refused() {
        for (text, expected) in [
            ("status_code = 100", "status_code 100 is not between 200 and 999"),
            ("status_code = 199", "not between 200 and 999"),
            ("status_code = 1000", "not between 200 and 999"),
            ("body = \"xyz\"\n[headers]\ncontent-length = \"99\"", "the body has 3 bytes"),
            ("[headers]\ncontent-length = \"1\"", "the body has 0 bytes"),
        ] {
            let error = head(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for text in ["body = \"xyz\"\n[headers]\nContent-Length = \"3\"", "unknown = 1", ""] {
            assert!(head(text).is_ok(), "{text}");
        }
    }
}
